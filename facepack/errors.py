"""The two kinds of error that a user can mend; the command line shows either as one line."""


class UsageError(ValueError):
    """The command asks for something that does not exist or contradicts itself (exit code 2)."""


class JobError(ValueError):
    """The job cannot go on: a file is missing or damaged, a place is taken, a promise is broken (exit code 1)."""
