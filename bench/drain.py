"""Drain 100,000 stored no-op jobs with two children, beside a bare loop and beside huey.

The bare loop is what any worker has to do: claim a batch, send it to a child through a socket, call, delete the batch. It has two
forked children, 64 jobs a frame, two frames in flight each, and the deletion and the next claim in one transaction. It has no
errors, no timeouts, no fencing, no metrics. It runs on the same file, table and indexes as ours, and once more on the plainest
table that can be a queue. CPU a job, of all processes, says what a busy machine hides.
"""

import marshal
import os
import select
import socket
import struct
import sys
import time
from collections import deque
from contextlib import closing
from pathlib import Path

import _common as common
from peer_apps import huey_side

from fireforget import _db

FRAME = 64
FRAMES_IN_FLIGHT = 2
CHILDREN = 2
_LENGTH = struct.Struct("<I")

OUR_CLAIM = """
UPDATE fireforget_job SET state = 3, worker = 1, claim = claim + 1
WHERE n IN (
    SELECT n FROM fireforget_job INDEXED BY fireforget_claim
    WHERE state = 2 AND queue = 'default' AND type = 'bench:noop' AND limit_key IS NULL
    ORDER BY priority DESC, due LIMIT ?
)
RETURNING n, type, payload
"""
OUR_DELETE = "DELETE FROM fireforget_job WHERE n = ?"
PLAIN_TABLE = """
CREATE TABLE job (n INTEGER PRIMARY KEY, type TEXT, payload TEXT, state INTEGER, priority INTEGER, due REAL);
CREATE INDEX job_claim ON job (priority DESC, due) WHERE state = 2;
"""
PLAIN_CLAIM = """
UPDATE job SET state = 3
WHERE n IN (SELECT n FROM job WHERE state = 2 ORDER BY priority DESC, due LIMIT ?)
RETURNING n, type, payload
"""
PLAIN_DELETE = "DELETE FROM job WHERE n = ?"


# --- the bare loop ------------------------------------------------------------------------------------------------------


def _send(end: socket.socket, rows: object) -> None:
    data = marshal.dumps(rows)
    end.sendall(_LENGTH.pack(len(data)) + data)


def _receive(end: socket.socket) -> list[tuple[int, str, str]] | None:
    head = end.recv(_LENGTH.size, socket.MSG_WAITALL)
    return marshal.loads(end.recv(_LENGTH.unpack(head)[0], socket.MSG_WAITALL)) if head else None


def _child(end: socket.socket) -> None:
    def noop(payload: str) -> None: ...

    while (rows := _receive(end)) is not None:
        for _, _, payload in rows:
            noop(payload)
        end.sendall(b"!")
    os._exit(0)


def _fork_children() -> list[socket.socket]:
    ends: list[socket.socket] = []
    for _ in range(CHILDREN):
        ours, theirs = socket.socketpair()
        if os.fork() == 0:
            for end in [*ends, ours]:
                end.close()
            _child(theirs)
        theirs.close()
        ends.append(ours)
    return ends


class BareLoop:
    """The supervisor's half of the bare loop."""

    def __init__(self, path: Path, claim: str, delete: str) -> None:
        self._path, self._claim, self._delete = str(path), claim, delete
        self._ends = _fork_children()  # before the database is open: no handle of SQLite's crosses a fork
        self._connection = _db.connect(self._path, synchronous=1)
        self._flying: dict[socket.socket, deque[list[tuple[int]]]] = {end: deque() for end in self._ends}
        self._left = True

    def run(self) -> None:
        """Drain the file."""
        for end in self._ends * FRAMES_IN_FLIGHT:
            self._turn(end, done=False)
        while busy := [end for end in self._ends if self._flying[end]]:
            for end in select.select(busy, [], [])[0]:
                for _ in end.recv(FRAMES_IN_FLIGHT):
                    self._turn(end, done=True)
            if _db.wal_size(self._path) > _db.WORKER_WAL_BYTES:
                _db.checkpoint(self._connection, self._path)

    def _turn(self, end: socket.socket, *, done: bool) -> None:
        """Delete the frame that a child has done and claim the next one in one transaction, then send it."""
        rows = []
        self._connection.execute("BEGIN IMMEDIATE")
        if done:
            self._connection.executemany(self._delete, self._flying[end].popleft())
        if self._left:
            rows = self._connection.execute(self._claim, (FRAME,)).fetchall()
        self._connection.execute("COMMIT")
        self._left = bool(rows)
        if rows:
            self._flying[end].append([(row[0],) for row in rows])
            _send(end, rows)

    def close(self) -> None:
        self._connection.close()
        for end in self._ends:
            end.close()
            os.wait()


