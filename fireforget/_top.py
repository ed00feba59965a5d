"""What `top` shows: a `Snapshot` of the queue, the `View` that a person has of it, and the lines of a screen made from the two.

Nothing here knows a terminal or prints: keys come in as words, and a screen goes out as lines of styled text, never more and
never longer than there is room for. Each snapshot is a few short reads of what the view shows, and no read is left open.
"""

import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from fireforget._cli_output import (
    CHILD_HEAD,
    CHILD_LEFT,
    age,
    columns_of,
    cut,
    deaths_of_children,
    one_line,
    plural,
    printable,
    rows_of_children,
    short_duration,
)
from fireforget.errors import UnknownJob
from fireforget.inspector import Attempt, HistoryPoint, Inspector, QueueStats, WorkerInfo
from fireforget.task import State, TaskInfo

TABS = ("queues", "jobs", "workers")
STATES = (
    State.ACTIVE, State.PENDING, State.SCHEDULED, State.RETRY, State.ARCHIVED, State.COMPLETED, State.AGGREGATING, State.BLOCKED,
    State.CANCELLED,
)  # fmt: skip
HISTORY_MINUTES = 60
RATE_SECONDS = 10.0
"""Over how long the rate of a queue is taken: workers write their counts about once a second."""
HELP = (
    ("tab, 1 2 3", "queues, jobs, workers"),
    ("up down, j k", "move; also page up and down, g G"),
    ("left right, h l", "jobs: the state before, the next one"),
    ("n p", "jobs: the next page, the one before"),
    ("enter", "a queue: its jobs; a job: all of it; a worker's children and jobs are below it"),
    ("a", "jobs: of all queues"),
    ("esc", "back"),
    ("space", "hold, go on"),
    ("r", "look again now"),
    ("?", "this page"),
    ("q", "end"),
)
_STYLES = {
    State.ACTIVE: "good", State.COMPLETED: "good", State.RETRY: "warn", State.ARCHIVED: "bad", State.CANCELLED: "warn"
}  # fmt: skip
_FRAME = 4  # lines of a screen that are not its body: two above, a head, one below
_SPARKS = " ▁▂▃▄▅▆▇█"
_PLAIN_SPARKS = " .:-=+*#@"
_BAR = 10
_WIDEST = 40  # columns of a cell, but for the last

Line = list[tuple[str, str]]
"""Parts of text, each with a style: "", "bold", "dim", "good", "warn", "bad", "title" or "chosen"."""


