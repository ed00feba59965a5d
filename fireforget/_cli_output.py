"""What the commands print: tables cut to the terminal, colours where there is one, times and durations as people say them.

Text from the database is shown with its control characters escaped: a payload or an error must not be able to steer the terminal.
"""

import json
import math
import os
import shutil
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, date, datetime
from typing import Any

from fireforget.inspector import Attempt, ChildDeath, ChildInfo, ChildJob, Step
from fireforget.task import Progress, State, TaskInfo

_COLOURS = {
    State.ACTIVE: "32",
    State.COMPLETED: "32",
    State.RETRY: "33",
    State.ARCHIVED: "31",
    State.CANCELLED: "35",
    "paused": "33",
    "bold": "1",
    "dim": "2",
}
_UNCUT = 200  # characters of a table's last cell where no terminal limits it
_ELLIPSIS = "…"


def use_colour() -> bool:
    """Return whether the output may be coloured: on a terminal, unless NO_COLOR is set or the terminal is dumb."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """Return the text in a colour of `_COLOURS`, or as it is where there is none or colours are not wanted."""
    code = _COLOURS.get(colour)
    return f"\x1b[{code}m{text}\x1b[0m" if code and use_colour() else text


def terminal_width() -> int | None:
    """Return the columns that a line may have; None where the output is no terminal and COLUMNS says nothing."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return shutil.get_terminal_size().columns
    return None


# --- text -------------------------------------------------------------------------------------------------------------


def printable(text: str, *, keep: str = "") -> str:
    """Return text in one line without control characters: they are shown escaped, but for those to keep."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def columns_of(text: str) -> int:
    """Return how many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, width: int) -> str:
    """Return as much of the text as fits into that many columns, with an ellipsis where something is missing."""
    if columns_of(text) <= width:
        return text
    kept, left = "", width - 1
    for c in text:
        left -= columns_of(c)
        if left < 0:
            break
        kept += c
    return kept + _ELLIPSIS if width > 0 else ""


def one_line(value: Any) -> str:
    """Return a JSON value in one line."""
    return printable(json.dumps(value, ensure_ascii=False))


def plural(count: int, noun: str = "job", several: str = "") -> str:
    """Return a number with its noun: "1 job", "2,000 jobs"."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


def short_duration(seconds: float) -> str:
    """Return a duration as `duration` does, below a second in milliseconds: "0.07 ms", "12.3 ms"."""
    return f"{seconds * 1000:.3g} ms" if 0 < seconds < 1 else duration(seconds)


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "0.25 s", "42 s", "5 min 10 s", "3 h 5 min", "12 d 4 h"."""
    if seconds < 10:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    for unit, size, smaller, smaller_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // smaller_size
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def size(count: float) -> str:
    """Return bytes in their largest unit: "512 B", "1.5 MiB"."""
    if count < 1024:
        return f"{count:.0f} B"
    units = ("KiB", "MiB", "GiB")
    power = min(len(units), int(math.log(count, 1024)))
    return f"{count / 1024**power:.1f} {units[power - 1]}"


def instant(moment: datetime | None) -> str:
    """Return an instant in UTC, to the second."""
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def from_now(moment: datetime, now: datetime | None = None) -> str:
    """Return an instant seen from now: "in 5 min", "3 h ago"."""
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return f"in {duration(seconds)}" if seconds > 0 else f"{duration(-seconds)} ago"


def briefly(moment: datetime, now: datetime | None = None) -> str:
    """Return an instant seen from now in its largest unit, for tables: "in 5m", "3h ago"."""
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return f"in {age(seconds)}" if seconds > 0 else f"{age(-seconds)} ago"


def age(seconds: float) -> str:
    """Return a duration in its largest unit, for tables: "0.4s", "42s", "5m", "3h", "12d"."""
    if seconds < 10:
        return f"{seconds:.1f}s" if seconds >= 0.05 else "0s"
    unit, divisor = next((u, d) for u, d in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)) if seconds >= d)
    return f"{seconds // divisor:.0f}{unit}"


