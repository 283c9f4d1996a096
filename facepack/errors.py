"""The two kinds of error that a user can mend; the command line shows either as one line."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """The command asks for something that does not exist or contradicts itself (exit code 2)."""


class FieldError(UsageError):
    """A field of a configuration, recipe or loader has a value it cannot have; names field, value and what to do."""

    def __init__(self, field: str, value: object, advice: str) -> None:
        shown = f" {value}" if f"{value}" else ""
        super().__init__(f"{field}{shown}: {advice}")
        self.field, self._shown, self._advice = field, shown, advice

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return FieldError, (self.field, self._shown.removeprefix(" "), self._advice)

    @property
    def as_option(self) -> str:
        """The message for the command line, where the field is an option."""
        return f"--{self.field.replace('_', '-')}{self._shown}: {self._advice}"


class JobError(ValueError):
    """The job cannot go on: a file is missing or damaged, a place is taken, a promise is broken (exit code 1)."""


def nearest(name: str, names: Iterable[str]) -> str:
    """What to add after an unknown name: "did you mean bald?", or all names there are."""
    names = list(names)
    of_lower = {each.lower(): each for each in reversed(names)}
    near = [of_lower[lower] for lower in difflib.get_close_matches(name.lower(), of_lower, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(names) or 'none'}"
