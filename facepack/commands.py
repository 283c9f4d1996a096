"""Commands: the verbs that list, fetch, build, verify and show datasets, and the demo of all of them."""

import sys
import webbrowser
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import cv2
import typer
from pydantic import TypeAdapter

from facepack import builder, catalogue, describing, fetching, summary, terminal, verification
from facepack.builder import Place
from facepack.choices import MAX_PIXELS, MIN_SIDE_PX
from facepack.configuration import DEFAULT_QUALITY, Configuration
from facepack.describing import How
from facepack.description import (
    dataset_folder,
    dataset_names,
    load_fetched,
    load_published,
    model_names,
    models_folder,
)
from facepack.drawn import synthetic
from facepack.errors import JobError
from facepack.found_labels import Named
from facepack.open_rows import OwnTable
from facepack.prepare import default_source
from facepack.preview import check_out, page_of, write_page
from facepack.ray_options import RayOptions
from facepack.source_check import check_source

_DATA_FOLDER = "$FACEPACK_DATA/DATASET, else data/DATASET"
_DEMO_SETTINGS = ["epochs=18", "lr=0.015"]
"""Fewer and longer steps than the published 250 epochs: drawn faces are easier, and a demo is short."""

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Source = Annotated[str, typer.Option(show_default=_DATA_FOLDER, help="Folder, .zip, .tar or URL of the dataset.")]
Workers = Annotated[
    int | None,
    typer.Option(show_default="as many as cores, where that is faster", help="Processes; 0 is this one, without Ray."),
]
LabelColumn = Annotated[str, typer.Option(show_default="found", help="Column of it in the table of --labels.")]


def show_version(shown: bool) -> None:
    """Print the version and end."""
    if shown:
        terminal.out.print(f"facepack {version('facepack')}")
        raise typer.Exit


def datasets(
    name: Annotated[str, typer.Argument(metavar="DATASET", show_default="all", help="One of them, in detail.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    debug: Debug = False,
) -> None:
    """List the datasets that facepack knows: images, labels, size, terms, how to get them, and what is here.

    Example: facepack datasets celeba
    """
    with terminal.errors_as_lines(debug=debug):
        if name:
            published = load_published(name)
            if as_json:
                terminal.out.print_json(TypeAdapter(type(published)).dump_json(published).decode())
            else:
                terminal.out.print("\n".join(catalogue.page(published, dataset_folder(name))), soft_wrap=True)
                if name in dataset_names() and name in model_names():
                    model = "\n".join(catalogue.page(load_fetched(name), models_folder()))
                    terminal.out.print(f"\nThe model of this name, which facepack fetch gets:\n{model}", soft_wrap=True)
            return
        entries = catalogue.datasets()
        if as_json:
            terminal.out.print_json(data=[asdict(entry) for entry in entries])
            return
        terminal.out.print(catalogue.table(entries))
        terminal.out.print("Models, fetched alike: " + ", ".join(model_names()), soft_wrap=True)
        terminal.out.print("facepack datasets NAME shows one in detail, facepack fetch NAME gets it", soft_wrap=True)


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            metavar="DATASET",
            help="A dataset or a model that facepack datasets lists, or hf://datasets/OWNER/NAME[@REVISION].",
        ),
    ],
    to: Annotated[Path | None, typer.Option(show_default=_DATA_FOLDER, help="Folder for it.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(show_default="all but optional files", help="Files of this kind, such as labels; repeatable."),
    ] = None,
    accept: Annotated[bool, typer.Option("--accept-terms", help="Accept the terms of use, once.")] = False,
    debug: Debug = False,
) -> None:
    """Download a dataset or a model, name what has to be got by hand, and check everything; what is whole stays.

    Example: facepack fetch appa_real --accept-terms
    """
    with terminal.errors_as_lines(debug=debug):
        with terminal.ByteProgress() as progress:
            fetched = fetching.fetch(name, to=to, only=only or (), accept_terms=accept, progress=progress)
        for line in fetched.by_hand:
            terminal.out.print(line, soft_wrap=True)
        if fetched.by_hand:
            raise JobError(f"{name}: {len(fetched.by_hand)} files have to be got by hand, as listed above")
        what = f"{name} ({', '.join(only)})" if only else name
        terminal.out.print(f"{what}: whole, in {fetched.folder}", soft_wrap=True)


