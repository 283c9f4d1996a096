"""Proves a refactoring: the same bytes of four builds and the same losses of two recipes, on two checkouts.

python benchmarks/refactoring.py --before ../before --src data

`--before` is a checkout of the commit to compare with (git worktree add ../before COMMIT); `--src` holds celeba/ (with
img_celeba/, uncropped), simpsons/ and utkface/. Each checkout builds and trains by its own command line, in the same
environment.
"""

import argparse
import csv
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parents[1]

BUILDS = {
    "simpsons": "simpsons --src {src}/simpsons --classes commonest4 --size 32 --limit-per-class 200",
    "celeba": "celeba --src {src}/celeba --classes rarest4 --size 48 --align none",
    "utkface": "utkface --src {src}/utkface --age-bins 1-4,5-27,28- --limit-per-class 200 --size 64 --encoding raw",
    "chips": "celeba --images wild --src {src}/celeba --align chip --size 64 --limit 200 --split 80/10/10",
}
"""Builds by name: the arguments of facepack build."""

RUNS = {
    "rarest4": "celeba_rarest4_modern --data {out}/celeba --set epochs=2",
    "ages": "age_modern --data {out}/utkface --set epochs=2",
}
"""Runs by name: the arguments of facepack train."""


def made(checkout: Path, *, src: Path, out: Path) -> dict[str, str]:
    """All digests of shards and all losses that a checkout gives, by name."""
    results: dict[str, str] = {}
    for name, arguments in BUILDS.items():
        facepack(checkout, f"build {arguments} --out {{out}}/{name} --workers 0", src=src, out=out)
        for path in sorted((out / name).glob("*.*")):
            if path.suffix in (".tar", ".idx"):
                results[f"{name}/{path.name}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    for name, arguments in RUNS.items():
        facepack(checkout, f"train {arguments} --out {{out}}/run-{name} --device cpu", src=src, out=out)
        with (out / f"run-{name}" / "metrics.csv").open() as file:
            for row in csv.DictReader(file):
                losses = f"train {row['train_loss']} valid {row.get('valid_loss', 'none')}"
                results[f"{name}, epoch {int(row['epoch']) + 1}"] = losses
    return results


def facepack(checkout: Path, arguments: str, *, src: Path, out: Path) -> None:
    """Run a command of a checkout; stops with what it printed where it fails."""
    words = arguments.format(src=src, out=out).split()
    # Python's own list of folders comes before an editable installation of another checkout.
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [sys.executable, "-m", "facepack", *words]
    ended = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{checkout}: facepack {' '.join(words)}\n{ended.stdout}{ended.stderr}")


def main() -> None:
    """Compare, print what differs, and end with 1 where something does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, required=True)
    parser.add_argument("--after", type=Path, default=HERE)
    parser.add_argument("--src", type=Path, required=True)
    given = parser.parse_args()
    results = []
    for checkout in (given.before, given.after):
        with tempfile.TemporaryDirectory() as folder:
            results.append(made(checkout.resolve(), src=given.src.resolve(), out=Path(folder)))
    before, after = results
    differing = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    for name in differing:
        print(f"differs: {name}: {before.get(name)} before, {after.get(name)} after")
    files = sum(name.endswith((".tar", ".idx")) for name in after)
    for name, value in after.items():
        if not name.endswith((".tar", ".idx")):
            print(f"{name}: {value}")
    print(f"{files} files of {len(BUILDS)} builds, {len(after) - files} epochs of {len(RUNS)} runs: ", end="")
    print(f"{len(differing)} differ" if differing else "all the same")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
