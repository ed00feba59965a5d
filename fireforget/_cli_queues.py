"""The commands about queues: `queue list|show|history|pause|resume|delete`."""

import argparse
from collections.abc import Sequence
from typing import Any

from fireforget import _cli_output as output
from fireforget._claims import HISTORY_DAYS
from fireforget._cli_common import (
    Commands,
    Refused,
    add_command,
    add_group,
    check_queue,
    confirm,
    database_of,
    opened,
    wants_json,
)
from fireforget._cli_parser import a_count, a_duration
from fireforget._limits import LIMITS
from fireforget.errors import QueueNotEmpty
from fireforget.inspector import Inspector, QueueStats
from fireforget.task import State

DEFAULT_DAYS = 10

_IN_ORDER = (
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


def add_queue(commands: Commands) -> None:
    """Add `queue list|show|history|pause|resume|delete`."""
    queue = add_group(commands, "queue", "look at queues, pause, resume and delete them")
    add_command(queue, "list", _list, "print all queues", "queue list")
    show = add_command(queue, "show", _show, "print one queue", "queue show low")
    show.add_argument("name", metavar="NAME")
    history = add_command(
        queue,
        "history",
        _history,
        f"print how many runs ended on each day (UTC), and how many of them failed; kept for {HISTORY_DAYS} days",
        "queue history default\nqueue history default low --days 30",
    )
    history.add_argument(
        "--days", type=a_count, default=DEFAULT_DAYS, metavar="N", help=f"so many, today first (default: {DEFAULT_DAYS})"
    )
    pause = add_command(
        queue, "pause", _pause, "have workers claim nothing more from queues; what runs goes on", "queue pause low critical"
    )
    resume = add_command(queue, "resume", _resume, "have workers claim from queues again", "queue resume low")
    delete = add_command(queue, "delete", _delete, "delete queues", "queue delete old\nqueue delete old --force --yes")
    _add_limits(queue)
    for command in (history, pause, resume, delete):
        command.add_argument("names", metavar="NAME", nargs="+")
    delete.add_argument("--force", action="store_true", help="with all jobs; not while any of them runs")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _add_limits(queue: Commands) -> None:
    limits = add_command(
        queue,
        "limits",
        _limits,
        "print or set how many jobs that ended a queue keeps, and for how long",
        "queue limits low\nqueue limits low --archived-max 10000 --archived-age 90d\nqueue limits low --archived-max none",
    )
    limits.add_argument("name", metavar="NAME")
    for limit in LIMITS:
        state, _, kind = limit.partition("_")
        help = (
            f"keep at most N {state} jobs, or all: none"
            if kind == "max"
            else f"keep {state} jobs for S seconds, or for ever: none"
        )
        value = _a_limit if kind == "max" else _an_age
        limits.add_argument(f"--{state}-{kind}", dest=limit, type=value, metavar="N" if kind == "max" else "S", help=help)


def _a_limit(text: str) -> int | str:
    if text != "none" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, nor none")
    return text if text == "none" else int(text)


def _an_age(text: str) -> float | str:
    return text if text == "none" else a_duration(text)


def print_queues(queues: Sequence[QueueStats]) -> None:
    """Print queues as a table, with the states that any of them has jobs in."""
    states = [state for state in _IN_ORDER if any(q.counts[state] for q in queues)] or list(_IN_ORDER[:3])
    rows = [
        [q.name + (" (paused)" if q.paused else ""), *(f"{q.counts[state]:,}" for state in states), output.age(q.latency)]
        for q in queues
    ]
    header = ["queue", *states, "latency"]
    if any(q.processed_total for q in queues):
        header += ["today", "failed today"]
        rows = [[*row, f"{q.processed_today:,}", f"{q.failed_today:,}"] for row, q in zip(rows, queues, strict=True)]
    colours = ["paused" if q.paused else "" for q in queues]
    output.print_table(header, rows, empty="no jobs are stored", colours=colours)


def members_of_queue(q: QueueStats) -> dict[str, Any]:
    """Return a queue as JSON shows it."""
    return {
        "queue": q.name,
        "paused": q.paused,
        "paused_at": q.paused_at,
        "latency": round(q.latency, 3),
        "size": q.size,
        "bytes": q.bytes,
        "processed_today": q.processed_today,
        "failed_today": q.failed_today,
        "processed_total": q.processed_total,
        "failed_total": q.failed_total,
        "states": dict(q.counts),
    }


# --- queues -----------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        queues = inspector.queues()
    if wants_json(arguments):
        output.print_json([members_of_queue(q) for q in queues])
    else:
        print_queues(queues)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        check_queue(inspector, arguments.name)
        workers = inspector.workers()
        q = _stats_of(inspector, arguments.name)
    serving = [(worker, worker.queues[q.name]) for worker in workers if q.name in worker.queues]
    if wants_json(arguments):
        output.print_json({**members_of_queue(q), "workers": [worker.name for worker, _ in serving]})
        return 0
    since = f"since {output.instant(q.paused_at)}" if q.paused else "no"
    output.print_fields(
        [
            ("queue", q.name),
            ("paused", since),
            ("latency", output.duration(q.latency)),
            ("today", _ended(q.processed_today, q.failed_today)),
            ("in all", _ended(q.processed_total, q.failed_total)),
            ("jobs", f"{q.size:,}" + (f", about {output.size(q.bytes)}" if q.size else "")),
        ]
    )
    for state in _IN_ORDER:
        if q.counts[state]:
            print(f"  {output.paint(state.ljust(12), state)}{q.counts[state]:>12,}")
    print("\nserved by" + (" no worker" if not serving else ""))
    for worker, weight in serving:
        print(f"  {output.printable(worker.name)}  weight {weight}, {output.plural(worker.concurrency, 'child', 'children')}")
    return 0


def _ended(processed: int, failed: int) -> str:
    return f"{output.plural(processed, 'run')} ended, {failed:,} failed"


def _history(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        days = {name: inspector.history(name, arguments.days) for name in arguments.names}
    if wants_json(arguments):
        output.print_json([{"queue": name, "days": [vars(day) for day in history]} for name, history in days.items()])
        return 0
    for position, (name, history) in enumerate(days.items()):
        if len(days) > 1:
            print(("\n" if position else "") + output.paint(output.printable(name), "bold"))
        rows = [
            [day.day.isoformat(), f"{day.processed:,}", f"{day.failed:,}", _share(day.failed, day.processed)] for day in history
        ]
        total, failed = sum(day.processed for day in history), sum(day.failed for day in history)
        rows.append(["in all", f"{total:,}", f"{failed:,}", _share(failed, total)])
        output.print_table(["day (UTC)", "processed", "failed", "error rate"], rows, empty="")
    return 0


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


def _stats_of(inspector: Inspector, name: str) -> QueueStats:
    from fireforget.errors import UnknownQueue

    try:
        return inspector.queue_stats(name)
    except UnknownQueue:  # one of a worker's default queues that has never had a job
        return QueueStats(name, inspector.counts(name), 0.0, False)


def _pause(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        changed = {name: inspector.pause_queue(name) for name in arguments.names}
    return _report(arguments, changed, "paused", "was paused already")


def _resume(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        changed = {name: inspector.resume_queue(name) for name in arguments.names}
    return _report(arguments, changed, "resumed", "was not paused")


def _report(arguments: argparse.Namespace, changed: dict[str, bool], done: str, not_done: str) -> int:
    if wants_json(arguments):
        output.print_json([{"queue": name, "changed": was} for name, was in changed.items()])
    else:
        for name, was in changed.items():
            print(f"{output.printable(name)}: {done if was else not_done}")
    return 0


def _limits(arguments: argparse.Namespace) -> int:
    given = {limit: value for limit in LIMITS if (value := getattr(arguments, limit)) is not None}
    changes = {limit: None if value == "none" else value for limit, value in given.items()}
    with opened(arguments) as (_, inspector):
        check_queue(inspector, arguments.name)
        limits = vars(inspector.set_limits(arguments.name, **changes) if changes else inspector.limits(arguments.name))
    if wants_json(arguments):
        output.print_json({"queue": arguments.name, **limits})
        return 0
    rows = []
    for state in (State.ARCHIVED, State.COMPLETED, State.CANCELLED):
        most, age = limits[f"{state}_max"], limits[f"{state}_age"]
        rows.append([state, "all" if most is None else f"{most:,}", "for ever" if age is None else output.duration(age)])
    output.print_table(["state", "at most", "for"], rows, empty="")
    return 0


def _delete(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        sizes = {name: _stats_of(inspector, name).size for name in arguments.names}
        if arguments.force and sum(sizes.values()):
            with_jobs = ", ".join(f"{name} with {output.plural(size)}" for name, size in sizes.items())
            confirm(f"delete {with_jobs} from {database_of(arguments)}", arguments)
        deleted = {name: _delete_one(inspector, name, arguments.force) for name in arguments.names}
    if wants_json(arguments):
        output.print_json([{"queue": name, "deleted_jobs": jobs} for name, jobs in deleted.items()])
    else:
        for name, jobs in deleted.items():
            print(f"{output.printable(name)}: deleted" + (f" with {output.plural(jobs)}" if jobs else ""))
    return 0


def _delete_one(inspector: Inspector, name: str, force: bool) -> int:
    try:
        return inspector.delete_queue(name, force=force)
    except QueueNotEmpty as error:
        if force:
            raise
        jobs = output.plural(error.size)
        raise Refused(f"queue {name!r} has {jobs}: give --force to delete them too, or delete or run them first") from error
