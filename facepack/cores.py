"""Cores: how many of them this process may use, which in a container are fewer than the machine has."""

import os


def num_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