class Table(NamedTuple):
    """Rows of cells below their heads; those named in `left` to the left, the others to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int]
    styles: Sequence[str]


@dataclass
class Snapshot:
    """What was read at one moment."""

    at: float
    """In monotonic seconds."""
    queues: list[QueueStats]
    of: str | None
    """The queue whose history it is; None for all."""
    history: list[HistoryPoint]
    """The last hour by minute, the oldest first."""
    workers: list[WorkerInfo]
    jobs: list[TaskInfo]
    """Those of the page, of the chosen worker, or those that run."""
    detail: TaskInfo | None = None
    attempts: list[Attempt] = field(default_factory=list)


@dataclass
class View:
    """What a person looks at."""

    tab: str = "queues"
    queue: str | None = None
    """The queue that jobs are shown of; None for all."""
    state: State = State.ACTIVE
    at: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TABS, 0))
    """The chosen row of each tab."""
    pages: list[str] = field(default_factory=list)
    """The ids after which the pages begin that were left behind, and at the end this one."""
    job: str | None = None
    """The id of the job that is shown alone."""
    scroll: int = 0
    help: bool = False
    held: bool = False
    room: int = 20
    """Rows that fit on the screen."""
    sparks: str = _SPARKS
    rates: "Rates" = field(default_factory=lambda: Rates())  # noqa: PLW0108 - it stands below

    # --- keys ---------------------------------------------------------------------------------------------------------

    def press(self, key: str, seen: Snapshot | None) -> str:  # noqa: PLR0911 - one key after the other
        """Take in a key; return "quit", "read" when something else is to be read, "draw", or "" where it means nothing."""
        if key == "q":
            return "quit"
        if key == "?":
            self.help = not self.help
            return "draw"
        if self.help:
            self.help = False
            return "draw"
        if key == "space":
            self.held = not self.held
            return "draw" if self.held else "read"
        if key == "r":
            return "read"
        if key in ("tab", "backtab", "1", "2", "3"):
            step = {"tab": 1, "backtab": -1}.get(key)
            self.tab = TABS[int(key) - 1 if step is None else (TABS.index(self.tab) + step) % len(TABS)]
            self.job = None
            return "read"
        if self.job is not None:
            return self._press_in_job(key)
        return self._move(key, seen) or (self._press_in_jobs(key, seen) if self.tab == "jobs" else self._open(key, seen))

    def _press_in_job(self, key: str) -> str:
        if key in ("esc", "left", "enter"):
            self.job, self.scroll = None, 0
            return "read"
        steps = {"down": 1, "up": -1, "page down": self.room, "page up": -self.room, "home": -self.scroll}
        self.scroll = max(0, self.scroll + steps.get(key, 0))
        return "draw" if key in steps else ""

    def _move(self, key: str, seen: Snapshot | None) -> str:
        count = self._count(seen)
        steps = {"down": 1, "up": -1, "page down": self.room, "page up": -self.room, "home": -count, "end": count}
        if key not in steps:
            return ""
        wanted = self.at[self.tab] + steps[key]
        at_end = self.tab == "jobs" and key in ("down", "page down") and self.at["jobs"] == count - 1
        if at_end and self._turn_page(seen):
            return "read"
        if self.tab == "jobs" and key in ("up", "page up") and self.at["jobs"] == 0 and self.pages:
            self.pages.pop()
            return "read"
        self.at[self.tab] = max(0, min(wanted, count - 1))
        return "read" if self.tab == "workers" else "draw"

    def _press_in_jobs(self, key: str, seen: Snapshot | None) -> str:
        if key in ("left", "right"):
            step = 1 if key == "right" else -1
            self.look_at(STATES[(STATES.index(self.state) + step) % len(STATES)], self.queue)
        elif key == "a":
            self.look_at(self.state, None)
        elif key == "esc":
            self.tab = "queues"
        elif key == "n" and not self._turn_page(seen):
            return ""
        elif key == "p" and self.pages:
            self.pages.pop()
        elif key == "enter" and seen is not None and self.at["jobs"] < len(seen.jobs):
            self.job, self.scroll = seen.jobs[self.at["jobs"]].id, 0
        elif key != "n":
            return ""
        return "read"

    def _open(self, key: str, seen: Snapshot | None) -> str:
        if key not in ("enter", "right") or self.tab != "queues" or seen is None or not seen.queues:
            return ""
        chosen = seen.queues[min(self.at["queues"], len(seen.queues) - 1)]
        state = next((state for state in STATES if chosen.counts[state]), self.state)
        self.tab = "jobs"
        self.look_at(state, chosen.name)
        return "read"

    def look_at(self, state: State, queue: str | None) -> None:
        """Show the first page of the jobs of a state and a queue, None for all queues."""
        self.state, self.queue, self.at["jobs"] = state, queue, 0
        self.pages.clear()

    def _turn_page(self, seen: Snapshot | None) -> bool:
        if seen is None or len(seen.jobs) < self.room:
            return False
        self.pages.append(seen.jobs[-1].id)
        self.at["jobs"] = 0
        return True

    def _count(self, seen: Snapshot | None) -> int:
        if seen is None:
            return 0
        return {"queues": len(seen.queues), "jobs": len(seen.jobs), "workers": len(seen.workers)}[self.tab]

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self, inspector: Inspector) -> Snapshot:
        """Read what this view shows, in short reads. Raises `StoreError`s."""
        queues = inspector.queues()
        self.rates.add(time.monotonic(), queues)
        chosen = queues[min(self.at["queues"], len(queues) - 1)].name if self.tab == "queues" and queues else None
        of = self.queue if self.tab == "jobs" else chosen
        history = inspector.history(of, minutes=HISTORY_MINUTES)[::-1]
        workers = inspector.workers()
        seen = Snapshot(time.monotonic(), queues, of, history, workers, [])
        if self.job is not None:
            with suppress(UnknownJob):  # it has ended meanwhile
                seen.detail, seen.attempts = inspector.task(self.job), inspector.attempts(self.job)
        elif self.tab == "jobs":
            seen.jobs = self._read_page(inspector)
        elif self.tab == "workers" and workers:
            worker = workers[min(self.at["workers"], len(workers) - 1)]
            seen.jobs = inspector.tasks_of_worker(worker.name, limit=max(1, self.room - len(workers)))
        elif self.tab == "queues":
            seen.jobs = inspector.tasks(State.ACTIVE, limit=max(1, self.room - len(queues)))
        self.at[self.tab] = max(0, min(self.at[self.tab], self._count(seen) - 1))
        return seen

    def _read_page(self, inspector: Inspector) -> list[TaskInfo]:
        """Return the jobs of the page; where none are left on it, those of the page before."""
        while self.pages:
            try:
                found = inspector.tasks(self.state, queue=self.queue, limit=self.room, after=self.pages[-1])
            except UnknownJob:  # the job after which the page begins is gone
                found = []
            if found:
                return found
            self.pages.pop()
        return inspector.tasks(self.state, queue=self.queue, limit=self.room)


class Rates:
    """How many runs a second end in each queue, from the totals of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, dict[str, int]]] = deque()

    def add(self, now: float, queues: Sequence[QueueStats]) -> None:
        """Take in the totals of a moment."""
        self._seen.append((now, {q.name: q.processed_total for q in queues}))
        while len(self._seen) > 2 and self._seen[1][0] <= now - RATE_SECONDS:
            self._seen.popleft()

    def of(self, queue: str) -> float | None:
        """Return the rate of a queue; None when it was seen once only."""
        if len(self._seen) < 2:
            return None
        (before, totals), (now, later) = self._seen[0], self._seen[-1]
        return max(0, later.get(queue, 0) - totals.get(queue, 0)) / (now - before) if now > before else None


