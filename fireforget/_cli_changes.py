"""The commands that change jobs: `task run|archive|delete|cancel|update`, for one, several, or all that match."""

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from fireforget import _cli_output as output
from fireforget._cli_common import (
    Commands,
    Misused,
    add_command,
    add_filters,
    an_instant,
    check_filters,
    confirm,
    did_you_mean_id,
    filters_of,
    json_text,
    opened,
    wants_json,
)
from fireforget._cli_parser import a_duration, an_integer
from fireforget.errors import DuplicateTask, FireforgetError, UnknownJob, WrongState
from fireforget.inspector import ARCHIVABLE, CANCELLABLE, DELETABLE, RUNNABLE, UPDATABLE, Inspector
from fireforget.task import State, TaskInfo

_NOT_GIVEN = object()
_FIRST_SHOWN = 5


class Operation(NamedTuple):
    """A command that changes jobs: one, several, or all that match."""

    verb: str
    done: str
    allowed: frozenset[State]
    one: Callable[[Inspector, str, argparse.Namespace], TaskInfo | None]
    all: Callable[[Inspector, State, argparse.Namespace], int]
    asks: bool
    """Whether it asks before it changes many."""


def _plain(verb: str, done: str, allowed: frozenset[State], *, asks: bool) -> Operation:
    """Return the operation of two methods of `Inspector` that take nothing but which jobs."""
    one, all = getattr(Inspector, verb), getattr(Inspector, f"{verb}_all")
    return Operation(
        verb,
        done,
        allowed,
        lambda inspector, job_id, _: one(inspector, job_id),
        lambda inspector, state, arguments: all(inspector, state, **filters_of(arguments)),
        asks,
    )


OPERATIONS = {
    "run": _plain("run", "made pending", RUNNABLE, asks=False),
    "archive": _plain("archive", "archived", ARCHIVABLE, asks=True),
    "delete": _plain("delete", "deleted", DELETABLE, asks=True),
    "cancel": _plain("cancel", "cancelled", CANCELLABLE, asks=True),
    "update": Operation(
        "update",
        "updated",
        UPDATABLE,
        lambda inspector, job_id, arguments: inspector.update(job_id, **_changes_of(arguments)),
        lambda inspector, state, arguments: inspector.update_all(state, _changes_of(arguments), **filters_of(arguments)),
        True,
    ),
}
_HELP = {
    "run": "make jobs pending now: archived ones anew with all their retries, scheduled ones and those in retry ahead of time",
    "archive": "put jobs among the dead letters",
    "delete": "delete jobs with their attempts; running ones are never deleted",
    "cancel": "cancel jobs: at once, or within a second or so where they run",
    "update": "change jobs that do not run",
}
_EXAMPLES = {
    "run": "task run 3f1c-12-0badcafe\ntask run --state archived --type email: --error timeout",
    "archive": "task archive 3f1c-12-0badcafe\ntask archive --state retry --older-than 2d --yes",
    "delete": "task delete 3f1c-12-0badcafe\ntask delete --state archived --older-than 30d --dry-run",
    "cancel": "task cancel 3f1c-12-0badcafe\ntask cancel --state scheduled --payload user_id=7 --yes",
    "update": "task update 3f1c-12-0badcafe --process-in 1h\ntask update --state pending --in-queue low --queue default --yes",
}


def add_changes(task: Commands) -> None:
    """Add `run|archive|delete|cancel|update` to the commands of `task`."""
    for name in OPERATIONS:
        command = add_command(task, name, _change, _HELP[name], _EXAMPLES[name])
        command.set_defaults(operation=name)
        command.add_argument("ids", metavar="ID", nargs="*", help="jobs; or choose all of a state with --state")
        if name == "update":
            _add_what_changes(command)
            add_filters(command, queue="--in-queue", payload="--with-payload")
        else:
            add_filters(command)
        command.add_argument("--dry-run", action="store_true", help="say what would be changed, and change nothing")
        command.add_argument("--yes", action="store_true", help="do not ask before many are changed")


def _add_what_changes(update: argparse.ArgumentParser) -> None:
    add = update.add_argument_group("what changes").add_argument
    add("--payload", type=json_text, default=_NOT_GIVEN, metavar="JSON", help="another payload; - reads standard input")
    add("--queue", metavar="NAME", help="move to this queue")
    add("--priority", type=an_integer, metavar="N", help="higher first inside a queue")
    add("--process-in", type=a_duration, metavar="S", help="seconds from now, or such as 10m, 2h; 0 for now")
    add("--process-at", type=an_instant, metavar="WHEN", help="such as 2030-01-31T09:00:00+00:00")
    add("--deadline", type=_deadline, default=_NOT_GIVEN, metavar="WHEN", help="another deadline, or none")


