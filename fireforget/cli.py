"""`python -m fireforget`: the commands for people. Each is a method of `Inspector` or another public call, and prints.

Exit codes: 0 done, 1 said no, 2 misused or could not start, each with one line on standard error.
"""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fireforget import __version__
from fireforget.errors import FireforgetError, StoreUnavailable
from fireforget.task import State

DEFAULT_DB = "fireforget.db"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["worker"]:  # its flags are its own, and the same as those of `python -m fireforget.worker`
        from fireforget.worker import main as worker

        return worker(given[1:])
    arguments = parser().parse_args(given)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except FireforgetError as error:
        print(f"fireforget: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(prog="python -m fireforget", description="A durable job queue on one SQLite file.")
    parser.add_argument("--version", action="version", version=f"fireforget {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="watch real work flow through a queue")
    demo.add_argument("folder", nargs="?", metavar="FOLDER", help="text files to index (default: the standard library's sources)")
    demo.set_defaults(run=_demo)

    commands.add_parser("worker", help="run the jobs of an application (see worker --help)", add_help=False)

    stats = commands.add_parser(
        "stats", help="print queues and states", epilog="Example: python -m fireforget stats --db shop.db"
    )
    _add_common_flags(stats)
    stats.set_defaults(run=_stats)
    return parser


def _add_common_flags(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("FIREFORGET_DB") or DEFAULT_DB
    parser.add_argument("--db", default=default, metavar="PATH", help=f"database; also FIREFORGET_DB (default: {DEFAULT_DB})")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _demo(arguments: argparse.Namespace) -> int:
    from fireforget.demo import run

    return run(arguments.folder)


def _stats(arguments: argparse.Namespace) -> int:
    from fireforget.inspector import Inspector
    from fireforget.queue_sqlite import SqliteQueue

    if not os.path.exists(arguments.db):  # looking must not create what is not there
        raise StoreUnavailable(arguments.db, "there is no such file: give the path of a queue with --db or FIREFORGET_DB")
    with SqliteQueue(arguments.db) as queue:
        inspector = Inspector(queue)
        queues, workers = inspector.queues(), inspector.workers()
    if arguments.json:
        _print_json(queues, workers)
        return 0
    states = [state for state in _STATES if any(q.counts[state] for q in queues)] or list(_STATES[:3])
    rows = [
        [q.name + (" (paused)" if q.paused else ""), *(str(q.counts[state]) for state in states), f"{q.latency:.1f} s"]
        for q in queues
    ]
    print_table(["queue", *states, "latency"], rows, empty="no jobs are stored")
    print(f"\n{len(workers)} worker{'' if len(workers) == 1 else 's'}" + (":" if workers else ""))
    for worker in workers:
        since = f"{worker.started_at:%Y-%m-%d %H:%M:%S} UTC"
        print(f"  {worker.name}  {worker.concurrency} children, {worker.active} active jobs, since {since}")
    return 0


_STATES = (
    State.PENDING,
    State.ACTIVE,
    State.SCHEDULED,
    State.RETRY,
    State.ARCHIVED,
    State.COMPLETED,
    State.AGGREGATING,
    State.BLOCKED,
    State.CANCELLED,
)


def _print_json(queues: Sequence[Any], workers: Sequence[Any]) -> None:
    members = {
        "queues": [
            {"queue": q.name, "paused": q.paused, "latency": round(q.latency, 3), "size": q.size, "states": dict(q.counts)}
            for q in queues
        ],
        "workers": [{**vars(worker), "started_at": worker.started_at.isoformat()} for worker in workers],
    }
    print(json.dumps(members, indent=2))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
    """Print rows in columns, the first to the left, the others to the right, cut to the width of the terminal."""
    if not rows:
        print(empty)
        return
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip()[:limit])
