"""Build and verify each form in which datasets lie on disks, from files laid out as published, and time the planning.

    python benchmarks/forms.py --src data/celeba

writes benchmarks/results/forms.md; two minutes. The photos are drawn. `--src` is a CelebA with its published label
files, whose index, label and plan are timed beside those of Parquet files of as many rows with tiny images.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import figures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facepack.builder import Place, build
from facepack.configuration import Configuration
from facepack.description import load_dataset
from facepack.drawn import synthetic
from facepack.manifest import Status, total
from facepack.open_rows import OwnTable
from facepack.verification import verify

RESULT = Path(__file__).parent / "results" / "forms.md"
NUM_DRAWN = 60
NUM_ROWS = 202_599
DRAWN = (
    "celeba",
    "cacd",
    "afad",
    "appa_real",
    "utkface",
    "fairface",
    "lfw",
    "ffhq",
    "vggface2",
    "imdb_wiki",
    "adience",
)
MOODS = ("glad", "sad")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_TIMED = """
import sys, time
from facepack.configuration import Configuration
from facepack.prepare import prepare_build
begun = time.perf_counter()
rows = len(prepare_build(Configuration.of("celeba", classes="rarest4"), src=sys.argv[1]).index.table)
seconds = time.perf_counter() - begun
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(rows, seconds, int(peak) / 1024)
"""


@dataclass(frozen=True)
class Form:
    """A form: what it is called, the dataset, and how its files are laid out in an empty folder."""

    name: str
    dataset: str
    lay_out: Callable[[Path], None]
    labels: str = ""
    """The table of --labels, beside the folder."""
    options: dict[str, str] = field(default_factory=dict)


def photos(folder: Path) -> list[bytes]:
    """Drawn photos."""
    synthetic.draw("folder", folder, num_images=NUM_DRAWN)
    return [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]


def files_of(place: Path) -> dict[str, bytes]:
    """All files below a folder, which is emptied."""
    files = {
        path.relative_to(place).as_posix(): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()
    }
    for name in files:
        (place / name).unlink()
    return files


def celeba_zip(folder: Path) -> None:
    """CelebA whose photos are in a .zip in Img/, with its label files in Anno/."""
    synthetic.draw("celeba", folder, num_images=NUM_DRAWN)
    files = files_of(folder)
    for name in ("Img", "Anno"):
        (folder / name).mkdir()
    with zipfile.ZipFile(folder / "Img" / "img_align_celeba.zip", "w") as opened:
        for name, content in files.items():
            if name.startswith("img_align_celeba/"):
                opened.writestr(name, content)
            elif "/" not in name:
                (folder / "Anno" / name).write_bytes(content)


def celeba_parquet(folder: Path, number: int = NUM_DRAWN, *, tiny: bool = False) -> None:
    """CelebA as flwrlabs/celeba has it on the Hugging Face Hub; `tiny` images are no images."""
    with tempfile.TemporaryDirectory() as place:
        images = [b"%d" % number for number in range(500)] if tiny else photos(Path(place))
    rng = np.random.default_rng(0)
    (folder / "data").mkdir(parents=True)
    numbers = np.arange(number)
    for split, part in zip(
        ("train", "valid", "test"), np.split(numbers, [int(number * 0.8), int(number * 0.9)]), strict=True
    ):
        rows = [{"bytes": images[n % len(images)] + b"%d" % n, "path": f"{n + 1:06d}.jpg"} for n in part.tolist()]
        columns = {"image": pa.array(rows, IMAGE), "celeb_id": part // 4 + 1}
        columns |= {name: rng.random(len(part)) < 0.2 for name in load_dataset("celeba").attributes}
        pq.write_table(pa.table(columns), folder / "data" / f"{split}-00000-of-00001.parquet", row_group_size=100)


def hub_parquet(folder: Path) -> None:
    """Any dataset of the Hub: images, and labels as ClassLabel."""
    images = [{"bytes": photo, "path": None} for photo in photos(folder)]
    files_of(folder)
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(MOODS)}}
    table = pa.table({"image": pa.array(images, IMAGE), "label": [n % 2 for n in range(len(images))]})
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "photos.parquet")


def webdataset(folder: Path, suffix: str = "cls") -> None:
    """Shards of .jpg and .cls or .json."""
    for number, photo in enumerate(photos(folder)):
        if number == 0:
            files_of(folder)
        split, mood = ("train", "val")[number % 5 == 0], MOODS[number % 2]
        text = json.dumps({"mood": mood, "age": number}) if suffix == "json" else f"{number % 2}"
        with tarfile.open(folder / f"{split}-{number % 2:06d}.tar", "a") as opened:
            for kind, content in (("jpg", photo), (suffix, text.encode())):
                info = tarfile.TarInfo(f"{number:06d}.{kind}")
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))


def labelled(folder: Path, table: str, key: str = "file_name") -> None:
    """Photos in one folder, and a table of them."""
    contents = photos(folder)
    files_of(folder)
    rows = [{key: f"{n:03d}.jpg", "mood": MOODS[n % 2], "age": n} for n in range(len(contents))]
    for row, content in zip(rows, contents, strict=True):
        (folder / f"{row[key]}").write_bytes(content)
    path = folder / table
    if table.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif table.endswith("jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = ";" if key == "photo" else ","
        lines = [separator.join(map(str, row)) for row in ((*rows[0],), *(row.values() for row in rows))]
        path.write_text("\n".join(lines))


def flat(folder: Path) -> None:
    """Photos in one folder, without labels."""
    labelled(folder, "labels.csv")
    (folder / "labels.csv").unlink()


def own_description(folder: Path) -> None:
    """Photos whose names say what they are, and a description of that."""
    labelled(folder, "labels.csv")
    (folder / "labels.csv").unlink()
    for number, path in enumerate(sorted(folder.glob("*.jpg"))):
        path.rename(folder / f"{MOODS[number % 2]}_{path.name}")
    text = "[labels.mood]\nkind = 'category'\n[[index]]\nkind = 'paths'\nabout = '<mood>_<number>.jpg'\n"
    (folder / "moods.toml").write_text(text + "patterns = [{ pattern = '(?P<mood>[a-z]+)_[0-9]+[.]jpg' }]\n")


def forms() -> list[Form]:
    """All forms, in the order of the table."""

    def drawn(name: str) -> Callable[[Path], None]:
        return lambda folder: synthetic.draw(name, folder, num_images=NUM_DRAWN)

    return [
        *(Form(f"{load_dataset(name).title}, as its publishers have it", name, drawn(name)) for name in DRAWN),
        Form("CelebA, photos in Img/*.zip and label files in Anno/", "celeba", celeba_zip),
        Form("CelebA, Parquet of the Hugging Face Hub", "celeba", celeba_parquet),
        Form("Parquet of any dataset of the Hub, ClassLabel", "folder", hub_parquet),
        Form("WebDataset, .jpg + .cls", "folder", webdataset),
        Form("WebDataset, .jpg + .json", "folder", lambda folder: webdataset(folder, "json")),
        Form("imagefolder, metadata.csv", "folder", lambda folder: labelled(folder, "metadata.csv")),
        Form("imagefolder, metadata.jsonl", "folder", lambda folder: labelled(folder, "metadata.jsonl")),
        Form("imagefolder, metadata.parquet", "folder", lambda folder: labelled(folder, "metadata.parquet")),
        Form("--labels, CSV with semicolons", "folder", lambda folder: labelled(folder, "my.csv", "photo"), "my.csv"),
        Form("--labels, JSON lines", "folder", lambda folder: labelled(folder, "my.jsonl", "img"), "my.jsonl"),
        Form("--labels, Parquet", "folder", lambda folder: labelled(folder, "my.parquet", "path"), "my.parquet"),
        Form("folders of splits and classes", "folder", drawn("folder")),
        Form("one folder without labels, --classes none", "folder", flat, options={"classes": "none"}),
        Form("a description of one's own, moods.toml", "moods.toml", own_description),
    ]


def row_of(form: Form, place: Path) -> str:
    """Lay a form out, build it, verify it: a row of the table."""
    folder, out = place / "source", place / "build"
    folder.mkdir(parents=True)
    form.lay_out(folder)
    dataset = str(folder / form.dataset) if form.dataset.endswith(".toml") else form.dataset
    configuration = Configuration.of(dataset, size=64, **form.options)  # type: ignore[arg-type]
    own = OwnTable(str(folder / form.labels) if form.labels else "")
    made = build(configuration, place=Place(str(folder), str(out), workers=0, labels=own)).build
    problems = verify(str(out), deep=True).problems
    splits = ", ".join(
        f"{total(made.counts, split=split, statuses=[Status.PACKED])} {split}" for split in ("train", "valid", "test")
    )
    classes = f"{len(made.class_names)}" if made.class_names else "none"
    return f"| {form.name} | {total(made.counts)} | {splits} | {classes} | {'; '.join(problems) or 'yes'} |"


def timed(name: str, src: Path | str, limit_s: float) -> str:
    """Seconds and memory of index, label and plan in a process of its own: a row of the table."""
    output = subprocess.run([sys.executable, "-c", _TIMED, str(src)], check=True, capture_output=True, text=True).stdout
    rows, seconds, megabytes = output.split()
    figures = f"{float(seconds):.2f} s | at most {limit_s:g} s | {float(megabytes):.0f} MB | at most 500 MB"
    return f"| {name} | {int(rows):,} | {figures} |"


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--src", default="", help="a CelebA with its label files, for the timing of text")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="rows of the Parquet files that are timed")
    settings = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    others = [figures.others_at_work(num_cores=cores)]
    command = f"python benchmarks/forms.py{' --src data/celeba' if settings.src else ''}"
    headline = figures.headline(figures.about(num_cores=cores), command=command, others_cores=others)
    lines = ["# Forms that are built and verified", "", headline, "", "| form | rows | packed | classes | verified |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    with tempfile.TemporaryDirectory() as place:
        for number, form in enumerate(forms()):
            lines.append(row_of(form, Path(place) / f"{number}"))
            print(lines[-1], flush=True)
        celeba_parquet(Path(place) / "timed", settings.rows, tiny=True)
        lines += ["", "## Index, label, plan", "", "| source | rows | time | goal | memory | goal |"]
        lines += ["| --- | --- | --- | --- | --- | --- |"]
        lines.append(timed("Parquet files with embedded images", Path(place) / "timed", limit_s=4))
        if settings.src:
            lines.append(timed("published text files", settings.src, limit_s=2))
    RESULT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines[-4:]))


if __name__ == "__main__":
    main()