def _deadline(text: str) -> datetime | None:
    return None if text == "none" else an_instant(text)


def _changes_of(arguments: argparse.Namespace) -> dict[str, Any]:
    named = {name: getattr(arguments, name) for name in ("queue", "priority", "process_in", "process_at")}
    removable = {name: getattr(arguments, name) for name in ("payload", "deadline")}
    return {
        **{name: value for name, value in named.items() if value is not None},
        **{name: value for name, value in removable.items() if value is not _NOT_GIVEN},
    }


def _change(arguments: argparse.Namespace) -> int:
    operation = OPERATIONS[arguments.operation]
    chosen = arguments.state is not None or bool(filters_of(arguments))
    if bool(arguments.ids) == chosen:
        raise Misused(f"give either ids, or --state with filters: which jobs is `task {operation.verb}` about?")
    if chosen and arguments.state is None:
        raise Misused(f"give --state too, so that it is clear which jobs to {operation.verb}")
    if operation.verb == "update" and not _changes_of(arguments):
        raise Misused("give what is to change: --payload, --queue, --priority, --process-in, --process-at or --deadline")
    with opened(arguments) as (_, inspector):
        if chosen:
            check_filters(inspector, arguments)
            return _change_all(arguments, inspector, operation)
        return _change_each(arguments, inspector, operation)


def _change_all(arguments: argparse.Namespace, inspector: Inspector, operation: Operation) -> int:
    state: State = arguments.state
    if state not in operation.allowed:
        operation.all(inspector, state, arguments)  # raises, with the states that are possible
    matched = inspector.count(state, **filters_of(arguments))
    if arguments.dry_run:
        return _say_what_would_change(arguments, inspector, operation, matched)
    if matched and operation.asks:
        confirm(f"{operation.verb} {output.plural(matched, f'{state} job')}", arguments)
    changed = operation.all(inspector, state, arguments)
    if wants_json(arguments):
        output.print_json({"matched": matched, "changed": changed})
    elif not matched and not changed:
        print(f"no {state} job matches")
    else:
        done = "asked to end" if operation.verb == "cancel" and state is State.ACTIVE else operation.done
        left = f", of {matched:,} that matched" if changed < matched else ""
        print(f"{output.plural(changed)} {done}{left}")
    return 0


def _say_what_would_change(arguments: argparse.Namespace, inspector: Inspector, operation: Operation, matched: int) -> int:
    if wants_json(arguments):
        output.print_json({"matched": matched, "changed": 0})
        return 0
    print(
        f"{output.plural(matched, f'{arguments.state} job')} would be {operation.done}"
        + (", the first of them:" if matched else "")
    )
    for info in inspector.tasks(arguments.state, limit=_FIRST_SHOWN, **filters_of(arguments)) if matched else ():
        print(f"  {output.printable(info.id)}  {output.printable(info.type)} in {output.printable(info.queue)}")
    return 0


def _change_each(arguments: argparse.Namespace, inspector: Inspector, operation: Operation) -> int:
    """Change the jobs one by one; what cannot be done is told on standard error, and the others are changed."""
    failed = 0
    results = []
    for job_id in arguments.ids:
        try:
            info = _look(inspector, job_id, operation) if arguments.dry_run else operation.one(inspector, job_id, arguments)
        except (UnknownJob, WrongState, DuplicateTask) as error:
            failed += complain(inspector, error, job_id)
            continue
        results.append({"id": job_id, "state": None if info is None else info.state})
        if not wants_json(arguments):
            asked = operation.verb == "cancel" and info is not None and info.state is State.ACTIVE
            done = "asked to end" if asked else operation.done
            print(f"{output.printable(job_id)}: {'would be ' if arguments.dry_run else ''}{done}")
    if wants_json(arguments):
        output.print_json(results)
    return 1 if failed else 0


def _look(inspector: Inspector, job_id: str, operation: Operation) -> TaskInfo:
    """Return a job that could be changed; raises `UnknownJob` and `WrongState`."""
    info = inspector.task(job_id)
    if info.state not in operation.allowed:
        raise WrongState(job_id, info.state, f"it would not be {operation.done}")
    return info


def complain(inspector: Inspector, error: FireforgetError, job_id: str) -> int:
    """Tell on standard error why one of several jobs could not be dealt with; return 1, for counting."""
    hint = did_you_mean_id(inspector, job_id) if isinstance(error, UnknownJob) else ""
    print(f"fireforget: {output.printable(str(error))}{hint}", file=sys.stderr)
    return 1
