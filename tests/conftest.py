"""What the tests share: a clock that stands still, queues that are closed at the end, and programs in processes of their own."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from time import monotonic

import pytest

from fireforget import SqliteQueue, flush
from tests.side_by_side import pytest_addoption, pytest_collection_modifyitems, pytest_runtestloop

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_runtestloop"]  # hooks, which pytest finds here

ROOT = Path(__file__).resolve().parents[1]


def pytest_configure():
    """Let Ctrl-C be heard: who runs the tests behind `&` ignores it, and every program that a test starts would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def nothing_lost_before():
    """`flush` counts what has not arrived since the last time, and a test before may have lost some on purpose."""
    flush(5)


class StandingClock:
    """Wall time that only moves when a test says so."""

    def __init__(self, now=1_800_000_000.0):
        self.now = now

    def __call__(self):
        return self.now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return StandingClock()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "jobs.db")


@pytest.fixture
def open_queue(path, clock):
    """Open the file once more, with the test's clock; closed at the end."""
    queues = []

    def open_queue(where=path, **options):
        queues.append(SqliteQueue(where, **{"clock": clock, **options}))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


@pytest.fixture
def queue(open_queue):
    return open_queue()


@pytest.fixture
def sql(path):
    """Run one statement as another program would, on a connection of its own, and return its rows."""

    def sql(statement, parameters=()):
        with closing(sqlite3.connect(path, timeout=2)) as connection, connection:
            return connection.execute(statement, parameters).fetchall()

    return sql


def _command(code, arguments, warnings):
    return [sys.executable, *(f"-W{warning}" for warning in warnings), "-c", code, *map(str, arguments)]


def _environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def run_python():
    """Run a program to its end in a process of its own and return what it printed; what it writes to stderr is a failure."""

    def run_python(code, *arguments, warnings=("error",), timeout=20):
        command = _command(code, arguments, warnings)
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=_environment(), check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    return run_python


class Program:
    """A program in a process of its own that is talked to line by line."""

    def __init__(self, code, arguments):
        command = _command(code, arguments, ("error",))
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=_environment())

    def read(self):
        """Return the next line that it prints; raises with its own error when it ended instead."""
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        return line.strip()

    def say(self, line="go"):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self):
        """Wait for its end and return the rest of what it printed; raises when it failed."""
        out, err = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, err
        return out

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_python():
    """Start a program in a process of its own; killed at the end."""
    programs = []

    def start_python(code, *arguments):
        programs.append(Program(code, arguments))
        return programs[-1]

    yield start_python
    for program in programs:
        program.close()


@pytest.fixture
def eventually():
    """Wait until a condition holds, for at most ten seconds."""

    def eventually(condition, seconds=10):
        until = monotonic() + seconds
        never = threading.Event()
        while not condition():
            assert monotonic() < until, "it never came to be"
            never.wait(0.002)

    return eventually