def build(
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="A name that facepack datasets lists, or your own description, .toml."),
    ],
    src: Source = "",
    out: Annotated[str, typer.Option(show_default="builds/DATASET-CLASSES", help="Folder or URL to build into.")] = "",
    images: Annotated[
        str,
        typer.Option(
            show_default="the dataset's first", help="Image set of a dataset that has several (celeba: wild)."
        ),
    ] = "",
    classes: Annotated[
        str,
        typer.Option(
            show_default="the dataset's own, or none",
            help="rarestN, commonestN, randomN, all, all,-A,-B, A,B,... or none; COLUMN:... for another column.",
        ),
    ] = "",
    multiple: Annotated[
        Literal["first", "drop"],
        typer.Option(help="An image of several of the classes: of the first in order, or dropped."),
    ] = "first",
    age_bins: Annotated[
        str, typer.Option(show_default="none", help="Classes by age in years, such as 1-4,5-27,28-.")
    ] = "",
    min_per_class: Annotated[
        int | None, typer.Option(show_default="no least", help="Leave out classes of fewer rows.")
    ] = None,
    limit_per_class: Annotated[
        int | None, typer.Option(show_default="no limit", help="At most so many rows per class.")
    ] = None,
    limit: Annotated[int | None, typer.Option(show_default="no limit", help="At most so many rows.")] = None,
    split: Annotated[
        str,
        typer.Option(
            show_default="official, else identity, else 80/10/10",
            help="official, identity or TRAIN/VALID/TEST, also identity:... and index:TRAIN/VALID/TEST.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(help="Decides split, order and random classes.")] = 0,
    size: Annotated[
        str,
        typer.Option(
            show_default="keep; 120 with --align crop, 112 with chip",
            help="Side or WIDTHxHEIGHT in pixels, or keep; --fit says what becomes of other shapes.",
        ),
    ] = "",
    fit: Annotated[
        Literal["squash", "crop", "pad"],
        typer.Option(help="A photo of another shape than --size: squash it, crop its middle, or pad it with black."),
    ] = "squash",
    align: Annotated[
        Literal["none", "crop", "chip"],
        typer.Option(
            help="none; crop: the published square around the one face; chip: turned and scaled, the eyes in place."
        ),
    ] = "none",
    margin: Annotated[
        str,
        typer.Option(
            show_default="15 with --align crop, 25% with chip, 0% with arcface",
            help="Around the face: pixels of the photo, or N%.",
        ),
    ] = "",
    template: Annotated[
        Literal["dlib", "arcface"],
        typer.Option(help="Where chips have eyes, nose and mouth: as dlib, or as ArcFace (insightface) at 112 pixels."),
    ] = "dlib",
    on_several: Annotated[
        Literal["reject", "largest", "all"],
        typer.Option(
            help="A photo of several faces: reject it, take the largest, or all, each with the photo's labels."
        ),
    ] = "reject",
    leave_out: Annotated[
        str, typer.Option(show_default="none", help="File that lists images to leave out, a name on each line.")
    ] = "",
    labels: Annotated[
        str,
        typer.Option(show_default="none", help="Table of your own labels: CSV, TSV, JSON lines or Parquet."),
    ] = "",
    labels_image: LabelColumn = "",
    labels_class: LabelColumn = "",
    labels_split: LabelColumn = "",
    labels_identity: LabelColumn = "",
    labels_age: LabelColumn = "",
    people: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            show_default="none",
            help="Who is on which image, by the people.parquet of facepack people: for --split identity.",
        ),
    ] = "",
    landmarks_from: Annotated[
        Literal["model", "labels"],
        typer.Option(
            "--landmarks-from",
            "--boxes-from",
            help="Cut where a detector finds the face, or by the published box (crop) or landmarks (chip): labels.",
        ),
    ] = "model",
    detector: Annotated[
        Literal["hog", "cnn", "hog+cnn"],
        typer.Option(
            help="hog: frontal faces, fast; cnn: half profiles too, a second or more a photo; "
            "hog+cnn: cnn where hog finds none."
        ),
    ] = "hog",
    landmarks: Annotated[
        str,
        typer.Option(show_default="looked for among the models", help="dlib's five-point landmark model, for chips."),
    ] = "",
    encoding: Annotated[
        Literal["jpeg", "png", "webp", "raw"],
        typer.Option(help="jpeg, png (lossless), webp (lossy, smaller), or raw: uint8 RGB in .npy."),
    ] = "jpeg",
    quality: Annotated[
        int, typer.Option(help="Of jpeg and webp, 1 to 100, for what is encoded anew.")
    ] = DEFAULT_QUALITY,
    max_pixels: Annotated[int, typer.Option(help="Images of more pixels by their header are rejected.")] = MAX_PIXELS,
    min_side: Annotated[int, typer.Option(help="Photos with a shorter side, in pixels, are rejected.")] = MIN_SIDE_PX,
    decode: Annotated[
        Literal["fast", "full"],
        typer.Option(help="JPEGs that are shrunk to a half or less: fast, at a reduced scale, or full."),
    ] = "fast",
    keep_damaged: Annotated[
        bool, typer.Option("--keep-damaged", help="Pack JPEGs that libjpeg complains of, instead of rejecting them.")
    ] = False,
    near_duplicates: Annotated[
        Literal["keep", "drop", "same-split"],
        typer.Option(help="Photos that look alike: keep, drop all but the first by path, or keep in one split."),
    ] = "keep",
    min_face: Annotated[
        float | None,
        typer.Option(show_default="no limit", help="Reject faces whose box has no side of so many pixels."),
    ] = None,
    max_yaw: Annotated[
        float | None,
        typer.Option(show_default="no limit", help="Reject faces turned to a side by more degrees (chips)."),
    ] = None,
    max_roll: Annotated[
        float | None, typer.Option(show_default="no limit", help="Reject faces tilted by more degrees (chips).")
    ] = None,
    min_brightness: Annotated[
        float | None,
        typer.Option(show_default="no limit", help="Reject pictures with a lower mean grey level, of 255."),
    ] = None,
    max_brightness: Annotated[
        float | None, typer.Option(show_default="no limit", help="Reject pictures with a higher mean grey level.")
    ] = None,
    min_contrast: Annotated[
        float | None, typer.Option(show_default="no limit", help="Reject pictures whose grey levels deviate by less.")
    ] = None,
    min_sharpness: Annotated[
        float | None,
        typer.Option(show_default="no limit", help="Reject pictures with a lower variance of the Laplacian."),
    ] = None,
    samples_per_shard: Annotated[int, typer.Option(help="At most so many samples in one tar.")] = 1000,
    workers: Workers = None,
    ray_address: Annotated[
        str,
        typer.Option(
            show_default="$RAY_ADDRESS, else a Ray of its own",
            help="A Ray cluster: HOST:PORT of its head, auto or local.",
        ),
    ] = "",
    min_workers: Annotated[
        int | None,
        typer.Option(show_default="all", help="Workers to ask a cluster for at once; more begin as nodes join."),
    ] = None,
    worker_cpus: Annotated[float, typer.Option(help="Cores that Ray counts for a worker.")] = 1.0,
    worker_memory: Annotated[
        str, typer.Option(show_default="not counted", help="Memory that Ray counts for a worker, such as 2GB.")
    ] = "",
    ray_env: Annotated[
        str,
        typer.Option(
            metavar="FILE", show_default="none", help="Variables, packages and folders for the workers, in Ray's form."
        ),
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Try rejected images again.")] = False,
    describe: Annotated[
        bool, typer.Option("--describe", help="Describe every face, too, as facepack describe does.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only index, label and plan; write nothing.")] = False,
    debug: Debug = False,
) -> None:
    """Pack a dataset into shards with a manifest.

    Example: facepack build celeba --classes rarest4 --size 64
    """
    with terminal.errors_as_lines(debug=debug):
        configuration = Configuration.of(
            dataset,
            images=images,
            classes=classes,
            multiple=multiple,
            age_bins=age_bins,
            min_per_class=min_per_class,
            limit_per_class=limit_per_class,
            limit=limit,
            split=split,
            seed=seed,
            size=size,
            fit=fit,
            align=align,
            margin=margin,
            template=template,
            on_several=on_several,
            detector=detector,
            landmarks_from=landmarks_from,
            encoding=encoding,
            quality=quality,
            max_pixels=max_pixels,
            min_side=min_side,
            decode=decode,
            keep_damaged=keep_damaged,
            near_duplicates=near_duplicates,
            min_face=min_face,
            max_yaw=max_yaw,
            max_roll=max_roll,
            min_brightness=min_brightness,
            max_brightness=max_brightness,
            min_contrast=min_contrast,
            min_sharpness=min_sharpness,
            samples_per_shard=samples_per_shard,
        )
        src = src or default_source(configuration.dataset)
        named = Named(labels_image, labels_class, labels_split, labels_identity, labels_age)
        out = out or builder.default_out(configuration)
        own = OwnTable(labels, named)
        ray = RayOptions(ray_address, min_workers, worker_cpus, worker_memory, ray_env)
        place = Place(src, out, workers, ray, force, landmarks, leave_out, own, people)
        if dry_run:
            _show_plan(configuration, place)
        else:
            _build(configuration, place)
            if describe:
                _describe(place)


