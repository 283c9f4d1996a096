"""Steps of training take their memory from what the last one freed, and the system gets it back in the end."""

import json
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import json, resource, torch
from pathlib import Path
from trainer import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16_000_000)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

found = {"before": faults()}
with memory.keep_freed_memory(torch.device("cpu")):
    faults()
    found |= {"within": faults(), "within_mb": resident_mb()}
found["after_mb"] = resident_mb()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_within_and_given_back_after() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ended.stdout)
    assert found["within"] < found["before"] / 20
    assert found["after_mb"] < found["within_mb"] - 50
