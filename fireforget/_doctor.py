"""Looks for what is wrong with a database and what runs on it, and says what to do about each of it.

It works on the path of the file, so that it can also tell why a queue cannot be opened, and changes nothing. Each check is a
function that yields what it found; one that finds nothing wrong yields one `ok`. A check that cannot be made, since one before it
has failed, is left out.
"""

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fireforget import _db, _schema, _sql, _sql_queues
from fireforget._schema import STATE_OF_NUMBER
from fireforget._workers import WorkerRow, is_alive, read_workers
from fireforget.clock import Clock
from fireforget.errors import StoreBusy, StoreError
from fireforget.task import State

MEBIBYTE = 1024 * 1024
LARGE_WAL_BYTES = 64 * MEBIBYTE
MANY_FREE_BYTES = 64 * MEBIBYTE
"""Free pages are worth a word from here on, and only where they are half of the file."""
LITTLE_SPACE_BYTES, NO_SPACE_BYTES = 256 * MEBIBYTE, 32 * MEBIBYTE
STALLED_SECONDS = 60.0
"""A job that has been due for longer should have been started."""
MANY_ARCHIVED = 1000
CLOCK_SKEW_SECONDS = 60.0
_LOCK_PATIENCE = 2.0  # seconds; no transaction of ours takes as long
_MOST_NAMED = 3
_NO_CHECKPOINTS = "have other programs that write to the file set PRAGMA wal_autocheckpoint = 0"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    """Which one."""
    status: Literal["ok", "warning", "error"]
    """An error keeps jobs from being stored or run, or may cost them; a warning is worth a look."""
    message: str
    remedy: str | None = None
    """What to do; None where there is nothing to do."""


_Found = Iterator[tuple[Literal["ok", "warning", "error"], str, str | None]]


@dataclass
class _Patient:
    """The file that is looked at, and what the checks of it have in common."""

    path: str
    full: bool
    now: float
    connection: Any = None
    workers: list[WorkerRow] = field(default_factory=list)
    living: set[int] = field(default_factory=set)
    """Numbers of the workers that live, or may."""

    def value(self, statement: str) -> Any:
        return self.connection.execute(statement).fetchone()[0]

    def look_for_workers(self) -> None:
        self.workers = read_workers(self.connection)
        self.living = {row.n for row in self.workers if is_alive(self.path, row.lock_file, row.boot_id, row.pid)}


def examine(path: str | os.PathLike[str], *, full: bool = False, clock: Clock = time.time) -> list[Finding]:
    """Return what every check found, in the order of the checks; arguments as in `Inspector.doctor`.

    Raises `StoreUnavailable` for what cannot be the path of a file at all.
    """
    patient = _Patient(_db.resolve_path(path), full, clock())
    findings = _make(patient, _OF_THE_PLACE)
    if not os.path.isfile(patient.path):
        return [
            *findings,
            Finding("file", "error", "there is no such file", "give the path of a queue's database, with --db or FIREFORGET_DB"),
        ]
    with _db.gate:
        try:
            patient.connection = _db.look(patient.path)
        except StoreError as error:
            return [*findings, Finding("file", "error", *_halves(error.problem))]
        try:
            findings += _make(patient, _OF_THE_FILE)
            if not any(f.status == "error" and f.check in ("integrity", "schema") for f in findings):
                findings += _make(patient, _OF_THE_JOBS)
        finally:
            patient.connection.close()
    return findings


def _make(patient: _Patient, checks: dict[str, Callable[[_Patient], _Found]]) -> list[Finding]:
    findings = []
    for name, check in checks.items():
        try:
            with _db.translated(patient.path):
                findings += [Finding(name, *found) for found in check(patient)]
        except StoreError as error:
            findings.append(Finding(name, "error", *_halves(error.problem)))
    return findings


def _halves(problem: str) -> tuple[str, str]:
    """Return what happened and what to do of an error's text, which says both; of SQLite's own it says the first alone."""
    what, _, remedy = problem.rpartition(": ")
    if not what or problem.startswith("SQLite says"):
        return problem, "where the disk is sound, restore a backup"
    return what, remedy


# --- the place ----------------------------------------------------------------------------------------------------------


def _file_system(patient: _Patient) -> _Found:
    kind = _db.file_system_of(os.path.dirname(patient.path))
    if kind in _db.NETWORK_FILE_SYSTEMS:
        yield "error", f"it lies on a network file system ({kind}), where SQLite's WAL cannot work", "move it to a local disk"
    else:
        yield "ok", kind or "the system does not tell which", None