# --- tables -----------------------------------------------------------------------------------------------------------


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    empty: str,
    left: Sequence[int] = (0,),
    whole: Sequence[int] = (0,),
    colours: Sequence[str] = (),
) -> None:
    """Print rows in columns, those in `left` to the left and the others to the right, cut to the width of the terminal.

    The columns in `whole` give way last. `colours` has a colour for each row's first cell.
    """
    if not rows:
        print(empty)
        return
    shown = [[printable(cell) for cell in row] for row in rows]
    shown = [[*row[:-1], cut(row[-1], _UNCUT)] for row in shown]
    widths = _widths([header, *shown], whole)
    print(paint(_line(header, widths, left), "bold"))
    for number, row in enumerate(shown):
        line = _line(row, widths, left)
        colour = colours[number] if number < len(colours) else ""
        print(paint(line[: len(row[0])], colour) + line[len(row[0]) :] if line.startswith(row[0]) else line)


def _widths(rows: Sequence[Sequence[str]], whole: Sequence[int]) -> list[int]:
    """Return the width of each column; the last one gets what the terminal has left, the widest give way when that is little."""
    widths = [max(columns_of(row[i]) for row in rows) for i in range(len(rows[0]))]
    limit = terminal_width()
    if limit is None:
        return widths
    least = [min(width, max(8, columns_of(rows[0][i]))) for i, width in enumerate(widths)]
    giving_way = [i for i in range(len(widths) - 1) if i not in whole]
    for i in [len(widths) - 1, *sorted(giving_way, key=lambda i: -widths[i])]:
        excess = sum(widths) + 2 * (len(widths) - 1) - limit
        if excess <= 0:
            break
        widths[i] = max(least[i], widths[i] - excess)
    return widths


def _line(row: Sequence[str], widths: Sequence[int], left: Sequence[int]) -> str:
    cells = []
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = cut(cell, width)
        filling = " " * (width - columns_of(text))
        cells.append(text + filling if i in left else filling + text)
    line = "  ".join(cells).rstrip()
    limit = terminal_width()
    return line if limit is None else cut(line, limit)


def rows_of_children(children: Sequence[ChildInfo]) -> list[list[str]]:
    """Return the cells of `CHILD_HEAD` for each child, those of a job for each that it runs."""
    rows = []
    for child in children:
        memory = "" if child.memory is None else size(child.memory)
        its = [str(child.pid), _since(child.started_at), memory]
        jobs = [[job.id, job.type, _since(job.since)] for job in child.jobs]
        rows.append([*its, *(jobs[0] if jobs else ["idle", "", ""])])
        rows += [["", "", "", *job] for job in jobs[1:]]
    return rows


CHILD_HEAD = ("child", "up", "memory", "runs", "type", "for")
CHILD_LEFT = (0, 3, 4)


def _since(moment: datetime) -> str:
    return age(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def deaths_of_children(count: int, last: ChildDeath | None) -> str:
    """Return how many children of a worker have died, and how the last one did."""
    told = "" if last is None else f", the last {briefly(last.at)}: {last.pid}, {last.reason}"
    return f"{plural(count, 'child has', 'children have')} died{told}"


def print_fields(members: Sequence[tuple[str, str]]) -> None:
    """Print names and values below each other; those without a value are left out."""
    width = max((len(name) for name, _ in members), default=0)
    for name, value in members:
        if value:
            print(f"{paint(name.ljust(width), 'dim')}  {printable(value)}")


def print_block(title: str, text: str) -> None:
    """Print text of several lines, indented below a title."""
    print(f"\n{paint(title, 'bold')}")
    for line in text.splitlines():
        print(f"  {printable(line, keep=chr(9))}")


# --- JSON -------------------------------------------------------------------------------------------------------------


def print_json(members: Any, *, indent: int | None = 2) -> None:
    """Print JSON in ASCII, which every terminal and pipe can carry."""
    print(json.dumps(members, indent=indent, default=_plain), flush=True)


def _plain(value: Any) -> Any:
    if isinstance(value, date):  # a datetime too
        return value.isoformat()
    if isinstance(value, Progress):
        return {"fraction": value.fraction, "note": value.note}
    if isinstance(value, ChildInfo | ChildJob | ChildDeath):
        return vars(value)
    return str(value)


def members_of(info: TaskInfo) -> dict[str, Any]:
    """Return a job as JSON shows it: the fields of `TaskInfo`."""
    return {field.name: getattr(info, field.name) for field in fields(info)}


def members_of_attempt(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as JSON shows it: the fields of `Attempt`."""
    return vars(attempt)


def members_of_step(step: Step) -> dict[str, Any]:
    """Return a step as JSON shows it: the fields of `Step`."""
    return vars(step)
