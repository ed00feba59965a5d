"""`python -m fireforget.worker APP`: run the jobs of an application.

A thin face: flags in, a `Worker` run, exit codes out. 0 after a stop that was asked for, 1 when it cannot go on, 2 when it could
not start, each with one clear line. Nothing is defined here that a child would have to find again.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from fireforget import logs
from fireforget._pool.config import DEFAULT_METRICS_INTERVAL, DEFAULT_QUEUES, DEFAULT_SHUTDOWN_TIMEOUT
from fireforget._pool.control import Worker
from fireforget.app import AppError, load_registry
from fireforget.errors import FireforgetError

__all__ = ["Worker", "main"]

DEFAULT_DB = "fireforget.db"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker as the command line says; return the exit code."""
    arguments = parser().parse_args(argv)
    logs.configure(arguments.log_level, arguments.log_format)
    try:
        worker = _worker_of(arguments)
        worker.open()
    except AppError as error:
        return _refuse(str(error))
    except (FireforgetError, OSError) as error:
        return _refuse(str(error))
    try:
        worker.run()
    except FireforgetError as error:
        print(f"fireforget worker: cannot go on: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        logging.getLogger("fireforget.worker").debug("unexpected error", exc_info=True)
        print(
            f"fireforget worker: cannot go on: unexpected {type(error).__name__}: {error} (see --log-level debug)",
            file=sys.stderr,
        )
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the worker's flags."""
    parser = argparse.ArgumentParser(
        prog="python -m fireforget.worker",
        description="Run the jobs of an application in a pool of processes.",
        epilog="Example: python -m fireforget.worker shop.jobs:registry --db shop.db --concurrency 4",
    )
    parser.add_argument("app", metavar="APP", help="the registry, as module:name")
    add_db_flag(parser)
    add = parser.add_argument
    add("--concurrency", type=int, metavar="N", help="child processes (default: the number of CPUs)")
    add("--threads", type=int, default=1, metavar="N", help="jobs at once in each child (default: 1)")
    queues = ",".join(f"{name}={weight}" for name, weight in DEFAULT_QUEUES.items())
    add("--queues", type=_queues, metavar="NAME=WEIGHT,...", help=f"queues to serve, with weights (default: {queues})")
    add("--strict-priority", action="store_true", help="heavier queues first, always")
    add("--burst", action="store_true", help="exit once nothing that it can run is pending, active or due")
    add("--metrics-file", metavar="PATH", help="write metrics for Prometheus there")
    add("--metrics-interval", type=float, metavar="S", help=f"at most every S seconds (default: {DEFAULT_METRICS_INTERVAL:g})")
    add("--shutdown-timeout", type=float, metavar="S", help=f"for running jobs at a stop (default: {DEFAULT_SHUTDOWN_TIMEOUT:g})")
    add("--max-tasks-per-child", type=int, metavar="N", help="replace a child after N jobs")
    add("--max-rss-mb", type=int, metavar="N", help="replace a child that uses more than N MiB")
    add("--log-level", choices=("debug", "info", "warning", "error", "critical"), default="info", help="default: info")
    add("--log-format", choices=("text", "json"), default="text", help="default: text")
    return parser


def add_db_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that every command has."""
    default = os.environ.get("FIREFORGET_DB") or DEFAULT_DB
    parser.add_argument("--db", default=default, metavar="PATH", help=f"database; also FIREFORGET_DB (default: {DEFAULT_DB})")


def _queues(text: str) -> dict[str, int]:
    weights: dict[str, int] = {}
    for part in text.split(","):
        name, separator, weight = part.strip().rpartition("=")
        if not separator:
            name, weight = part.strip(), "1"
        if not name or not weight.isdecimal() or name in weights:
            raise argparse.ArgumentTypeError(f"{part!r} is not NAME=WEIGHT, such as critical=6, each name once")
        weights[name] = int(weight)
    return weights


def _worker_of(arguments: argparse.Namespace) -> Worker:
    registry = load_registry(arguments.app)
    return Worker(
        registry,
        arguments.db,
        concurrency=arguments.concurrency,
        threads=arguments.threads,
        queues=arguments.queues,
        strict_priority=arguments.strict_priority,
        burst=arguments.burst,
        metrics_file=arguments.metrics_file,
        metrics_interval=arguments.metrics_interval,
        shutdown_timeout=arguments.shutdown_timeout,
        max_tasks_per_child=arguments.max_tasks_per_child,
        max_rss_mb=arguments.max_rss_mb,
    )


def _refuse(message: str) -> int:
    print(f"fireforget worker: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
