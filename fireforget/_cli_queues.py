"""The commands about queues, groups and workers: `stats`, `queue ...`, `group list`, `worker list`."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_common import Refused, add_command, add_group, check_queue, confirm, database_of, opened, wants_json
from fireforget._cli_parser import a_duration
from fireforget._limits import LIMITS
from fireforget.errors import QueueNotEmpty
from fireforget.inspector import GroupInfo, Inspector, QueueStats, WorkerInfo
from fireforget.task import State

DEFAULT_WATCH_SECONDS = 2.0
SHORTEST_WATCH, LONGEST_WATCH = 0.1, 86400.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"

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


def add_stats(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `stats`."""
    stats = add_command(commands, "stats", _stats, "print queues, states and workers", "stats --db shop.db\nstats --watch 5")
    stats.add_argument(
        "--watch",
        nargs="?",
        type=_a_watch_interval,
        const=DEFAULT_WATCH_SECONDS,
        metavar="S",
        help=f"print again every S seconds until Ctrl-C, in place on a terminal (default: {DEFAULT_WATCH_SECONDS:g})",
    )


def _a_watch_interval(text: str) -> float:
    seconds = a_duration(text)
    if not SHORTEST_WATCH <= seconds <= LONGEST_WATCH:
        raise argparse.ArgumentTypeError(f"{text!r} is too short or too long: give from {SHORTEST_WATCH:g} seconds to a day")
    return seconds


