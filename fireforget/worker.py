"""`python -m fireforget.worker APP`: run the jobs of an application.

A thin face: flags in, a `Worker` run, exit codes out. 0 after a stop that was asked for, 1 when it cannot go on, 2 when it could
not start, each with one clear line. Nothing is defined here that a child would have to find again.
"""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from fireforget import logs
from fireforget._cli_parser import DEFAULT_DB, Parser, in_flags, nearest, prog
from fireforget._pool.control import Worker
from fireforget._worker_flags import add_db_flag, add_worker_flags, settings_of
from fireforget.app import AppError, load_registry
from fireforget.errors import FireforgetError, InvalidOption

__all__ = ["DEFAULT_DB", "Worker", "main", "parser", "work"]

_CALLED = "python -m fireforget.worker"
_OBJECTS_BETWEEN_COLLECTIONS = 20_000


def main(argv: Sequence[str] | None = None, *, called: str = _CALLED) -> int:
    """Run a worker as the command line says; return the exit code. `called` is what its help calls it."""
    return work(parser(called).parse_args(argv), _worker_of)


def work(arguments: argparse.Namespace, make: Callable[[argparse.Namespace], Worker], *, speaker: str = "worker") -> int:
    """Run the worker that `make` makes of the flags until it ends; return the exit code. `speaker` begins lines of trouble."""
    logs.configure(arguments.log_level, arguments.log_format)
    early = _EarlyStop()
    for number in (signal.SIGTERM, signal.SIGINT):  # until `Worker.run` takes them over; an import may take its time
        signal.signal(number, early.ask)
    try:
        early.worker = worker = make(arguments)
        if early.asked:
            return 0
        worker.open()
        _collect_rarely()
    except AppError as error:
        return _refuse(speaker, f"{error}{_list_hint(arguments.app)}")
    except (FireforgetError, OSError) as error:
        return _refuse(speaker, in_flags(error) if isinstance(error, InvalidOption) else str(error))
    try:
        worker.run()
    except FireforgetError as error:
        print(f"fireforget {speaker}: cannot go on: {error}", file=sys.stderr)
        return 1
    except Exception as error:
        logging.getLogger("fireforget.worker").debug("unexpected error", exc_info=True)
        print(
            f"fireforget {speaker}: cannot go on: unexpected {type(error).__name__}: {error} (see --log-level debug)",
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
    add_worker_flags(parser)
    return parser


def _worker_of(arguments: argparse.Namespace) -> Worker:
    return Worker(load_registry(arguments.app), arguments.db, **settings_of(arguments))


def _list_hint(app: str) -> str:
    """Return a hint for who wanted the command `worker list`, which this is not."""
    return f"; to list workers: {prog()} worker list" if ":" not in app and nearest(app, ["list"]) else ""


def _collect_rarely() -> None:
    """Spare the supervisor's process most collections: claimed jobs come and go by the thousand, and are in no cycles.

    What the application has made in its imports stays for good, and is not to be walked each time. An embedded worker is in the
    application's own process, whose garbage is no business of ours.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS, 10, 10)


def _refuse(speaker: str, message: str) -> int:
    print(f"fireforget {speaker}: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