def _permissions(patient: _Patient) -> _Found:
    well = True
    folder = os.path.dirname(patient.path)
    for place in (patient.path, folder):
        if os.path.exists(place) and not os.access(place, os.R_OK | os.W_OK):
            well = False
            yield "error", f"{place} cannot be written by this user", "give this user the right to write the file and its folder"
    owner = os.stat(patient.path).st_uid if os.path.exists(patient.path) else None
    for file in (patient.path, patient.path + "-wal", patient.path + "-shm", patient.path + "-checkpoint"):
        try:
            status = os.stat(file)
        except OSError:
            continue
        if status.st_uid != owner:
            well = False
            yield (
                "error",
                f"{file} belongs to another user than the database: its programs cannot write",
                "give it to the database's owner (chown), and run commands on the queue as that user",
            )
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            well = False
            yield (
                "warning",
                f"{file} can be used by others (mode {stat.S_IMODE(status.st_mode):o}): payloads may be private",
                "chmod 600, unless programs of other users need it",
            )
    if well:
        yield "ok", "for its owner alone, who may write", None


def _disk_space(patient: _Patient) -> _Found:
    folder = os.path.dirname(patient.path)
    if not os.path.isdir(folder):
        return
    free = shutil.disk_usage(folder).free
    if free < LITTLE_SPACE_BYTES:
        yield (
            "error" if free < NO_SPACE_BYTES else "warning",
            f"{_mib(free)} are free on its disk: a job is refused when there are none",
            "make room: the WAL alone may take 64 MiB",
        )
    else:
        yield "ok", f"{_mib(free)} are free", None


def _sqlite(patient: _Patient) -> _Found:
    version = _db.library_version()
    if _db.has_wal_reset_bug(version):
        yield (
            "warning",
            f"version {version} can damage a file that two programs checkpoint; fireforget itself does so one at a time",
            f"{_NO_CHECKPOINTS}; or use SQLite 3.51.3, 3.50.7 or 3.44.6",
        )
    else:
        yield "ok", f"version {version}", None


# --- the file -----------------------------------------------------------------------------------------------------------


def _journal_mode(patient: _Patient) -> _Found:
    mode = patient.value("PRAGMA journal_mode")
    if mode != "wal":
        yield (
            "warning",
            f"the file is in journal mode {mode}, where readers and writers stop each other",
            "find the program that set it; opening the file as a queue converts it back to WAL",
        )
    else:
        yield "ok", "WAL", None


def _integrity(patient: _Patient) -> _Found:
    check = "integrity_check" if patient.full else "quick_check"
    found = [str(row[0]) for row in patient.connection.execute(f"PRAGMA {check}({_MOST_NAMED})")]
    if found != ["ok"]:
        yield (
            "error",
            f"the file is damaged: {'; '.join(found)}",
            "stop what writes to it, keep a copy of all its files, and restore a backup or try `.recover` of sqlite3",
        )
    else:
        yield "ok", "every page and index" if patient.full else "every page; with the full check, indexes too", None


def _schema_version(patient: _Patient) -> _Found:
    version = _schema.read_version(patient.connection)
    if version == 0:
        yield "error", "there is no queue in this database", "give the path of a queue's database, or open it as one first"
    elif version > _schema.VERSION:
        yield "error", f"a newer fireforget has migrated it (schema version {version})", "upgrade this one"
    elif version < _schema.VERSION:
        yield (
            "error",
            f"its schema has version {version}, this fireforget knows {_schema.VERSION}",
            "stop the older programs, then open it with this fireforget, which migrates it",
        )
    else:
        yield from _objects(patient, version)


# Our objects, and what others have put on our tables.
OBJECTS = """
SELECT name, type
FROM sqlite_master
WHERE (name LIKE 'fireforget%' OR tbl_name LIKE 'fireforget%')
  AND name NOT LIKE 'sqlite_%'
"""


def _objects(patient: _Patient, version: int) -> _Found:
    wanted = _schema.expected_objects()
    there = dict(patient.connection.execute(OBJECTS))
    missing = [f"{kind} {name}" for name, kind in wanted.items() if there.get(name) != kind]
    foreign = [f"{kind} {name}" for name, kind in there.items() if name not in wanted]
    if missing:
        yield "error", f"it lacks the {_some(missing)}", "restore a backup: somebody has dropped what the queue needs"
    if foreign:
        yield (
            "warning",
            f"somebody has put the {_some(foreign)} on the queue's own tables, which pay for it and change between versions",
            "drop it; put triggers on your own tables, and query the views",
        )
    if not missing and not foreign:
        yield "ok", f"version {version}", None


