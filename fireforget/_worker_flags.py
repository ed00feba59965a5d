"""The flags of a worker, for the worker and for the relay, which is one; light enough for the command line to load."""

import argparse
import os
import re
from typing import Any

from fireforget._cli_parser import DEFAULT_DB, a_count, a_duration, a_path
from fireforget._pool.config import DEFAULT_METRICS_INTERVAL, DEFAULT_QUEUES, DEFAULT_SHUTDOWN_TIMEOUT


def add_worker_flags(parser: argparse.ArgumentParser, *, concurrency: int | None = None) -> None:
    """Add all of them but `--db`; `concurrency` is the number of children by default, None is that of CPUs."""
    add = parser.add_argument
    add(
        "--concurrency",
        type=a_count,
        default=concurrency,
        metavar="N",
        help=f"child processes (default: {concurrency or 'the number of CPUs'})",
    )
    add("--threads", type=a_count, default=1, metavar="N", help="jobs at once in each child (default: 1)")
    queues = ",".join(f"{name}={weight}" for name, weight in DEFAULT_QUEUES.items())
    add("--queues", type=_queues, metavar="NAME=WEIGHT,...", help=f"queues to serve; a name alone weighs 1 (default: {queues})")
    add("--strict-priority", action="store_true", help="heavier queues first, always")
    add("--burst", action="store_true", help="exit once nothing that it can run is pending, active or due")
    add("--metrics-file", metavar="PATH", help="write metrics for Prometheus there")
    add(
        "--metrics-interval",
        type=a_duration,
        metavar="S",
        help=f"at most so often: 30, 30s, 1m (default: {DEFAULT_METRICS_INTERVAL:g})",
    )
    add(
        "--shutdown-timeout",
        type=a_duration,
        metavar="S",
        help=f"for running jobs at a stop: 30, 30s, 5m (default: {DEFAULT_SHUTDOWN_TIMEOUT:g})",
    )
    add("--max-tasks-per-child", type=a_count, metavar="N", help="replace a child after N jobs")
    add("--max-rss-mb", type=a_count, metavar="N", help="replace a child that uses more than N MiB")
    levels = ("debug", "info", "warning", "error", "critical")
    add("--log-level", type=str.lower, choices=levels, default="info", help="default: info")
    add("--log-format", choices=("text", "json"), default="text", help="default: text")


def add_db_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that every command has."""
    default = os.environ.get("FIREFORGET_DB") or DEFAULT_DB
    help = f"database; also FIREFORGET_DB (default: {DEFAULT_DB})"
    parser.add_argument("--db", type=a_path, default=default, metavar="PATH", help=help)


def _queues(text: str) -> dict[str, int]:
    weights: dict[str, int] = {}
    for part in text.split(","):
        name, separator, weight = part.strip().rpartition("=")
        if not separator:
            name, weight = part.strip(), "1"
        if not separator and (colon := re.fullmatch(r"(.+):(\d+)", name)):
            raise argparse.ArgumentTypeError(
                f"write {colon[1]}={colon[2]} for a weight, or {name}=1 for a queue that is called {name!r}"
            )
        if not name or not weight.isdecimal() or name in weights:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=WEIGHT, such as critical=6, each name once")
        weights[name] = int(weight)
    return weights


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the flags as arguments of a `Worker`."""
    return {
        "concurrency": arguments.concurrency,
        "threads": arguments.threads,
        "queues": arguments.queues,
        "strict_priority": arguments.strict_priority,
        "burst": arguments.burst,
        "metrics_file": arguments.metrics_file,
        "metrics_interval": arguments.metrics_interval,
        "shutdown_timeout": arguments.shutdown_timeout,
        "max_tasks_per_child": arguments.max_tasks_per_child,
        "max_rss_mb": arguments.max_rss_mb,
    }
