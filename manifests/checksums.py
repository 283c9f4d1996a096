"""For maintainers: write size and sha256 of the files of a dataset or model that are here into its description.

    python manifests/checksums.py celeba --data data/celeba

Also those of archives that `facepack fetch` unpacked there, and how many files they gave. Each file is compared with
its description first: one that is not as published ends the script, and nothing is written.
"""

import argparse
import re
import sys
from pathlib import Path

from facepack.description import Published, dataset_folder, parse_description, parse_model
from facepack.errors import JobError, UsageError
from facepack.published import Archive, archive_of, is_packed, num_files, remembered_archives, state_of
from facepack.storage import Store


def write_checksums(description_file: Path, folder: Path) -> list[str]:
    """Write what is known of the files in a folder into a description; gives the names of these files."""
    published = parse(description_file)
    text, names = description_file.read_text(encoding="utf-8"), []
    for name, facts in facts_of_files(published, folder).items():
        text = with_facts(text, name, facts)
        names.append(name)
    Store(str(description_file.parent)).write(description_file.name, text.encode())
    return names


def parse(description_file: Path) -> Published:
    """The description of a dataset, or of a model in the folder models."""
    is_model = description_file.parent.name == "models"
    return parse_model(description_file) if is_model else parse_description(description_file)


def facts_of_files(published: Published, folder: Path) -> dict[str, dict[str, str]]:
    """Lines of TOML per file that is here, by their fields; `JobError` where one is not as published."""
    unpacked = remembered_archives(folder)
    facts: dict[str, dict[str, str]] = {}
    for file in published.files:
        state = state_of(file, folder, deep=True)
        if state.kind == "wrong":
            raise JobError(f"{state.path}: {state.detail}")
        if is_packed(state):
            facts[file.path] = lines_of(archive_of(state.path))
        elif file.path in unpacked and state.path.exists():
            facts[file.path] = lines_of(unpacked[file.path])
            if state.path.is_dir():
                facts[file.path]["num_files"] = f"{num_files(state.path)}"
    return facts


def lines_of(archive: Archive) -> dict[str, str]:
    """Size and sha256 as they stand in TOML."""
    return {"num_bytes": f"{archive.num_bytes}", "sha256": f'"{archive.sha256}"'}


def with_facts(text: str, path: str, facts: dict[str, str]) -> str:
    """The text of a description with facts of one file set at the end of its block."""
    blocks = re.split(r"(?m)^(?=\[)", text)
    for number, block in enumerate(blocks):
        if block.startswith("[[files]]") and re.search(rf'(?m)^path = "{re.escape(path)}"$', block):
            others = [line for line in block.rstrip("\n").split("\n") if line.partition(" = ")[0] not in facts]
            lines = [*others, *(f"{name} = {value}" for name, value in facts.items())]
            blocks[number] = "\n".join(lines) + block[len(block.rstrip("\n")) :]
    return "".join(blocks)


def main() -> None:
    """Read the command line, write, and print the names of the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a dataset or a model")
    parser.add_argument("--data", type=Path, help="folder of its files (default: where facepack looks for them)")
    parser.add_argument("--descriptions", type=Path, default=Path(__file__).parent, help="default: %(default)s")
    chosen = parser.parse_args()
    file = chosen.descriptions / f"{chosen.name}.toml"
    file = file if file.exists() else chosen.descriptions / "models" / f"{chosen.name}.toml"
    if not file.exists():
        sys.exit(f"error: no {chosen.name}.toml in {chosen.descriptions} or its models")
    try:
        names = write_checksums(file, chosen.data or dataset_folder(chosen.name))
    except (JobError, UsageError) as error:
        sys.exit(f"error: {error}")
    print(f"{file}: {', '.join(names) or 'no file is here'}")  # noqa: T201


if __name__ == "__main__":
    main()