def _write_lock(patient: _Patient) -> _Found:
    end = time.monotonic() + _LOCK_PATIENCE
    patient.connection.execute(f"PRAGMA busy_timeout = {int(_LOCK_PATIENCE * 1000)}")
    try:
        with _db.translated(patient.path):
            patient.connection.execute("BEGIN IMMEDIATE")
    except StoreBusy:
        yield (
            "error",
            f"a program holds the write lock for longer than {_LOCK_PATIENCE:g} s: nobody else can write",
            "find the program that keeps a transaction open, and have it commit or roll back",
        )
        return
    patient.connection.execute("ROLLBACK")
    yield "ok", f"had within {time.monotonic() - end + _LOCK_PATIENCE:.2f} s", None


def _wal(patient: _Patient) -> _Found:
    size = _db.wal_size(patient.path)
    if size > LARGE_WAL_BYTES:
        yield (
            "warning",
            f"the WAL has {_mib(size)}: it cannot be folded back while somebody reads",
            "find the program that keeps a read transaction, or a cursor that was not read to its end, and have it close that",
        )
    else:
        yield "ok", _mib(size), None


def _checkpoints(patient: _Patient) -> _Found:
    if not _db.was_reset_by_others(patient.path):
        yield "ok", "no sign of any but our own", None
        return
    buggy = _db.has_wal_reset_bug(_db.library_version())
    yield (
        "warning" if buggy else "ok",
        "the WAL was begun anew without being emptied: another program has checkpointed, or was reading when we did",
        _NO_CHECKPOINTS if buggy else None,
    )


def _free_pages(patient: _Patient) -> _Found:
    pages, free, size = (patient.value(f"PRAGMA {name}") for name in ("page_count", "freelist_count", "page_size"))
    if free * size > MANY_FREE_BYTES and free * 2 > pages:
        yield (
            "warning",
            f"{_mib(free * size)} of {_mib(pages * size)} are free pages: later jobs use them, the disk does not get them back",
            "if the disk needs them, stop the programs and run VACUUM",
        )
    else:
        yield "ok", f"{_mib(free * size)} of {_mib(pages * size)}", None


# --- workers and jobs ---------------------------------------------------------------------------------------------------


LOAD_OF_WORKERS = f"""
SELECT worker, count(*)
FROM fireforget_job INDEXED BY fireforget_active
WHERE state = {_sql.ACTIVE}
GROUP BY worker
"""


def _workers(patient: _Patient) -> _Found:
    patient.look_for_workers()
    load = dict(patient.connection.execute(LOAD_OF_WORKERS).fetchall())
    for row in patient.workers:
        if row.n not in patient.living:
            jobs = load.get(row.n, 0)
            yield (
                "error" if jobs and not patient.living else "warning",
                f"worker {row.name} (pid {row.pid}) is dead and was not cleared away; it has {_jobs(jobs)}",
                "start a worker: it takes over within a second"
                if not patient.living
                else "the living workers take over: look again",
            )
    known = {row.n for row in patient.workers}
    orphans = sum(jobs for worker, jobs in load.items() if worker not in known)
    if orphans:
        yield (
            "error",
            f"{_jobs(orphans)} active in the hands of a worker that the database does not know",
            "start a worker: it makes them pending when it starts",
        )
    if not orphans and len(patient.living) == len(patient.workers):
        yield "ok", f"{len(patient.living)} alive" if patient.living else "none is running", None


# Lanes whose first job has been due since before `:since`, read in the claim index alone.
WAITING_LANES = f"""
SELECT queue, type, CAST(min(due) AS REAL), count(*)
FROM fireforget_job INDEXED BY fireforget_claim
WHERE state = {_sql.PENDING}
GROUP BY queue, type
HAVING min(due) < :since
ORDER BY min(due)
"""


def _queues(patient: _Patient) -> _Found:
    """Name the queues whose first job has been due for long, with the reason why nobody takes it."""
    lanes: dict[str, list[_Lane]] = {}
    for row in patient.connection.execute(WAITING_LANES, {"since": patient.now - STALLED_SECONDS}):
        lanes.setdefault(row[0], []).append(_Lane._make(row))
    paused = {name for (name,) in patient.connection.execute(_sql_queues.PAUSED_QUEUES)}
    running = set(patient.connection.execute(_sql.ACTIVE_LANES).fetchall())
    load = dict(patient.connection.execute(LOAD_OF_WORKERS).fetchall())
    living = [row for row in patient.workers if row.n in patient.living]
    unserved = [queue for queue in lanes if queue not in paused and not any(queue in json.loads(row.queues) for row in living)]
    for queue, waiting in lanes.items():
        serving = [row for row in living if queue in json.loads(row.queues)]
        if queue in paused:
            yield "warning", f"queue {queue!r} is paused: {_waiting(waiting, patient.now)}", f"resume it: queue resume {queue}"
        elif not serving:
            yield (
                "error",
                f"no living worker serves queue {queue!r}: {_waiting(waiting, patient.now)}",
                f"start a worker that does, with --queues {','.join(f'{name}=1' for name in unserved)}",
            )
        elif _are_busy(serving, load):
            yield (
                "warning",
                f"the workers of queue {queue!r} do not keep up: {_waiting(waiting, patient.now)}",
                "more --concurrency, another worker, or a larger weight",
            )
        else:
            yield from _nobodys(queue, [lane for lane in waiting if (queue, lane.type) not in running], patient.now)
    if not lanes:
        yield "ok", f"no job has been due for {STALLED_SECONDS:g} s", None