def drain_bare(path: Path, jobs: int, claim: str, delete: str) -> common.Drained:
    """Return how the bare loop drains a file with this many jobs."""
    cpu = _own_cpu_seconds()
    with closing(BareLoop(path, claim, delete)) as loop:
        began = time.perf_counter()
        loop.run()
        seconds = time.perf_counter() - began
    return common.Drained(jobs / seconds, (_own_cpu_seconds() - cpu) * 1e6 / jobs)


def _own_cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


# --- the sides ----------------------------------------------------------------------------------------------------------


def ours(jobs: int) -> common.Drained:
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, jobs)
        with common.worker(path) as process:
            return common.time_drain(path, jobs, process)


def bare_on_our_table(jobs: int) -> common.Drained:
    with common.folder() as folder:
        common.store(folder / "jobs.db", jobs)
        return drain_bare(folder / "jobs.db", jobs, OUR_CLAIM, OUR_DELETE)


def bare_on_a_plain_table(jobs: int) -> common.Drained:
    with common.folder() as folder:
        path = folder / "plain.db"
        path.touch()
        with closing(_db.connect(str(path), synchronous=1)) as connection:
            connection.executescript(PLAIN_TABLE)
            connection.execute("BEGIN")
            rows = ((common.NOOP, f'{{"n":{n}}}', time.time()) for n in range(jobs))
            connection.executemany("INSERT INTO job (type, payload, state, priority, due) VALUES (?, ?, 2, 0, ?)", rows)
            connection.execute("COMMIT")
        return drain_bare(path, jobs, PLAIN_CLAIM, PLAIN_DELETE)


SIDES = {
    "bare": ("a bare loop on the same table", 1 / 3, "at least 1/3"),
    "plain": ("a bare loop on the plainest table", None, None),
    "huey": (f"huey, {huey_side.SETTINGS}", 5, "at least 5, aim for 10"),
}


def main() -> None:
    given = common.arguments(__doc__, jobs=(100_000, 20_000), rounds=(5, 3), huey_jobs=(40_000, 10_000))
    drained: dict[str, list[common.Drained]] = {"ours": [], "bare": [], "plain": [], "huey": []}
    for _ in range(given.rounds):
        drained["bare"].append(bare_on_our_table(given.jobs))
        drained["ours"].append(ours(given.jobs))
        drained["plain"].append(bare_on_a_plain_table(given.jobs))
        if huey_side.installed():
            drained["huey"].append(huey_side.drain(given.huey_jobs))
    if not drained["huey"]:
        print("drain: huey is not installed, so there is no comparison with it", file=sys.stderr)
    figures = [figure for side in SIDES if drained[side] for figure in _figures(drained["ours"], drained[side], *SIDES[side])]
    common.report(
        "drain", figures, jobs=given.jobs, huey_jobs=given.huey_jobs, rounds=given.rounds, children=CHILDREN, frame=FRAME,
        huey=huey_side.version(),
    )  # fmt: skip


def _figures(
    ours: list[common.Drained], theirs: list[common.Drained], against: str, least: float | None, reach: str | None
) -> list:
    our_rates, our_cpu = zip(*ours, strict=True)
    their_rates, their_cpu = zip(*theirs, strict=True)
    ratio = common.median_ratio(our_rates, their_rates)
    return [
        common.figure("drain", common.median(our_rates), common.median(their_rates), against=against, ratio=ratio, reach=reach,
                      reached=None if least is None else ratio >= least),
        common.figure("drain: CPU of all processes", common.median(our_cpu), common.median(their_cpu), unit="us/job",
                      against=against),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
