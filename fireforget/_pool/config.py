"""What a worker is told: its settings, with their defaults and their checks."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fireforget.clock import to_seconds
from fireforget.errors import InvalidOption
from fireforget.task import check_options

DEFAULT_QUEUES = {"critical": 6, "default": 3, "low": 1}
DEFAULT_METRICS_INTERVAL = 15.0
DEFAULT_SHUTDOWN_TIMEOUT = 30.0
KILL_GRACE = 1.0
"""Seconds between the soft interruption of a handler and the end of its process."""
TRANSACTION_GRACE = 0.25
"""The same where its transaction was open for too long: everybody else waits for it."""
DECISION_SECONDS = 5.0
"""How long functions of the application's may take to say what becomes of a failed run: `is_failure`, retry policies."""


@dataclass(frozen=True)
class Settings:
    """A worker's settings; raises `InvalidOption` for a value that cannot be one."""

    concurrency: int = 0
    """Child processes; 0 is the number of CPUs this process may use."""
    threads: int = 1
    """Jobs at once in each child."""
    queues: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_QUEUES))
    """Weights of the queues served; others are not."""
    strict_priority: bool = False
    burst: bool = False
    metrics_file: str | None = None
    metrics_interval: float = DEFAULT_METRICS_INTERVAL
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT
    max_tasks_per_child: int | None = None
    max_rss_mb: int | None = None

    @classmethod
    def checked(cls, **given: Any) -> "Settings":
        """Return settings from what a caller gave; None means the default."""
        settings = {name: value for name, value in given.items() if value is not None}
        for name in ("concurrency", "threads", "max_tasks_per_child", "max_rss_mb"):
            if name in settings:
                settings[name] = _whole_number_above_0(name, settings[name])
        settings.setdefault("concurrency", available_cpus())
        for name, above in (("metrics_interval", True), ("shutdown_timeout", False)):
            if name in settings:
                settings[name] = to_seconds(name, settings[name], above_minimum=above)
        if "queues" in settings:
            settings["queues"] = _weights(settings["queues"])
        if "metrics_file" in settings:
            settings["metrics_file"] = _metrics_path(settings["metrics_file"])
        return cls(**settings)


def available_cpus() -> int:
    """Return how many CPUs this process may use; a container's limit on them is not always the machine's number."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def _whole_number_above_0(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(name, value, "give a whole number above 0")
    return value


def _weights(value: object) -> dict[str, int]:
    pairs: dict[Any, Any]
    if isinstance(value, Mapping):
        pairs = dict(value)
    elif isinstance(value, str) or not hasattr(value, "__iter__"):
        raise InvalidOption("queues", value, "give a mapping from queue to weight, such as {'critical': 6, 'low': 1}")
    else:
        pairs = dict.fromkeys(value, 1)
    if not pairs:
        raise InvalidOption("queues", value, "name at least one queue")
    for name, weight in pairs.items():
        check_options({"queue": name})
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= 1_000_000:
            raise InvalidOption("queues", value, f"the weight of {name!r} must be a whole number from 1 to 1000000")
    return pairs


def _metrics_path(value: Any) -> str:
    path: str = os.path.abspath(os.fspath(value))
    if os.path.isdir(path) or not os.path.isdir(os.path.dirname(path)):
        raise InvalidOption("metrics_file", value, "give the path of a file in a folder that exists")
    return path
