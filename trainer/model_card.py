"""Model card: what a network predicts, for which images, how well, and how it is used without facepack, as Markdown."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from facepack import manifest
from facepack.description import dataset_names
from facepack.manifest import Status
from trainer.data import TrainedOn
from trainer.run_record import RunRecord

CARD_FILE = "README.md"

_PREPARED = """\
    width, height = json.loads(metadata["size"])
    mean, std = (np.array(json.loads(metadata[name]), np.float32) for name in ("mean", "std"))
    image = Image.open("photo.jpg").convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = (np.asarray(image, np.float32) / 255 - mean) / std
    images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32)
"""
_USES = {
    ".onnx": """\
    import json

    import numpy as np
    import onnxruntime
    from PIL import Image

    session = onnxruntime.InferenceSession("{file}")
    metadata = session.get_modelmeta().custom_metadata_map
{prepared}
    logits, predictions = session.run(["logits", "predictions"], {{"images": images}})
    print(dict(zip(json.loads(metadata["names"]) or [metadata["target"]], predictions[0].tolist())))
""",
    ".pt2": """\
    import json

    import numpy as np
    import torch
    from PIL import Image

    extra = {{"facepack.json": ""}}
    network = torch.export.load("{file}", extra_files=extra).module()
    metadata = json.loads(extra["facepack.json"])
{prepared}
    logits, predictions = network(torch.from_numpy(images))
    print(dict(zip(json.loads(metadata["names"]) or [metadata["target"]], predictions[0].tolist())))
""",
    ".safetensors": """\
    from safetensors import safe_open

    with safe_open("{file}", framework="pt") as file:
        metadata = file.metadata()
        weights = {{name: file.get_tensor(name) for name in file.keys()}}

The weights are those of the network that `metadata["network"]` names, under its own names. Divide its logits by
`metadata["temperature"]`.
""",
}


def text_of(folder: Path, metadata: dict[str, str], *, file_name: str, comparison: str) -> str:
    """The card of the exported network of a run."""
    record = RunRecord.read(folder)
    run = record.run
    names = ", ".join(run.names) or f"a number, {run.recipe.task.target}"
    sections = [
        "---\ntags:\n- facepack\n- image-classification\n---",
        f"# {record.name}",
        f"Predicts {names}. Recipe `{run.recipe_name}`, network `{run.recipe.network}` "
        f"({run.num_weights:,} weights), the best of its epochs: number {int(metadata['epoch'])}.",
        "## Images",
        "\n".join(_images(metadata)),
        "## How right it is",
        "\n".join(_figures(record)),
        "## Trained on",
        "\n".join(line for build in run.builds for line in _build_lines(build)),
        "## Use",
        _USES[PurePosixPath(file_name).suffix].format(file=file_name, prepared=_PREPARED).rstrip(),
        f"The file was {comparison}." if "not" not in comparison else f"The file was {comparison}, so check it first.",
        "## Limits",
        _limits(record),
    ]
    return "\n\n".join(sections) + "\n"


def _images(metadata: dict[str, str]) -> Iterator[str]:
    width, height = json.loads(metadata["size"])
    crop = json.loads(metadata["crop"])
    yield f"- RGB, {width}x{height} pixels, normalised by mean {metadata['mean']} and std {metadata['std']} of 0..1"
    if crop["align"] == "none":
        yield f"- photos are taken whole, resized to {crop['size']} ({crop['fit']})"
    else:
        yield f"- the face is cut out first: {', '.join(f'{name} {value}' for name, value in crop.items())}"
    if json.loads(metadata["steps"]):
        yield f"- then {', '.join(json.loads(metadata['steps']))}"
    if json.loads(metadata["thresholds"]):
        yield f"- thresholds of the attributes for balanced accuracy: {metadata['thresholds']}"


def _figures(record: RunRecord) -> Iterator[str]:
    """A table of the headline by split; a line where nothing was scored."""
    if not record.results:
        yield "It was not scored: the build has neither a valid nor a test split."
        return
    yield "| split | images | figure | value | without looking |"
    yield "|---|---|---|---|---|"
    for split, results in record.results.items():
        for figure in results.headline():
            yield f"| {split} | {results.num:,} | {figure.name} | {figure.value} | {figure.baseline} |"


def _build_lines(build: TrainedOn) -> Iterator[str]:
    configuration = build.configuration
    num = manifest.total(build.counts, split="train", statuses=[Status.PACKED])
    is_known = configuration.description or configuration.dataset in dataset_names()
    published = configuration.described if is_known else None
    title = published.title if published else configuration.dataset
    yield f"- {title}: {num:,} images (build {build.plan_digest[:16]})"
    if published:
        yield f"  - terms of the photos: {published.terms} {published.homepage}".rstrip()


def _limits(record: RunRecord) -> str:
    start = record.run.recipe.start.weights
    began = f" It began with the weights {Path(start).name}, whose terms hold as well." if start else ""
    return (
        "The figures hold for photos like those it was trained on; for other cameras, crops and groups of people they "
        "must be measured anew. A prediction about a face is a guess about an image, not a fact about a person: "
        f"the terms of the dataset, and the law where it is used, say what it may serve for.{began}"
    )
