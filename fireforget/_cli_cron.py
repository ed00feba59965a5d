"""The commands about schedules: `cron list|history|pause|resume|delete`."""

import argparse
from collections.abc import Callable, Iterable
from typing import Any

from fireforget import _cli_output as output
from fireforget._cli_common import Refused, add_command, add_group, confirm, database_of, opened, report_changes, wants_json
from fireforget._cli_parser import a_count, suggestion
from fireforget.inspector import Inspector, ScheduleEvent, ScheduleInfo

_TIMES_IN_JSON = 3


def add_cron(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add `cron list|history|pause|resume|delete`."""
    cron = add_group(commands, "cron", "look at schedules, pause, resume and delete them")
    listing = add_command(cron, "list", _list, "print all schedules", "cron list\ncron list --times 5\ncron list --json")
    listing.add_argument("--times", type=a_count, metavar="N", help="print the next N ticks of each, in its own zone and in UTC")
    history = add_command(
        cron, "history", _history, "print what became of the last ticks of a schedule", "cron history report:daily --limit 5"
    )
    history.add_argument("name", metavar="NAME")
    history.add_argument("--limit", type=a_count, default=20, metavar="N", help="how many, the newest first (default: 20)")
    pause = add_command(cron, "pause", _pause, "have nothing enqueued at the ticks of schedules", "cron pause report:daily")
    resume = add_command(
        cron, "resume", _resume, "have schedules tick again, from their next ticks on", "cron resume report:daily"
    )
    delete = add_command(
        cron, "delete", _delete, "forget schedules that no registry has any more", "cron delete old:report --yes"
    )
    for command in (pause, resume, delete):
        command.add_argument("names", metavar="NAME", nargs="+")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def _list(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        schedules = inspector.schedules()
    if wants_json(arguments):
        output.print_json([_members(schedule, arguments.times or _TIMES_IN_JSON) for schedule in schedules])
    elif arguments.times is not None:
        _print_times(schedules, arguments.times)
    else:
        rows = [_row(schedule) for schedule in schedules]
        colours = ["paused" if schedule.paused else "" for schedule in schedules]
        header = ["name", "schedule", "zone", "next", "last", "type"]
        output.print_table(header, rows, empty="no schedules are known", left=(0, 1, 2, 5), colours=colours)
    return 0


def _members(schedule: ScheduleInfo, times: int) -> dict[str, Any]:
    return {**vars(schedule), "next_times": [] if schedule.paused else schedule.upcoming(times)}


def _row(schedule: ScheduleInfo) -> list[str]:
    following = "paused" if schedule.paused else "never" if schedule.next_at is None else output.briefly(schedule.next_at)
    if not schedule.workers and not schedule.paused:
        following = "no worker"
    last = "" if schedule.last_at is None else output.briefly(schedule.last_at)
    return [schedule.name, schedule.expression, schedule.timezone, following, last, schedule.type]


def _print_times(schedules: list[ScheduleInfo], times: int) -> None:
    rows = []
    for schedule in schedules:
        for moment in schedule.upcoming(times):
            rows.append([schedule.name, f"{moment:%a %Y-%m-%d %H:%M:%S %z}", schedule.timezone, output.instant(_in_utc(moment))])
    output.print_table(["name", "local time", "zone", "UTC"], rows, empty="no schedules are known", left=(0, 1, 2, 3))


def _in_utc(moment: Any) -> Any:
    from datetime import UTC

    return moment.astimezone(UTC)


def _history(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        _check(inspector, [arguments.name])
        events = inspector.schedule_history(arguments.name, arguments.limit)
    if wants_json(arguments):
        output.print_json([vars(event) for event in events])
    else:
        output.print_table(
            ["tick", "late", "outcome", "job"],
            [_row_of_event(event) for event in events],
            empty="nothing has been enqueued yet",
            left=(0, 2, 3),
        )
    return 0


def _row_of_event(event: ScheduleEvent) -> list[str]:
    late = output.age(max(0.0, (event.at - event.tick).total_seconds()))
    return [output.instant(event.tick), late, event.outcome, event.job_id or event.detail or ""]


def _pause(arguments: argparse.Namespace) -> int:
    return _change(arguments, Inspector.pause_schedule, "paused", "was paused already")


def _resume(arguments: argparse.Namespace) -> int:
    return _change(arguments, Inspector.resume_schedule, "resumed", "was not paused")


def _change(arguments: argparse.Namespace, how: Callable[[Inspector, str], bool], done: str, not_done: str) -> int:
    with opened(arguments) as (_, inspector):
        _check(inspector, arguments.names)
        changed = {name: how(inspector, name) for name in arguments.names}
    return report_changes(arguments, "schedule", changed, done, not_done)


def _delete(arguments: argparse.Namespace) -> int:
    with opened(arguments) as (_, inspector):
        _check(inspector, arguments.names)
        confirm(f"forget {', '.join(arguments.names)} in {database_of(arguments)}, with the history", arguments)
        for name in arguments.names:
            inspector.delete_schedule(name)
    if wants_json(arguments):
        output.print_json([{"schedule": name, "changed": True} for name in arguments.names])
    else:
        for name in arguments.names:
            print(f"{output.printable(name)}: deleted")
    return 0


def _check(inspector: Inspector, names: Iterable[str]) -> None:
    """Raise `Refused` with the nearest name when there is no such schedule."""
    known = [schedule.name for schedule in inspector.schedules()]
    for name in names:
        if name not in known:
            hint = suggestion(name, known) or ": a worker whose registry has it makes it known when it starts"
            raise Refused(f"there is no schedule {name!r}{hint}")