def _describe(place: Place) -> None:
    """Describe the faces of a build that has just been made, and print what came of it."""
    how = How(place.workers, place.ray, place.landmarks)
    with terminal.silenced_libraries(), terminal.ImageProgress() as progress:
        outcome = describing.describe(place.out, how=how, progress=progress)
    _print_lines(summary.described_lines(outcome))


def _show_plan(configuration: Configuration, place: Place) -> None:
    """Print what a build would hold."""
    prepared = builder.planned(configuration, place=place)
    _print_lines(summary.plan_lines(prepared.plan))
    if not prepared.plan.shards:
        terminal.warn(f"none of the images is in {place.src}: there is nothing to build from yet")


def _build(configuration: Configuration, place: Place) -> None:
    """Build, and print what came of it."""
    with terminal.silenced_libraries(), terminal.ImageProgress() as progress:
        outcome = builder.build(configuration, place=place, progress=progress)
    _print_lines(summary.outcome_lines(outcome))


def _print_lines(lines: list[str]) -> None:
    """Print lines whole, however narrow the terminal is."""
    for line in lines:
        terminal.out.print(line, soft_wrap=True)


def verify(
    build: Annotated[str, typer.Argument(metavar="BUILD", help="Folder or URL of a build.")],
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every image, too; with --src, read every photo.")
    ] = False,
    src: Annotated[
        str, typer.Option(show_default="not looked at", help="The source: is what the build calls missing not there?")
    ] = "",
    debug: Debug = False,
) -> None:
    """Check every promise of a build against its bytes.

    Example: facepack verify builds/celeba-rarest4 --deep
    """
    with terminal.errors_as_lines(debug=debug):
        _verify(build, deep=deep, src=src)


