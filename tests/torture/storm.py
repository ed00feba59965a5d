"""The storm: producers, workers and children as real processes, killed at random and at named points, and a ledger that is
compared with the database when it is over.

    python tests/torture/storm.py --seconds 60 [--seed 1]

What it holds the queue to:

* every job that `enqueue` accepted has run to its end at least once, or is archived because its worker died 3 times under it;
* no job ever ran twice at the same time;
* no job ran again without a kill that explains it;
* no job began before those that it needs had ended, and each found their results;
* when all is drained no job is left in a wrong state, and SQLite finds the file sound.
"""

import argparse
import collections
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
MOST_IN_FLIGHT = 16
"""Jobs that can have ended in a worker and not be settled yet, and so run again when it is killed: two short frames a child, of
jobs of about 2 ms, with two children."""
_LEFT = "state <> 'archived' AND NOT (state = 'completed' AND id IN (SELECT id FROM fireforget_dependency))"
"""Archived jobs keep those that they need, for when somebody runs them again."""
_WAITING = "SELECT count(*) FROM fireforget_dependency WHERE job NOT IN (SELECT n FROM fireforget_job)"


class Storm:
    """One storm in a folder of its own."""

    app = "storm_app:registry"
    producer = "storm_producer.py"

    def __init__(self, folder: Path, seconds: float, seed: int, *, workers: int = 2, producers: int = 2) -> None:
        self.folder = folder
        self.seconds = seconds
        self.random = random.Random(seed)
        self.database = folder / "storm.db"
        self.ledger = folder / "ledger"
        self.ledger.touch()
        (folder / "locks").mkdir()
        self.wanted = {"worker": workers, "producer": producers}
        self.running: dict[str, list[subprocess.Popen[bytes]]] = {"worker": [], "producer": []}
        self.log = (folder / "worker.log").open("ab")
        self.kills: collections.Counter[str] = collections.Counter()

    def open(self) -> None:
        """Make what has to be there before the first process starts."""

    def environment(self, probability: float) -> dict[str, str]:
        """Return the environment of a process of the storm."""
        return {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}",
            "STORM_DB": str(self.database),
            "STORM_LEDGER": str(self.ledger),
            "STORM_LOCKS": str(self.folder / "locks"),
            "STORM_PROBABILITY": str(probability),
        }

    def command(self, kind: str) -> list[str]:
        """Return the command of a producer or worker."""
        if kind == "producer":
            return [sys.executable, str(HERE / self.producer), str(os.getpid())]
        threads = self.random.choice(("1", "1", "3"))
        flags = ["--db", str(self.database), "--concurrency", "2", "--threads", threads, "--log-level", "warning"]
        return [sys.executable, "-m", "fireforget.worker", self.app, *flags]

    def start(self, kind: str) -> None:
        """Start one more process of a kind, in a session of its own."""
        probability = 0.002 if kind == "worker" else 0.01
        self.running[kind].append(
            subprocess.Popen(
                self.command(kind),
                env=self.environment(probability),
                stdout=self.log,
                stderr=self.log,
                start_new_session=True,
            )
        )

    def rage(self) -> None:
        """Kill, stop and restart until the time is over, then end everything."""
        end = time.monotonic() + self.seconds
        while time.monotonic() < end:
            for kind, wanted in self.wanted.items():
                self.running[kind] = [process for process in self.running[kind] if process.poll() is None]
                while len(self.running[kind]) < wanted:
                    self.start(kind)
            time.sleep(self.random.uniform(0.02, 0.25))
            self.strike()
        for process in [process for kind in self.running.values() for process in kind]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
                os.kill(process.pid, signal.SIGKILL)
            process.wait()

    def strike(self) -> None:
        """Do one bad thing to one process."""
        kind = self.random.choice(("worker", "worker", "worker", "producer"))
        victims = self.running[kind]
        if not victims:
            return
        victim = self.random.choice(victims).pid
        deed = self.random.choice(("supervisor", "child", "child", "child", "helper", "stop", "stop child", "term"))
        helper = next(iter(children_of(victim)), None)
        children = children_of(helper) if helper else []
        target = {"helper": helper, "child": children and self.random.choice(children), "stop child": children and children[0]}
        pid = target.get(deed, victim)
        if kind == "producer":
            pid, deed = victim, self.random.choice(("producer", "stop"))
        if not pid:
            return
        with contextlib.suppress(ProcessLookupError):
            if deed.startswith("stop"):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.random.uniform(0.01, 0.5))
                os.kill(pid, signal.SIGCONT)
            else:
                os.kill(pid, signal.SIGTERM if deed == "term" else signal.SIGKILL)
            self.kills[deed] += 1

    def drain(self) -> None:
        """Run what is left to the end, with a worker that nobody kills."""
        for _ in range(100):
            command = [*self.command("worker"), "--burst"]
            done = subprocess.run(command, env=self.environment(0), stdout=self.log, stderr=self.log, timeout=300, check=False)
            if done.returncode != 0:
                raise AssertionError(f"the last worker ended with {done.returncode}, see {self.folder / 'worker.log'}")
            if not self.left():
                return
            time.sleep(0.05)

    def left(self) -> int:
        """Return how many jobs are not at their end."""
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            (count,) = connection.execute(f"SELECT count(*) FROM fireforget_jobs WHERE {_LEFT}").fetchone()
            return int(count)

    def judge(self) -> dict[str, object]:
        """Compare the ledger with the database; return the figures, among them the list of `violations`."""
        accepted: set[str] = set()
        began: collections.Counter[str] = collections.Counter()
        ended: collections.Counter[str] = collections.Counter()
        points: collections.Counter[str] = collections.Counter()
        violations: list[str] = []
        needs: list[tuple[str, str]] = []
        first: dict[tuple[str, str], float] = {}
        for number, line in enumerate(self.ledger.read_text().splitlines()):
            word, subject, *rest = line.split()
            first.setdefault((word, subject), number)
            if word == "accepted":
                accepted.add(subject)
            elif word == "began":
                began[subject] += 1
            elif word == "ended":
                ended[subject] += 1
            elif word == "died":
                points[subject] += 1
            elif word == "needs":
                needs.append((subject, rest[0]))
            elif word == "misinformed":
                violations.append(f"wrong results of what it needs: {line}")
            else:
                violations.append(f"two runs at once: {line}")
        with contextlib.closing(sqlite3.connect(self.database)) as connection:
            archived = dict(connection.execute("SELECT id, last_error FROM fireforget_jobs WHERE state = 'archived'"))
            left = connection.execute(f"SELECT id, state FROM fireforget_jobs WHERE {_LEFT}").fetchall()
            workers = connection.execute("SELECT count(*) FROM fireforget_worker").fetchone()[0]
            news = connection.execute("SELECT count(*) FROM fireforget_news").fetchone()[0]
            waiting = connection.execute(_WAITING).fetchone()[0]
            (integrity,) = connection.execute("PRAGMA integrity_check").fetchone()
        violations += [f"accepted and never run to its end: {i}" for i in sorted(accepted - set(ended) - set(archived))]
        violations += [f"archived for a wrong reason: {i}: {e}" for i, e in archived.items() if "worker died under it" not in e]
        never = float("inf")
        violations += [
            f"began before what it needs had ended: {job} needs {need}"
            for job, need in needs
            if first.get(("began", job), never) < first.get(("ended", need), never)
        ]
        violations += [f"{news} news not told and {waiting} needs noted of jobs that are gone"] * bool(news or waiting)
        violations += [f"left in state {state}: {i}" for i, state in left]
        violations += [f"{workers} workers are still signed in"] * bool(workers)
        violations += [f"integrity_check: {integrity}"] * (integrity != "ok")
        reruns = sum(runs - 1 for runs in ended.values())
        kills = sum(self.kills.values()) + sum(points.values())
        if reruns > kills * MOST_IN_FLIGHT:
            violations.append(f"{reruns} jobs ran to their end again and {kills} kills explain {kills * MOST_IN_FLIGHT} at most")
        return {
            "seconds": self.seconds,
            "accepted": len(accepted),
            "needs": len(needs),
            "runs_begun": sum(began.values()),
            "runs_ended": sum(ended.values()),
            "ran_to_the_end_again": reruns,
            "archived_after_three_worker_deaths": len(archived),
            "kills": kills,
            "kills_from_outside": dict(sorted(self.kills.items())),
            "kills_at_points": dict(sorted(points.items())),
            "violations": violations,
        }


