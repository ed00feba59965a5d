"""The commands that make and show jobs: `enqueue` and `task list|show`."""

import argparse
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import NamedTuple

from fireforget import _cli_output as output
from fireforget._cli_changes import add_changes, complain
from fireforget._cli_common import (
    Commands,
    Misused,
    Refused,
    a_header,
    add_command,
    add_filters,
    add_group,
    an_instant,
    check_filters,
    did_you_mean_id,
    filters_of,
    json_text,
    opened,
    wants_json,
)
from fireforget._cli_parser import a_count, a_duration, an_integer
from fireforget.errors import UnknownJob
from fireforget.inspector import Attempt, Dependant, Inspector, LimitInfo, Need, Step
from fireforget.task import State, Task, TaskInfo

DEFAULT_PAGE = 20
_MOST_LISTED = 10


def add_enqueue(commands: Commands) -> None:
    """Add `enqueue`."""
    enqueue = add_command(
        commands,
        "enqueue",
        _enqueue,
        "store one task and print its id",
        'enqueue email:send --payload \'{"to": "a@example.com"}\'\nenqueue report:build --process-in 2h --queue low',
    )
    enqueue.add_argument("type", metavar="TYPE", help="names the handler, such as email:send")
    add = enqueue.add_argument_group("options").add_argument
    add(
        "--payload",
        type=json_text,
        metavar="JSON",
        help="any JSON: an object has the handler's arguments by name, null has none, anything else is its only one; "
        "- reads standard input",
    )
    add("--queue", metavar="NAME", help="default: default")
    add("--priority", type=an_integer, metavar="N", help="higher first inside a queue (default: 0)")
    add("--max-retry", type=an_integer, metavar="N", help="retries after the first run (default: 25)")
    add("--timeout", type=a_duration, metavar="S", help="run time, such as 90 or 10m (default: 30m)")
    add("--deadline", type=an_instant, metavar="WHEN", help="after it the job is not run any more")
    add("--process-in", type=a_duration, metavar="S", help="delay, such as 90, 10m, 2h, 1d")
    add("--process-at", type=an_instant, metavar="WHEN", help="such as 2030-01-31T09:00:00+00:00")
    add("--task-id", metavar="ID", help="your own id (default: one is made)")
    add("--unique-for", type=a_duration, metavar="S", help="refuse a second one for so long")
    add("--unique-key", metavar="KEY", help="what makes it the same (default: queue, type and payload)")
    add("--retention", type=a_duration, metavar="S", help="keep the completed job and its result (default: 0)")
    add("--group", metavar="NAME", help="wait in this group, to be handed over with others as one task")
    add("--after", action="append", metavar="ID", help="wait until this job has completed; may be repeated")
    add("--after-failure", choices=("end", "run"), help="when that job fails: end like it, or run (default: end)")
    add("--header", type=a_header, action="append", metavar="KEY=VALUE", help="may be repeated")
    add("--create", action="store_true", help="create the database when it does not exist")


def add_task(commands: Commands) -> None:
    """Add `task list|show|run|archive|delete|cancel|update`."""
    task = add_group(commands, "task", "look at jobs and change them")
    listing = add_command(
        task, "list", _list, "print jobs in the order in which they were enqueued", "task list --state archived --type email:"
    )
    add_filters(listing)
    listing.add_argument("--limit", type=a_count, default=DEFAULT_PAGE, metavar="N", help=f"at most N (default: {DEFAULT_PAGE})")
    listing.add_argument("--after", metavar="ID", help="go on after this job: the last one of the page before")
    show = add_command(
        task,
        "show",
        _show,
        "print jobs, each with payload, result, steps and attempts",
        "task show 3f1c-12-0badcafe\ntask show --state archived --newer-than 1h --limit 3",
    )
    show.add_argument("ids", metavar="ID", nargs="*", help="jobs; or choose them with the flags below")
    add_filters(show)
    show.add_argument("--limit", type=a_count, default=DEFAULT_PAGE, metavar="N", help=f"at most N (default: {DEFAULT_PAGE})")
    add_changes(task)


# --- enqueue ----------------------------------------------------------------------------------------------------------


_ENQUEUE_OPTIONS = (
    "queue", "priority", "max_retry", "timeout", "deadline", "process_in", "process_at", "task_id", "unique_for", "unique_key",
    "retention", "group", "after", "after_failure",
)  # fmt: skip