# --- the screen -------------------------------------------------------------------------------------------------------


def screen(view: View, seen: Snapshot | None, trouble: str, width: int, height: int, name: str) -> list[Line]:
    """Return the lines of a screen of that size; `trouble` says why nothing could be read, `name` is that of the database."""
    view.room = max(1, height - _FRAME - 1)
    lines: list[Line] = [_title(view, name)]
    if height > _FRAME and seen is not None:
        lines.append(_summary(view, seen))
    room = max(0, height - len(lines) - 1)
    if view.help:
        body: list[Line] = [[("keys", "bold")], *([(f"{keys:<18}", "bold"), (what, "")] for keys, what in HELP)]
    elif seen is None:
        body = [[("nothing could be read yet", "dim")]] if trouble else []
    elif view.job is not None:
        body = _job(view, seen, room)
    else:
        body = {"queues": _queues, "jobs": _jobs, "workers": _workers}[view.tab](view, seen, room)
    lines += body[:room]
    lines += [[] for _ in range(height - len(lines) - 1)]
    if height > 1:
        lines.append(_foot(view, seen, trouble))
    elif trouble:
        lines = [_foot(view, seen, trouble)]
    return [_cut_line(line, width) for line in lines[:height]]


def _cut_line(line: Line, width: int) -> Line:
    kept: Line = []
    for text, style in line:
        shown = cut(printable(text), width)
        if shown:
            kept.append((shown, style))
        width -= columns_of(shown)
        if shown != text or width <= 0:
            break
    return kept


def _title(view: View, name: str) -> Line:
    line: Line = []
    for number, tab in enumerate(TABS, 1):
        line += [(f" {number} {tab} ", "chosen" if tab == view.tab else "title"), (" ", "")]
    return [*line, (name, "dim")]


def _foot(view: View, seen: Snapshot | None, trouble: str) -> Line:
    if trouble:
        since = "" if seen is None else f"; shown is what was {age(time.monotonic() - seen.at)} ago"
        return [(f"cannot read, trying again: {trouble}{since}", "bad")]
    if view.held:
        return [("held: space goes on", "warn"), ("  ? keys  q ends", "dim")]
    return [(f"{datetime.now(UTC):%H:%M:%S} UTC", "dim"), ("  ? keys  q ends", "dim")]


def _summary(view: View, seen: Snapshot) -> Line:
    """Return the last hour: a curve, and what it comes to."""
    processed, failed = (sum(getattr(p, name) for p in seen.history) for name in ("processed", "failed"))
    line: Line = [("last hour" + ("" if seen.of is None else f" of {seen.of}") + ": ", "dim")]
    if processed:
        pairs = zip(seen.history[::2], seen.history[1::2], strict=True)
        line += [
            (sparkline([a.processed + b.processed for a, b in pairs], view.sparks), "good"),
            (f" {plural(processed, 'run')}", ""),
        ]
        line.append((f", {failed / processed:.1%} failed", "bad" if failed else "dim"))
        for what, total, number in (("run", "run_seconds", "timed"), ("wait", "wait_seconds", "waited")):
            if runs := sum(getattr(p, number) for p in seen.history):
                line.append((f", {what} {short_duration(sum(getattr(p, total) for p in seen.history) / runs)}", "dim"))
    else:
        line.append(("no run ended", "dim"))
    alive = sum(worker.alive for worker in seen.workers)
    line.append((f", {plural(alive, 'worker')}" if alive else ", no worker", "dim" if alive else "warn"))
    return line


