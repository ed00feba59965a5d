"""huey measured: its consumer as a real process, timed as ours is."""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import _common as common

SETTINGS = "SQLite, two processes, fsync=False, no results, no periodic tasks, polling every 10 ms"


def installed() -> bool:
    return importlib.util.find_spec("huey") is not None


def version() -> str | None:
    return metadata.version("huey") if installed() else None


def application(path: Path) -> Any:
    """Return the application's module, on this file."""
    os.environ["BENCH_HUEY_DB"] = str(path)
    sys.modules.pop("peer_apps.huey_app", None)
    return import_module("peer_apps.huey_app")


def consumer(path: Path, *, delay: float = 0.01, **env: str) -> AbstractContextManager[Any]:
    """Run huey's consumer with two processes."""
    command = [sys.executable, "-m", "huey.bin.huey_consumer", "peer_apps.huey_app.huey"]
    command += ["-w", "2", "-k", "process", "-n", "-q", "-d", str(delay), "-m", str(delay), "-b", "1.0"]
    return common.running(command, log=path.parent / "huey.log", env=common.environment(BENCH_HUEY_DB=str(path), **env))


def enqueue(path: Path, jobs: int) -> float:
    """Enqueue one at a time; return the rate."""
    noop: Callable[..., Any] = application(path).noop
    began = time.perf_counter()
    for n in range(jobs):
        noop(n)
    return jobs / (time.perf_counter() - began)


def drain(jobs: int) -> common.Drained:
    """Return how two processes drain stored no-op jobs."""
    with common.folder() as folder:
        path = folder / "huey.db"
        enqueue(path, jobs)
        with consumer(path) as process:
            return common.time_drain(path, jobs, process, table="task", key="id")