def _enqueue(arguments: argparse.Namespace) -> int:
    options = {name: getattr(arguments, name) for name in _ENQUEUE_OPTIONS if getattr(arguments, name) is not None}
    if arguments.header:
        options["headers"] = dict(arguments.header)
    task = Task(arguments.type, arguments.payload, **options)
    with opened(arguments) as (queue, _):
        info = queue.enqueue(task)
    if wants_json(arguments):
        output.print_json(output.members_of(info))
    else:
        print(f"{output.printable(info.id)}  {info.state} in {output.printable(info.queue)}")
    return 0


# --- looking ----------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    filters = filters_of(arguments)
    with opened(arguments) as (_, inspector):
        check_filters(inspector, arguments)
        try:
            infos = inspector.tasks(arguments.state, limit=arguments.limit, after=arguments.after, **filters)
        except UnknownJob as error:
            raise Refused(f"{error}{did_you_mean_id(inspector, error.job_id)}") from error
    following = infos[-1].id if len(infos) == arguments.limit else None
    if wants_json(arguments):
        output.print_json({"tasks": [output.members_of(info) for info in infos], "after": following})
        return 0
    _print_list(infos, arguments.state)
    if following is not None:
        print(f"\nThere may be more: --after {output.printable(following)}")
    return 0


def _print_list(infos: Sequence[TaskInfo], state: State | None) -> None:
    """Print jobs with what tells most: the state where all are listed, the tries of those that failed."""
    columns: dict[str, Callable[[TaskInfo], str]] = {"id": lambda info: info.id}
    if state is None:
        columns = {"state": lambda info: info.state, **columns}
    columns |= {"type": lambda info: info.type, "queue": lambda info: info.queue}
    if state in (State.RETRY, State.ARCHIVED):
        columns["retries"] = lambda info: f"{info.retry_count}/{info.max_retry}"
    columns |= {
        "when" if state is None else _WHEN[state]: _when,
        "error" if state in (State.RETRY, State.ARCHIVED) else "payload": _gist,
    }
    names = list(columns)
    output.print_table(
        names,
        [[show(info) for show in columns.values()] for info in infos],
        empty="no jobs" if state is None else f"no {state} jobs",
        left=[i for i, name in enumerate(names) if name in ("state", "id", "type", "queue", "payload", "error")],
        whole=[i for i, name in enumerate(names) if name not in ("type", "queue")],
        colours=[] if state is not None else [info.state for info in infos],
    )


_WHEN = {
    State.PENDING: "due",
    State.SCHEDULED: "due",
    State.RETRY: "due",
    State.ACTIVE: "started",
    State.ARCHIVED: "archived",
    State.COMPLETED: "completed",
    State.CANCELLED: "cancelled",
    State.AGGREGATING: "enqueued",
    State.BLOCKED: "enqueued",
}
"""What the instant is that is shown for jobs of a state."""


def _when(info: TaskInfo) -> str:
    """Return the instant that matters most in its state, seen from now."""
    if info.state is State.ACTIVE and info.started_at is not None:
        return output.briefly(info.started_at)
    return output.briefly(info.completed_at or info.next_process_at or info.enqueued_at)


def _gist(info: TaskInfo) -> str:
    """Return what tells a job from its neighbours: the last error where it failed, else its payload."""
    if info.last_error and info.state in (State.ARCHIVED, State.RETRY):
        return info.last_error
    return "" if info.payload is None else output.one_line(info.payload)


class _Shown(NamedTuple):
    """All that is known of one job."""

    info: TaskInfo
    attempts: list[Attempt]
    steps: list[Step]
    needs: list[Need]
    dependants: list[Dependant]
    limit: LimitInfo | None


def _all_of(inspector: Inspector, job_id: str) -> _Shown:
    return _Shown(
        inspector.task(job_id),
        inspector.attempts(job_id),
        inspector.steps(job_id),
        inspector.needs(job_id),
        inspector.dependants(job_id),
        inspector.limit_of(job_id),
    )


