"""What a power cut can take: shown by the order of system calls, since nobody can pull the plug in a test."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from fireforget import SqliteQueue, Task
queue = SqliteQueue(sys.argv[1], durability=sys.argv[2])
queue.enqueue(Task("first"))
os.write(1, b"asked\\n")
queue.enqueue(Task("second"))
os.write(1, b"returned\\n")
"""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def calls_of_one_enqueue(path, durability):
    """Return the system calls on the WAL between asking for an enqueue and its return, such as ["pwrite64", "fdatasync"]."""
    command = [
        "strace",
        "-f",
        "-y",
        "-e",
        "trace=write,pwrite64,fdatasync,fsync",
        sys.executable,
        "-c",
        PROGRAM,
        str(path),
        durability,
    ]
    traced = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    if "asked" not in traced.stderr:
        pytest.skip(f"strace cannot trace here: {traced.stderr[-200:]}")
    between = traced.stderr.partition('"asked')[2].partition('"returned')[0]
    return [call for call, file in re.findall(r"(\w+)\(\d+<([^>]*)>", between) if file.endswith("-wal")]


def test_full_durability_has_reached_the_disk_when_enqueue_returns(tmp_path):
    """The job's pages are written to the WAL and synced, in this order, before the caller goes on."""
    calls = calls_of_one_enqueue(tmp_path / "jobs.db", "full")
    assert "pwrite64" in calls
    assert calls[-1] in ("fdatasync", "fsync")


def test_normal_durability_writes_and_does_not_wait_for_the_disk(tmp_path):
    """What `normal` gives up is exactly this sync: a power cut may take the last commits, the death of a process none."""
    calls = calls_of_one_enqueue(tmp_path / "jobs.db", "normal")
    assert "pwrite64" in calls
    assert not {"fdatasync", "fsync"} & set(calls)