class _Lane(NamedTuple):
    """The pending jobs of one type in a queue."""

    queue: str
    type: str
    due: float
    jobs: int


def _waiting(lanes: Sequence[_Lane], now: float) -> str:
    due = now - min(lane.due for lane in lanes)
    return f"{_jobs(sum(lane.jobs for lane in lanes))} {_wait(lanes)}, the first due for {due:,.0f} s"


def _wait(lanes: Sequence[_Lane]) -> str:
    return "waits" if sum(lane.jobs for lane in lanes) == 1 else "wait"


def _nobodys(queue: str, lanes: Sequence[_Lane], now: float) -> _Found:
    if lanes:
        types = _some([repr(lane.type) for lane in lanes])
        yield (
            "error",
            f"no worker of queue {queue!r} takes type {types}, though it has children free: {_waiting(lanes, now)}",
            "register a handler in the application of a worker that serves the queue; a worker's log names types without one",
        )


def _are_busy(workers: Sequence[WorkerRow], load: dict[int, int]) -> bool:
    return all(load.get(row.n, 0) >= row.concurrency * row.threads for row in workers)


def _archived(patient: _Patient) -> _Found:
    counted = patient.connection.execute(_sql_queues.COUNT_JOBS).fetchall()
    piles = {queue: jobs for queue, number, jobs, _ in counted if STATE_OF_NUMBER[number] is State.ARCHIVED}
    for queue, jobs in piles.items():
        if jobs > MANY_ARCHIVED:
            yield (
                "warning",
                f"{_jobs(jobs)} archived in queue {queue!r}: they stay until somebody decides",
                f"look at their errors, then run or delete them: task list --state archived --queue {queue}",
            )
    if not any(jobs > MANY_ARCHIVED for jobs in piles.values()):
        yield "ok", f"{_jobs(sum(piles.values()))}", None


# The latest jobs are enough to see that a producer's clock is wrong.
LATEST_ENQUEUED = "SELECT max(enqueued_at) FROM (SELECT enqueued_at FROM fireforget_job ORDER BY n DESC LIMIT 1000)"


def _clock(patient: _Patient) -> _Found:
    ahead = (patient.value(LATEST_ENQUEUED) or 0) - patient.now
    if ahead > CLOCK_SKEW_SECONDS:
        yield (
            "warning",
            f"a job was enqueued {ahead:,.0f} s from now: this clock was set back, or that of a program was wrong",
            "set the clock (NTP): delays, deadlines and the age of jobs are wrong by as much",
        )
    else:
        yield "ok", "no job is from the future", None


_OF_THE_PLACE: dict[str, Callable[[_Patient], _Found]] = {
    "file system": _file_system,
    "permissions": _permissions,
    "disk space": _disk_space,
    "sqlite": _sqlite,
}
_OF_THE_FILE: dict[str, Callable[[_Patient], _Found]] = {
    "journal mode": _journal_mode,
    "integrity": _integrity,
    "schema": _schema_version,
    "write lock": _write_lock,
    "wal": _wal,
    "checkpoints": _checkpoints,
    "free pages": _free_pages,
}
_OF_THE_JOBS: dict[str, Callable[[_Patient], _Found]] = {
    "workers": _workers,
    "queues": _queues,
    "archived": _archived,
    "clock": _clock,
}


# --- words --------------------------------------------------------------------------------------------------------------


def _mib(size: float) -> str:
    return f"{size / MEBIBYTE:,.1f} MiB" if size < 1024 * MEBIBYTE else f"{size / MEBIBYTE / 1024:,.1f} GiB"


def _jobs(count: int) -> str:
    return f"{count:,} job{'' if count == 1 else 's'}"


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:_MOST_NAMED])
    return shown if len(names) <= _MOST_NAMED else f"{shown} and {len(names) - _MOST_NAMED} more"
