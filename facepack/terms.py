"""Terms of use: shown, and accepted once per folder."""

import logging
from pathlib import Path

from facepack.description import Published
from facepack.errors import UsageError

log = logging.getLogger("facepack")

TERMS_FILE = ".facepack-terms"
"""The terms that were accepted in a folder, a line each."""


def accept(published: Published, *, folder: Path, accepted: bool) -> None:
    """Note that the terms are accepted; `UsageError` with the terms where they never were."""
    file = folder / TERMS_FILE
    if file.exists() and published.terms in file.read_text(encoding="utf-8").splitlines():
        return
    text = f"{published.name}: its terms are: {published.terms} ({published.homepage})"
    if not accepted:
        raise UsageError(f"{text}; accept them with --accept-terms, in Python with accept_terms=True")
    log.info(f"{text}; accepted")
    folder.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{published.terms}\n")
