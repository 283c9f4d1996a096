"""The tree of the repository in docs/design.md, made from the docstrings of its files.

    make tree

writes it; `python docs/source_tree.py --check` only compares. A file needs no entry here as long as all files that
import it stand under one caption: it stands there, too.
"""

import ast
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path("docs", "design.md")
BEGIN, END = "<!-- tree: made by `make tree` -->", "<!-- end of the tree -->"
WIDTH = 118

CAPTIONS = {
    "facepack": {
        "known: what others published": "catalogue description",
        "fetched: published files on disk": "download fetching hub published unpack",
        "read: files and label files": (
            "ahead archive column_text found_labels index json_columns label_file label_text label_values leave_out "
            "listing matching names open_rows parquet_images parquet_rows path_rows published_rows signature source "
            "split_words storage table_rows webdataset"
        ),
        "planned: what is packed, and where": (
            "bins choices configuration fingerprint hashing label own_description own_people plan plan_file "
            "plan_head prepare"
        ),
        "packed: from photos to shards": (
            "admission align builder card colour cores headers image jpeg labelled_faces lock manifest mmod node_log "
            "perceptual_hash quality ray_options ray_process resume shard template workers"
        ),
        "told apart: who is who": "describing descriptor_network descriptors face_places people people_commands",
        "checked and shown": (
            "manifest_checks manifest_rows near_duplicates page people_pictures pictures preview preview_model reader "
            "source_check summary verification figures"
        ),
        "drawn: datasets for the demo and the tests": "drawn",
        "edge: the command line, the library's surface, errors": "__main__ api cli commands errors shadow terminal",
    },
    "trainer": {
        "loaded: from shards to batches": "augment feed loader loading staging",
        "learnt: what a recipe is made of": (
            "calls checks choosing class_weights facts layers losses models optim other_networks pretraining recipe "
            "recipes sampling stopping suitability task weights"
        ),
        "trained: a run, step by step": (
            "across checkpoint compiling data devices experiments going_on logs lr_finder memory progress ranks "
            "remote_runs runs session steps training watching"
        ),
        "measured: how right, how fast": (
            "bench doubting doubts evaluation folds headspace metrics photos prediction results rivals scores seen"
        ),
        "shown": (
            "across_page comparison contact_sheet evaluation_page exporting mistakes model_card plots prediction_files "
            "report run_record"
        ),
        "edge: the command line, the library's surface": "api commands",
    },
}
"""Files and folders of each package under their captions, by name."""

REST = {
    "manifests/": "Dataset descriptions, one TOML per dataset; manifests/README.md is their reference.",
    "tests/": "Tests by module and by promise; `test_layout.py` and `test_style.py` hold the rules of the code.",
    "docs/": "Design, published systems, the library's surface, and the pictures of the README.",
}
"""Folders that are not listed file by file."""


@cache
def modules() -> dict[str, Path]:
    """All modules of the packages by dotted name, packages among them."""
    names: dict[str, Path] = {}
    for package in CAPTIONS:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.AST, *, with_types: bool = True) -> set[str]:
    """Dotted names of the modules that a file imports anywhere in it; `with_types`: for the type checker, too."""
    ours = modules()
    names: set[str] = set()
    for node in _nodes(tree, with_types=with_types):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in ours else str(node.module) for name in inside}
    return names


def _nodes(tree: ast.AST, *, with_types: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not with_types and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _nodes(node, with_types=with_types)


def captions_of(package: str) -> dict[str, str]:
    """The caption of each file and folder of a package; `SystemExit` names those that have none."""
    captions = {name: caption for caption, names in CAPTIONS[package].items() for name in names.split()}
    importers = _importers(package)
    if missing := sorted(set(captions) - set(importers)):
        sys.exit(f"{package}: no {', '.join(missing)}; take them out of CAPTIONS in docs/source_tree.py")
    while True:
        around = {name: {captions.get(other, "") for other in importers[name]} for name in importers}
        placed = {name: min(around[name]) for name in importers if name not in captions and len(around[name]) == 1}
        placed = {name: caption for name, caption in placed.items() if caption}
        if not placed:
            break
        captions |= placed
    if homeless := sorted(set(importers) - set(captions)):
        about = "; ".join(f"{name} (imported by {', '.join(sorted(importers[name])) or 'none'})" for name in homeless)
        sys.exit(f"{package}: add to a caption of CAPTIONS in docs/source_tree.py: {about}")
    return captions


def _importers(package: str) -> dict[str, set[str]]:
    """Files and folders of a package, each with those that import it."""
    ours = {name: path for name, path in modules().items() if name.startswith(f"{package}.")}
    importers: dict[str, set[str]] = {name.split(".")[1]: set() for name in ours}
    for name, path in ours.items():
        for other in imported(parsed(path)) & set(ours):
            importers[other.split(".")[1]].add(name.split(".")[1])
    return {name: others - {name} for name, others in importers.items()}


def tree() -> str:
    """The tree as text: a line per file under its caption, with the sentence of its docstring."""
    lines: list[str] = []
    for package, captions in CAPTIONS.items():
        place = captions_of(package)
        lines += _entry(f"{package}/", ROOT / package / "__init__.py", depth=0)
        for caption in captions:
            lines += ["", f"  {caption}"]
            for name in sorted(name for name in place if place[name] == caption):
                folder = ROOT / package / name
                if folder.is_dir():
                    lines += _entry(f"{name}/", folder / "__init__.py", depth=2)
                    for path in sorted(folder.glob("[!_]*.py")):
                        lines += _entry(path.name, path, depth=3)
                else:
                    lines += _entry(f"{name}.py", ROOT / package / f"{name}.py", depth=2)
        lines.append("")
    lines.append("benchmarks/")
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        lines += _entry(path.name, path, depth=1)
    lines.append("")
    for folder_name, sentence in REST.items():
        lines += _line(folder_name, sentence, depth=0)
    return "\n".join(lines)


def _entry(name: str, path: Path, *, depth: int) -> list[str]:
    docstring = ast.get_docstring(parsed(path)) or sys.exit(f"{path}: no docstring")
    return _line(name, docstring.split("\n", maxsplit=1)[0], depth=depth)


def _line(name: str, sentence: str, *, depth: int) -> list[str]:
    begin = f"{'  ' * depth}{name}".ljust(28)
    return textwrap.wrap(sentence, WIDTH, initial_indent=f"{begin} ", subsequent_indent=" " * 29)


def page() -> str:
    """docs/design.md with the tree as it is now."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    if not after:
        sys.exit(f"{PAGE}: expected the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{textwrap.indent(tree(), '    ', lambda line: bool(line.strip()))}\n\n{END}{after}"


def main() -> None:
    """Write the tree, or with --check only compare it; exit code 1 where it differs."""
    text = page()
    if "--check" not in sys.argv[1:]:
        (ROOT / PAGE).write_text(text, encoding="utf-8")
    elif text != (ROOT / PAGE).read_text(encoding="utf-8"):
        sys.exit(f"{PAGE}: the tree is not that of the docstrings; run: make tree")


if __name__ == "__main__":
    main()
