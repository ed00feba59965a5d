"""`python -m fireforget.worker APP`: run the jobs of an application.

A thin face: flags in, a `Worker` run, exit codes out. 0 after a stop that was asked for, 1 when it cannot go on, 2 when it could
not start, each with one clear line. Nothing is defined here that a child would have to find again.
"""

import argparse
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence

from fireforget import logs
from fireforget._cli_parser import DEFAULT_DB, Parser, a_count, a_duration, nearest, prog
from fireforget._pool.config import DEFAULT_METRICS_INTERVAL, DEFAULT_QUEUES, DEFAULT_SHUTDOWN_TIMEOUT
from fireforget._pool.control import Worker
from fireforget.app import AppError, load_registry
from fireforget.errors import FireforgetError

__all__ = ["Worker", "main"]

_CALLED = "python -m fireforget.worker"


def main(argv: Sequence[str] | None = None, *, called: str = _CALLED) -> int:
    """Run a worker as the command line says; return the exit code. `called` is what its help calls it."""
    arguments = parser(called).parse_args(argv)
    logs.configure(arguments.log_level, arguments.log_format)
    early = _EarlyStop()
    for number in (signal.SIGTERM, signal.SIGINT):  # until `Worker.run` takes them over; an import may take its time
        signal.signal(number, early.ask)
    try:
        early.worker = worker = _worker_of(arguments)
        if early.asked:
            return 0
        worker.open()
    except AppError as error:
        return _refuse(f"{error}{_list_hint(arguments.app)}")
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


class _EarlyStop:
    """A stop that is asked for before the worker works. It is only recorded: an exception could come up anywhere, and be lost."""

    def __init__(self) -> None:
        self.asked = False
        self.worker: Worker | None = None

    def ask(self, *_: object) -> None:
        """Handle a signal; the second one during a long import does not wait for its end."""
        if self.worker is not None:
            self.worker.shutdown()
        elif self.asked:
            os._exit(0)
        self.asked = True


def parser(called: str = _CALLED) -> argparse.ArgumentParser:
    """Return the parser of the worker's flags."""
    parser = Parser(
        prog=called,
        speaker="fireforget worker",
        description="Run the jobs of an application in a pool of processes.",
        epilog=f"example:\n  {called} shop.jobs:registry --db shop.db --concurrency 4",
    )
    parser.add_argument("app", metavar="APP", help="the registry, as module:name")
    add_db_flag(parser)
    add = parser.add_argument
    add("--concurrency", type=a_count, metavar="N", help="child processes (default: the number of CPUs)")
    add("--threads", type=a_count, default=1, metavar="N", help="jobs at once in each child (default: 1)")
    queues = ",".join(f"{name}={weight}" for name, weight in DEFAULT_QUEUES.items())
    add("--queues", type=_queues, metavar="NAME=WEIGHT,...", help=f"queues to serve, with weights (default: {queues})")
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
        if not separator and (colon := re.fullmatch(r"(.+):(\d+)", name)):
            raise argparse.ArgumentTypeError(
                f"write {colon[1]}={colon[2]} for a weight, or {name}=1 for a queue that is called {name!r}"
            )
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


def _list_hint(app: str) -> str:
    """Return a hint for who wanted the command `worker list`, which this is not."""
    return f"; to list workers: {prog()} worker list" if ":" not in app and nearest(app, ["list"]) else ""


def _refuse(message: str) -> int:
    print(f"fireforget worker: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