def sparkline(values: Sequence[float], sparks: str = _SPARKS) -> str:
    """Return one character a value, the higher the more; what is not 0 is seen."""
    most = max(values, default=0)
    return "".join(sparks[0 if not value else max(1, round(value / most * (len(sparks) - 1)))] for value in values)


def bar(fraction: float, sparks: str = _SPARKS) -> str:
    """Return a progress bar with its percentage."""
    full = int(min(1.0, max(0.0, fraction)) * _BAR)
    empty = "░" if sparks == _SPARKS else "."
    return f"{sparks[-1] * full}{empty * (_BAR - full)} {fraction:4.0%}"


def _table_lines(table: Table, chosen: int | None, room: int) -> list[Line]:
    """Return a table's head and as many rows as there is room for, with the chosen one among them."""
    cells_of = [[*(cut(printable(cell), _WIDEST) for cell in row[:-1]), printable(row[-1])] for row in [table.head, *table.rows]]
    widths = [max(columns_of(row[i]) for row in cells_of) for i in range(len(table.head))]

    def text(cells: Sequence[str]) -> str:
        shown = []
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
            filling = " " * (width - columns_of(cell))
            shown.append(cell + filling if i in table.left else filling + cell)
        return "  ".join(shown).rstrip()

    fits = max(1, room - 1)
    first = 0 if chosen is None else max(0, min(chosen - fits // 2, len(table.rows) - fits))
    rows: list[Line] = [
        [(text(row), "chosen" if number == chosen else style)]
        for number, (row, style) in enumerate(zip(cells_of[1:], table.styles, strict=True))
    ]
    return [[(text(cells_of[0]), "bold")], *rows[first : first + fits]]


def _queues(view: View, seen: Snapshot, room: int) -> list[Line]:
    if not seen.queues:
        return [[("no jobs are stored", "dim")]]
    rates = [view.rates.of(q.name) for q in seen.queues]
    others = [state for state in STATES[2:] if any(q.counts[state] for q in seen.queues)]
    rows = [
        [
            q.name + (" (paused)" if q.paused else ""),
            *(f"{q.counts[state]:,}" for state in (State.PENDING, State.ACTIVE)),
            age(q.latency),
            "-" if rate is None else f"{rate:,.0f}/s" if rate >= 10 or not rate else f"{rate:.1f}/s",
            *(f"{q.counts[state]:,}" for state in others),
            f"{q.processed_today:,}",
            f"{q.failed_today:,}",
        ]
        for q, rate in zip(seen.queues, rates, strict=True)
    ]
    head = ["queue", "pending", "active", "age", "rate", *others, "today", "failed"]
    styles = ["warn" if q.paused else "" for q in seen.queues]
    lines = _table_lines(Table(head, rows, (0,), styles), view.at["queues"], room)
    if seen.jobs and room - len(lines) >= 3:
        lines += [[], *_table_lines(_table_of_running(seen.jobs, view.sparks), None, room - len(lines) - 1)]
    return lines


def _jobs(view: View, seen: Snapshot, room: int) -> list[Line]:
    counts = [q.counts for q in seen.queues if view.queue in (None, q.name)]
    strip: Line = [(("all queues" if view.queue is None else view.queue) + ": ", "bold")]
    for state in STATES:
        number = sum(of_queue[state] for of_queue in counts)
        if number or state is view.state:
            strip.append((f" {state} {number:,} ", "chosen" if state is view.state else _STYLES.get(state, "")))
    if room <= 1:
        return [strip]
    if not seen.jobs:
        return [strip, [(f"no {view.state} jobs", "dim")]]
    if view.state is State.ACTIVE:
        table = _table_of_running(seen.jobs, view.sparks)
    else:
        rows = [
            [info.id, info.type, info.queue, f"{info.retry_count}/{info.max_retry}", _when(info), _said(info)]
            for info in seen.jobs
        ]
        table = Table(
            ["id", "type", "queue", "retries", "when", ""], rows, (0, 1, 2, 4, 5), [_STYLES.get(view.state, "")] * len(rows)
        )
    return [strip, *_table_lines(table, view.at["jobs"], room - 1)]


def _workers(view: View, seen: Snapshot, room: int) -> list[Line]:
    if not seen.workers:
        return [[("no worker has signed in", "warn")]]
    rows = [
        [
            worker.name,
            "alive" if worker.alive else "dead",
            f"{worker.concurrency}" + (f" x {worker.threads}" if worker.threads > 1 else ""),
            f"{worker.active:,}",
            _ago(worker.started_at),
            ",".join(f"{name}={weight}" for name, weight in worker.queues.items()),
        ]
        for worker in seen.workers
    ]
    styles = ["" if worker.alive else "bad" for worker in seen.workers]
    table = Table(["worker", "state", "children", "jobs", "up", "queues"], rows, (0, 1, 5), styles)
    most = max(2, room - 3 if len(rows) < room - 3 else room // 2)
    lines = _table_lines(table, view.at["workers"], most)
    lines += _children(seen.workers[min(view.at["workers"], len(rows) - 1)], room - len(lines), len(seen.jobs))
    if room - len(lines) >= 3:
        lines += [
            [],
            *(_table_lines(_table_of_running(seen.jobs, view.sparks), None, room - len(lines) - 1) if seen.jobs else []),
        ]
        if not seen.jobs:
            lines.append([("this one has no jobs in its hands", "dim")])
    return lines


def _children(worker: WorkerInfo, room: int, jobs: int) -> list[Line]:
    """Return a worker's children and their deaths, with room left for the jobs in its hands."""
    lines: list[Line] = []
    if worker.child_deaths and room >= 3:
        lines += [[], [(deaths_of_children(worker.child_deaths, worker.last_child_death), "bad")]]
    rows = rows_of_children(worker.children or [])
    most = room - len(lines) - 1 - min(jobs + 2, room // 2)
    if rows and most >= 2:
        styles = ["good" if row[4] else "dim" for row in rows]
        lines += [[], *_table_lines(Table(CHILD_HEAD, rows, CHILD_LEFT, styles), None, most)]
    return lines


def _table_of_running(jobs: Sequence[TaskInfo], sparks: str) -> Table:
    rows = [
        [
            info.id,
            info.type,
            info.queue,
            _ago(info.started_at),
            bar(info.progress.fraction, sparks) if info.progress else "",
            (info.progress.note if info.progress else None) or "",
        ]
        for info in jobs
    ]
    return Table(["id", "type", "queue", "since", "progress", ""], rows, (0, 1, 2, 4, 5), ["good"] * len(rows))


def _job(view: View, seen: Snapshot, room: int) -> list[Line]:
    """Return all of a job, below what was scrolled past."""
    if seen.detail is None:
        return [[(f"job {view.job} is not stored any more", "warn")]]
    info = seen.detail
    members = [
        ("id", info.id), ("type", info.type), ("queue", info.queue), ("state", str(info.state)), ("priority", str(info.priority)),
        ("retries", f"{info.retry_count} of {info.max_retry}"), ("enqueued", _at(info.enqueued_at)),
        ("next", _at(info.next_process_at)), ("started", _at(info.started_at)), ("ended", _at(info.completed_at)),
        ("worker", info.worker or ""), ("progress", bar(info.progress.fraction, view.sparks) if info.progress else ""),
        ("note", (info.progress.note if info.progress else None) or ""), ("group", info.group or ""),
        ("payload", one_line(info.payload)), ("result", "" if info.result is None else one_line(info.result)),
        ("last error", info.last_error or ""),
    ]  # fmt: skip
    lines: list[Line] = [[(f"{name:<11}", "dim"), (value, "")] for name, value in members if value]
    for attempt in seen.attempts[::-1]:
        lines += [[], [(f"attempt {attempt.number}, {_at(attempt.started_at)}, took {short_duration(attempt.duration)}", "bold")]]
        lines += [[(line, "")] for line in (attempt.traceback or attempt.error).splitlines()]
    view.scroll = min(view.scroll, max(0, len(lines) - room))
    return lines[view.scroll :]


def _when(info: TaskInfo) -> str:
    if info.completed_at is not None:
        return f"{_ago(info.completed_at)} ago"
    moment = info.next_process_at
    if moment is not None and moment > datetime.now(UTC):
        return f"in {age((moment - datetime.now(UTC)).total_seconds())}"
    return f"{_ago(moment or info.enqueued_at)} ago"


def _said(info: TaskInfo) -> str:
    return info.last_error.strip().splitlines()[0] if info.last_error and info.last_error.strip() else one_line(info.payload)


def _ago(moment: datetime | None) -> str:
    return "" if moment is None else age(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S} UTC"