def children_of(pid: int | None) -> list[int]:
    """Return the pids of a process's children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def weather(seconds: float, seed: int, folder: Path, kind: type[Storm] = Storm) -> dict[str, object]:
    """Let a storm rage, drain what it leaves, and return its figures."""
    storm = kind(folder, seconds, seed)
    storm.open()
    storm.rage()
    storm.drain()
    figures = storm.judge()
    figures["seed"] = seed
    storm.log.close()
    return figures


def main(kinds: Sequence[type[Storm]], description: str) -> int:
    """Run storms of these kinds in turn until the time is over; print their figures, and exit 1 at the first violation."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--each", type=float, default=60, help="seconds of one storm; a new file for each")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    seed = arguments.seed
    while time.monotonic() < end:
        folder = Path(tempfile.mkdtemp(prefix="storm-"))
        kind = kinds[seed % len(kinds)]
        figures = weather(min(arguments.each, max(5.0, end - time.monotonic())), seed, folder, kind)
        print(json.dumps({"storm": kind.__name__, **figures}), flush=True)
        if figures["violations"]:
            print(f"the folder of the storm is {folder}", file=sys.stderr)
            return 1
        shutil.rmtree(folder)
        seed += 1
    return 0


if __name__ == "__main__":
    import bank

    sys.exit(main([Storm, bank.Bank], __doc__ or ""))