def add_queue(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `queue list|show|pause|resume|delete`."""
    queue = add_group(commands, "queue", "look at queues, pause, resume and delete them")
    add_command(queue, "list", _list, "print all queues", "queue list")
    show = add_command(queue, "show", _show, "print one queue", "queue show low")
    show.add_argument("name", metavar="NAME")
    pause = add_command(
        queue, "pause", _pause, "have workers claim nothing more from queues; what runs goes on", "queue pause low critical"
    )
    resume = add_command(queue, "resume", _resume, "have workers claim from queues again", "queue resume low")
    delete = add_command(queue, "delete", _delete, "delete queues", "queue delete old\nqueue delete old --force --yes")
    _add_limits(queue)
    for command in (pause, resume, delete):
        command.add_argument("names", metavar="NAME", nargs="+")
    delete.add_argument("--force", action="store_true", help="with all jobs; not while any of them runs")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def add_group_list(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `group list`."""
    group = add_group(commands, "group", "look at jobs that are collected to be handed over together")
    listing = add_command(
        group, "list", _groups, "print the groups that wait", "group list\ngroup list --queue low --app shop.jobs:registry"
    )
    listing.add_argument("--queue", metavar="NAME", help="in this queue")
    listing.add_argument(
        "--app", metavar="APP", help="the application, module:registry: its aggregators say when a group completes"
    )


def _add_limits(queue: "argparse._SubParsersAction[Any]") -> None:
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


def add_worker_list(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `worker list`; a worker itself is started elsewhere."""
    worker = add_group(commands, "worker", "run the jobs of an application (worker --help), or list workers (worker list)")
    add_command(worker, "list", _workers, "print the workers", "worker list")


# --- stats ------------------------------------------------------------------------------------------------------------


def _stats(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        if arguments.watch is None:
            _print_stats(arguments, inspector)
            return 0
        try:
            _watch(arguments, inspector)
        except KeyboardInterrupt:
            print()
        return 0


def _watch(arguments: argparse.Namespace, inspector: Inspector) -> None:
    in_place = sys.stdout.isatty() and not wants_json(arguments)
    while True:
        if in_place:
            print(_HOME_AND_CLEAR, end="")
        _print_stats(arguments, inspector)
        if not wants_json(arguments):
            print(f"\n{time.strftime('%H:%M:%S')}, every {arguments.watch:g} s; Ctrl-C ends", flush=True)
        time.sleep(arguments.watch)


def _print_stats(arguments: argparse.Namespace, inspector: Inspector) -> None:
    queues, workers = inspector.queues(), inspector.workers()
    if wants_json(arguments):
        members = {"queues": [_members(q) for q in queues], "workers": [vars(worker) for worker in workers]}
        output.print_json(members, indent=2 if arguments.watch is None else None)
        return
    _print_queues(queues)
    print(f"\n{output.plural(len(workers), 'worker')}" + (":" if workers else ""))
    for worker in workers:
        load = f"{_children(worker)}, {output.plural(worker.active, 'active job')}"
        print(f"  {output.printable(worker.name)}  {load}, since {output.instant(worker.started_at)}")


def _children(worker: WorkerInfo) -> str:
    return output.plural(worker.concurrency, "child", "children")


def _print_queues(queues: Sequence[QueueStats]) -> None:
    states = [state for state in _IN_ORDER if any(q.counts[state] for q in queues)] or list(_IN_ORDER[:3])
    rows = [
        [q.name + (" (paused)" if q.paused else ""), *(f"{q.counts[state]}" for state in states), output.age(q.latency)]
        for q in queues
    ]
    colours = ["paused" if q.paused else "" for q in queues]
    output.print_table(["queue", *states, "latency"], rows, empty="no jobs are stored", colours=colours)


def _members(q: QueueStats) -> dict[str, Any]:
    return {
        "queue": q.name,
        "paused": q.paused,
        "paused_at": q.paused_at,
        "latency": round(q.latency, 3),
        "size": q.size,
        "states": dict(q.counts),
    }


# --- queues -----------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        queues = inspector.queues()
    if wants_json(arguments):
        output.print_json([_members(q) for q in queues])
    else:
        _print_queues(queues)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        check_queue(inspector, arguments.name)
        workers = inspector.workers()
        q = _stats_of(inspector, arguments.name)
    serving = [(worker, worker.queues[q.name]) for worker in workers if q.name in worker.queues]
    if wants_json(arguments):
        output.print_json({**_members(q), "workers": [worker.name for worker, _ in serving]})
        return 0
    since = f"since {output.instant(q.paused_at)}" if q.paused else "no"
    output.print_fields([("queue", q.name), ("paused", since), ("latency", output.duration(q.latency)), ("jobs", f"{q.size:,}")])
    for state in _IN_ORDER:
        if q.counts[state]:
            print(f"  {output.paint(state.ljust(12), state)}{q.counts[state]:>12,}")
    print("\nserved by " + ("no worker" if not serving else ""))
    for worker, weight in serving:
        print(f"  {output.printable(worker.name)}  weight {weight}, {_children(worker)}")
    return 0


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


# --- workers ----------------------------------------------------------------------------------------------------------


def _workers(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        workers = inspector.workers()
    if wants_json(arguments):
        output.print_json([vars(worker) for worker in workers])
        return 0
    output.print_table(
        ["worker", "pid", "children", "threads", "active", "up", "queues"],
        [_row(worker) for worker in workers],
        empty="no worker is running",
        left=(0, 6),
    )
    return 0


def _row(worker: WorkerInfo) -> list[str]:
    queues = ",".join(f"{name}={weight}" for name, weight in worker.queues.items())
    up = output.briefly(worker.started_at).removesuffix(" ago").removeprefix("in ")
    return [worker.name, f"{worker.pid}", f"{worker.concurrency}", f"{worker.threads}", f"{worker.active}", up, queues]


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(arguments: argparse.Namespace) -> int:
    registry = None
    if arguments.app is not None:
        from fireforget.app import load_registry

        registry = load_registry(arguments.app)
    with opened(arguments) as (_, inspector):
        if arguments.queue is not None:
            check_queue(inspector, arguments.queue)
        groups = inspector.groups(arguments.queue, registry=registry)
    if wants_json(arguments):
        output.print_json([vars(group) for group in groups])
        return 0
    output.print_table(
        ["queue", "group", "jobs", "oldest", "newest", "completes"],
        [[g.queue, g.name, f"{g.size:,}", output.briefly(g.oldest), output.briefly(g.newest), _completes(g)] for g in groups],
        empty="no job waits in a group",
        left=(0, 1),
    )
    return 0


def _completes(group: GroupInfo) -> str:
    if group.closed:
        return "is complete"
    return "unknown" if group.completes_at is None else output.briefly(group.completes_at)
