"""The commands about queues: `queue list|show|history|pause|resume|delete`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_common import (
    Commands,
    Refused,
    add_command,
    add_group,
    check_queue,
    confirm,
    database_of,
    opened,
    report_changes,
    wants_json,
)
from fireforget._cli_parser import a_count, a_duration
from fireforget._history import DAY, HOUR, KEPT, MINUTE
from fireforget._limits import LIMITS
from fireforget.errors import QueueNotEmpty
from fireforget.inspector import HistoryPoint, Inspector, QueueStats
from fireforget.task import State

DEFAULT_DAYS = 10
PERIODS = {"days": DAY, "hours": HOUR, "minutes": MINUTE}
_UNITS = {DAY: ("day", "%Y-%m-%d"), HOUR: ("hour", "%Y-%m-%d %H:%M"), MINUTE: ("minute", "%Y-%m-%d %H:%M")}
_SHORTEST_BAR, _LONGEST_BAR = 8, 50

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
        "print how many runs ended in each day, hour or minute (UTC), how many failed, how long they took and had waited",
        "queue history default\nqueue history default low --days 30\nqueue history default --minutes 60 --type email:send",
    )
    periods = history.add_mutually_exclusive_group()
    for unit, span in PERIODS.items():
        default = f" (default: {DEFAULT_DAYS})" if unit == "days" else ""
        help = f"the last N {unit}, the running one first; {KEPT[span]} are kept{default}"
        periods.add_argument(f"--{unit}", type=a_count, metavar="N", help=help)
    history.add_argument("--type", metavar="T", help="of one type alone, as its handler is registered")
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
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number of 0 or more, nor none")
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
    period = {name: count for name in PERIODS if (count := getattr(arguments, name)) is not None} or {"days": DEFAULT_DAYS}
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        points = {name: inspector.history(name, **period, type=arguments.type) for name in arguments.names}
    if wants_json(arguments):
        output.print_json(
            [{"queue": name, "points": [members_of_point(point) for point in history]} for name, history in points.items()]
        )
        return 0
    for position, (name, history) in enumerate(points.items()):
        if len(points) > 1:
            print(("\n" if position else "") + output.paint(output.printable(name), "bold"))
        _print_history(history)
    return 0


def members_of_point(point: HistoryPoint) -> dict[str, Any]:
    """Return a minute, hour or day of the history as JSON shows it."""
    return {
        "at": point.at,
        "seconds": point.seconds,
        "processed": point.processed,
        "failed": point.failed,
        "retried": point.retried,
        "archived": point.archived,
        "mean_run": point.mean_run,
        "mean_wait": point.mean_wait,
    }


def _print_history(history: Sequence[HistoryPoint]) -> None:
    """Print the history as a table, and on a terminal that is wide enough with a bar on each line."""
    unit, format = _UNITS[history[0].seconds]
    sums = HistoryPoint(
        history[-1].at, 0, *(sum(getattr(p, field.name) for p in history) for field in fields(HistoryPoint) if field.default == 0)
    )
    rows = [[f"{point.at:{format}}", *_cells(point)] for point in history] + [["in all", *_cells(sums)]]
    header = [f"{unit} (UTC)", "processed", "failed", "error rate", "run", "wait"]
    without_bar = sum(max(map(len, column)) + 2 for column in zip(header, *rows, strict=True))
    width = min(_LONGEST_BAR, (output.terminal_width() or 0) - without_bar)
    if sys.stdout.isatty() and width >= _SHORTEST_BAR:
        most = max(point.processed for point in history)
        rows = [[*row, _bar(point, most, width)] for row, point in zip(rows, [*history, HistoryPoint(sums.at, 0)], strict=True)]
        header.append("")
    output.print_table(header, rows, empty="", left=(0, 6))


def _cells(point: HistoryPoint) -> list[str]:
    times = ("-" if mean is None else output.short_duration(mean) for mean in (point.mean_run, point.mean_wait))
    share = "-" if point.error_rate is None else f"{point.error_rate:.1%}"
    return [f"{point.processed:,}", f"{point.failed:,}", share, *times]


def _bar(point: HistoryPoint, most: int, width: int) -> str:
    """Return a bar as long as the runs are many, its end for those that failed; runs that there are are always seen."""
    good, bad = ("█", "░") if "utf" in (sys.stdout.encoding or "").lower() else ("#", "x")
    length = -(-point.processed * width // most) if most else 0
    failed = -(-point.failed * length // point.processed) if point.failed else 0
    return good * (length - failed) + bad * failed


def _stats_of(inspector: Inspector, name: str) -> QueueStats:
    from fireforget.errors import UnknownQueue

    try:
        return inspector.queue_stats(name)
    except UnknownQueue:  # one of a worker's default queues that has never had a job
        return QueueStats(name, inspector.counts(name), 0.0, False)


def _pause(arguments: argparse.Namespace) -> int:
    return _change(arguments, Inspector.pause_queue, "paused", "was paused already")


def _resume(arguments: argparse.Namespace) -> int:
    return _change(arguments, Inspector.resume_queue, "resumed", "was not paused")


def _change(arguments: argparse.Namespace, how: Callable[[Inspector, str], bool], done: str, not_done: str) -> int:
    with opened(arguments) as (_, inspector):
        for name in arguments.names:
            check_queue(inspector, name)
        changed = {name: how(inspector, name) for name in dict.fromkeys(arguments.names)}
    return report_changes(arguments, "queue", changed, done, not_done)


def _limits(arguments: argparse.Namespace) -> int:
    given = {limit: value for limit in LIMITS if (value := getattr(arguments, limit)) is not None}
    changes = {limit: None if value == "none" else value for limit, value in given.items()}
    with opened(arguments) as (_, inspector):
        if not changes:  # they can be set before the first job
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
        deleted = {name: _delete_one(inspector, name, arguments.force) for name in sizes}
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