def _verify(location: str, *, deep: bool, src: str = "") -> None:
    """Verify a build and print what disagrees; `JobError` where anything does."""
    cv2.setNumThreads(1)
    with terminal.silenced_libraries(), terminal.SampleProgress() as progress:
        report = verification.verify(location, deep=deep, progress=progress)
        problems = [*report.problems, *(check_source(location, src=src, deep=deep) if src else ())]
    for problem in problems:
        terminal.wrong(problem)
    for warning in report.warnings:
        terminal.warn(warning)
    checked = f"{report.num_samples:,} samples in {report.num_shards:,} shards, {report.num_bytes / 1e6:,.1f} MB"
    if problems:
        raise JobError(f"{location}: {len(problems):,} disagreements in {checked}")
    terminal.out.print(f"verified{' and decoded' if deep else ''}: {checked}", soft_wrap=True)


def preview(
    target: Annotated[str, typer.Argument(metavar="BUILD|DATASET", help="A build (folder or URL), or a dataset.")],
    src: Source = "",
    out: Annotated[Path | None, typer.Option(show_default="NAME-preview.html", help="The page to write.")] = None,
    png: Annotated[bool, typer.Option("--png", help="Write the first bar chart as a PNG, too.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    images: Annotated[
        str, typer.Option(show_default="the dataset's first", help="Image set of a dataset that has several.")
    ] = "",
    classes: Annotated[
        str,
        typer.Option(show_default="the dataset's own, or none", help="Classes of a dataset, as for facepack build."),
    ] = "",
    debug: Debug = False,
) -> None:
    """Show a build, or a dataset before it is built, as one HTML page.

    Example: facepack preview builds/celeba-rarest4 --open
    """
    with terminal.errors_as_lines(debug=debug):
        if out is not None:
            check_out(out)
        path = _preview(target, src=src, images=images, classes=classes, out=out, png=png)
        if show:
            webbrowser.open(path.absolute().as_uri())


def _preview(target: str, *, src: str, out: Path | None, png: bool, images: str = "", classes: str = "") -> Path:
    """Write the page of a build or a dataset, and print where it is."""
    with terminal.silenced_libraries():
        page = page_of(target, src=src, images=images, classes=classes)
    written = write_page(page, out or Path(f"{page.title}-preview.html"), png=png)
    terminal.out.print(f"{written.page}: {written.num_bytes / 1e6:,.1f} MB, {page.about}", soft_wrap=True)
    if written.chart is not None:
        terminal.out.print(f"{written.chart}: {page.charts[0].title.lower()}", soft_wrap=True)
    elif png:
        terminal.note("no chart for --png: neither classes nor attributes nor categories")
    return written.page


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures, the build and the run.")] = Path("demo"),
    num_images: Annotated[int, typer.Option("--images", help="How many faces to draw.")] = 4000,
    workers: Workers = None,
    show: Annotated[
        bool | None, typer.Option("--open/--no-open", show_default="open on a terminal", help="Open the report.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw a small CelebA, build it, verify it, train on it and show what came of it.

    Example: facepack demo
    """
    with terminal.errors_as_lines(debug=debug):
        from trainer import commands  # takes the trainer's libraries along

        commands.check_installed()
        from trainer import recipes

        source, location, run = out / "celeba", out / "celeba-rarest4", out / "run"
        _draw(source, num_images)
        terminal.note(f"facepack build celeba --src {source} --classes rarest4 --size 64 --out {location}")
        configuration = Configuration.of("celeba", classes="rarest4", size="64")
        _build(configuration, Place(str(source), str(location), workers))
        terminal.note(f"facepack verify {location} --deep")
        _verify(str(location), deep=True)
        path = out / "preview.html"
        terminal.note(f"facepack preview {location} --src {source} --out {path}")
        _preview(str(location), src=str(source), out=path, png=True)
        settings = " ".join(f"--set {setting}" for setting in _DEMO_SETTINGS)
        terminal.note(f"facepack train celeba_rarest4 --data {location} --out {run} {settings}")
        recipe = recipes.load("celeba_rarest4", _DEMO_SETTINGS)
        opens = sys.stdout.isatty() if show is None else show
        commands.trained("celeba_rarest4", recipe, data=str(location), out=run, show=opens)


def _draw(folder: Path, num_images: int) -> None:
    """Draw CelebA, unless it is there."""
    if synthetic.num_drawn(folder) != num_images:
        terminal.note(f"drawing {num_images:,} faces with CelebA's attributes into {folder}")
        synthetic.draw("celeba", folder, num_images=num_images)
