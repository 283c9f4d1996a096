"""Values of labels as people write them: with blanks and quotes, as 1.0 or True, in another case or Unicode form."""

import re
import unicodedata
from collections.abc import Mapping

MAX_AGE_YEARS = 130.0
_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_WORDS = {"true": "1", "t": "1", "yes": "1", "y": "1", "false": "0", "f": "0", "no": "0", "n": "0"}


def plain(text: str) -> str:
    """A value without blanks and quotes around it, in NFC; a whole number without .0 stays as it is."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def as_whole(text: str) -> str:
    """1 for 1.0 and +1, as tables write whole numbers that have passed through floats; other text as it is."""
    match = _WHOLE.fullmatch(text)
    return (match[1] if match else text).removeprefix("+")


def looked_up(text: str, values: Mapping[str, str]) -> str | None:
    """What a value stands for: as it is, else as a whole number, in any case, or as the 1 or 0 of True or False."""
    if text in values:
        return values[text]
    whole = as_whole(text)
    if whole in values:
        return values[whole]
    by_case = {name.casefold(): value for name, value in values.items()}
    folded = text.casefold()
    if folded in by_case:
        return by_case[folded] if sum(name.casefold() == folded for name in values) == 1 else None
    return values.get(_WORDS.get(folded, ""))
