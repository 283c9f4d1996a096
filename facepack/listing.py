"""Listing: the files below a folder, with those that are passed over and why."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

HIDDEN = "hidden, or of the system"
PIPES = "pipes, sockets or devices, which are never opened"
DEAD_LINKS = "links to nothing"
CIRCLES = "links to a folder that they lie in"
CLOSED = "folders that cannot be opened"

_OF_SYSTEMS = (
    "__MACOSX|@eaDir|@SynoEAStream|@SynoResource|@Recycle|@Recently-Snapshot|#recycle|#snapshot|lost+found|"
    "$RECYCLE.BIN|RECYCLER|System Volume Information|Network Trash Folder|TheVolumeSettingsFolder|Temporary Items|"
    "Thumbs.db|ehthumbs.db|ehthumbs_vista.db|desktop.ini|Icon\r|__pycache__"
)
_SYSTEM_NAMES = frozenset(name.casefold() for name in _OF_SYSTEMS.split("|"))
"""Folders and files that macOS, Windows, Linux and network drives put beside what is one's own."""

Passed = Mapping[str, Sequence[str]]
"""Paths that are passed over, by reason."""


@dataclass(frozen=True)
class Listing:
    """The files of a place, sorted, and the paths that are passed over, by reason."""

    names: list[str]
    passed: dict[str, list[str]] = field(default_factory=dict)


def is_hidden(name: str) -> bool:
    """True for what begins with a dot or belongs to a system, and for all that lies in such a folder."""
    return any(map(_is_hidden_part, name.split("/")))


def _is_hidden_part(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def without_hidden(names: Iterable[str]) -> Listing:
    """The names without the hidden ones, which are passed over."""
    shown: list[str] = []
    hidden: list[str] = []
    for name in names:
        (hidden if is_hidden(name) else shown).append(name)
    return Listing(sorted(shown), {HIDDEN: sorted(hidden)} if hidden else {})


def listing_of(folder: str) -> Listing:
    """All files below a folder; links are followed, but not in a circle. A missing folder is empty."""
    passed: dict[str, list[str]] = {}
    names = sorted(_walk(folder, "", passed=passed))
    return Listing(names, {reason: sorted(paths) for reason, paths in sorted(passed.items())})


def merged(*parts: Passed) -> dict[str, list[str]]:
    """The paths of several under their reasons."""
    reasons = dict.fromkeys(reason for part in parts for reason in part)
    return {reason: [path for part in parts for path in part.get(reason, ())] for reason in reasons}


def _walk(
    folder: str, prefix: str, above: tuple[str, ...] = (), *, passed: dict[str, list[str]], is_shown: bool = True
) -> Iterator[str]:
    """Relative names of the files below a folder; what is passed over is added to `passed`."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        if not prefix:
            raise
        passed.setdefault(CLOSED, []).append(prefix)
        return
    with entries:  # never all at once: an entry takes ten times the memory of its name
        for entry in entries:
            path = prefix + entry.name
            shown = is_shown and not _is_hidden_part(entry.name)
            is_folder, reason = _kind(entry) if shown else (entry.is_dir(follow_symlinks=False), HIDDEN)
            if not is_folder:
                if reason:
                    passed.setdefault(reason, []).append(path)
                else:
                    yield path
                continue
            here = (*above, os.path.realpath(folder))
            if entry.is_symlink() and os.path.realpath(entry.path) in here:
                passed.setdefault(CIRCLES, []).append(path)
            else:
                yield from _walk(entry.path, f"{path}/", here, passed=passed, is_shown=shown)


def _kind(entry: os.DirEntry[str]) -> tuple[bool, str]:
    """Whether it is a folder, and why it is passed over where it is no file either."""
    try:
        if entry.is_dir():
            return True, ""
        if entry.is_file():
            return False, ""
        return False, DEAD_LINKS if entry.is_symlink() and not os.path.exists(entry.path) else PIPES  # noqa: PTH110
    except OSError:  # a link to itself, or into a closed folder
        return False, DEAD_LINKS