def _show(arguments: argparse.Namespace) -> int:
    filters = filters_of(arguments)
    chosen = arguments.state is not None or bool(filters)
    if bool(arguments.ids) == chosen:
        raise Misused("give either ids, or --state and other filters: which jobs are to be shown?")
    shown: list[_Shown] = []
    failed = 0
    with opened(arguments) as (_, inspector):
        check_filters(inspector, arguments)
        infos = inspector.tasks(arguments.state, limit=arguments.limit, **filters) if chosen else ()
        for job_id in arguments.ids or [info.id for info in infos]:
            try:
                shown.append(_all_of(inspector, job_id))
            except UnknownJob as error:
                failed += 0 if chosen else complain(inspector, error, job_id)  # it ended since it was listed
    if wants_json(arguments):
        members = [
            {
                **output.members_of(job.info),
                "attempts": [output.members_of_attempt(attempt) for attempt in job.attempts],
                "steps": [output.members_of_step(step) for step in job.steps],
                "needs": [vars(need) for need in job.needs],
                "dependants": [vars(dependant) for dependant in job.dependants],
                "limit": None if job.limit is None else vars(job.limit),
            }
            for job in shown
        ]
        output.print_json(members[0] if len(arguments.ids) == 1 and members else members)
    else:
        print("" if shown or failed else "no job matches\n", end="")
        for position, job in enumerate(shown):
            print("\n" if position else "", end="")
            _print_job(job)
    return 1 if failed else 0


def _print_job(job: _Shown) -> None:
    info = job.info
    output.print_fields(
        [
            ("job", info.id),
            ("type", info.type),
            ("queue", info.queue),
            ("state", info.state),
            ("priority", f"{info.priority}"),
            ("retries", f"{info.retry_count} of {info.max_retry}"),
            ("timeout", "" if info.timeout is None else output.duration(info.timeout)),
            ("deadline", _moment(info.deadline)),
            ("enqueued", _moment(info.enqueued_at)),
            ("due", _moment(info.next_process_at)),
            ("limit", _limit(info, job.limit)),
            ("started", _moment(info.started_at)),
            ("ended", _moment(info.completed_at)),
            ("worker", info.worker or ""),
            ("group", info.group or ""),
            ("progress", _progress(info)),
            ("last error", info.last_error or ""),
            ("waits for", _listed([f"{need.id} ({need.outcome or need.state or 'gone'})" for need in job.needs])),
            ("needed by", _listed([f"{dependant.id} ({dependant.state})" for dependant in job.dependants])),
        ]
    )
    for title, value in (("headers", dict(info.headers) or None), ("payload", info.payload), ("result", info.result)):
        if value is not None:
            output.print_block(title, json.dumps(value, indent=2, ensure_ascii=False))
    for step in job.steps:
        title = f"step {step.name}, {output.instant(step.stored_at)}"
        output.print_block(title, json.dumps(step.result, indent=2, ensure_ascii=False))
    for attempt in job.attempts:
        _print_attempt(attempt)


def _listed(jobs: list[str]) -> str:
    """Return the first few of some jobs in one line."""
    more = f", and {len(jobs) - _MOST_LISTED} more" if len(jobs) > _MOST_LISTED else ""
    return ", ".join(jobs[:_MOST_LISTED]) + more


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{output.instant(moment)} ({output.from_now(moment)})"


def _limit(info: TaskInfo, limit: LimitInfo | None) -> str:
    """Return how far the limits of a job that waits for its start, or has started, are used up."""
    if limit is None or info.state not in (State.PENDING, State.ACTIVE):
        return ""
    if info.state == State.ACTIVE:  # it waits for nothing any more
        return str(limit).removeprefix("limited by ")
    return f"{limit}, the next {_moment(limit.opens_at)}" if limit.opens_at is not None else str(limit)


def _progress(info: TaskInfo) -> str:
    if info.progress is None:
        return ""
    return f"{info.progress.fraction:.0%}" + (f", {info.progress.note}" if info.progress.note else "")


def _print_attempt(attempt: Attempt) -> None:
    began = f"{output.instant(attempt.started_at)} ({output.from_now(attempt.started_at)})"
    title = f"attempt {attempt.number}, {began}, after {output.duration(attempt.duration)}, worker {attempt.worker}"
    text = attempt.traceback or ""
    if attempt.error not in text:  # it is the traceback's last line already
        text = f"{text}\n{attempt.error}".strip()
    output.print_block(title, text)
