"""What the tests of the worker share: an application in a folder of its own, its database, and workers that never outlive a test.

A handler talks to its test through a named pipe (`say`, heard by `Site.hear`) and an append-only file (`note`, read by
`Site.notes`), and waits for it by looking for a file (`hold`, ended by `Site.release`). So tests wait for what happens, and for
nothing else.
"""

import json
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from time import monotonic

import pytest

from fireforget import Inspector, SqliteQueue, Task
from fireforget.errors import UnknownJob

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 6.0
"""Seconds to wait for what should happen at once; a busy machine may take a while, and a test that fails may as well."""

SCENE = '''
"""What handlers of the tests use to talk to their test."""
import os, time
HERE = os.path.dirname(os.path.abspath(__file__))

def _append(name, words, flags=0):
    descriptor = os.open(os.path.join(HERE, name), os.O_WRONLY | flags, 0o600)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\\n").encode())
    finally:
        os.close(descriptor)

def say(*words):
    _append("voice", words)

def note(*words):
    _append("ledger", words, os.O_APPEND | os.O_CREAT)

def hold(name="go"):
    while not os.path.exists(os.path.join(HERE, name)):
        time.sleep(0.005)
'''

PRELUDE = """
import asyncio, hashlib, json, os, signal, subprocess, sys, threading, time
from fireforget import *
from fireforget.errors import *
from scene import HERE, hold, note, say
registry = Registry(retry_delay=0)
"""


class WorkerProcess:
    """A running worker: its log as it comes, and ways to end it."""

    def __init__(self, command, folder, env):
        self._popen = subprocess.Popen(
            command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.pid = self._popen.pid
        self.lines = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self._popen.stderr:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def log(self):
        """Everything it has printed so far."""
        return "\n".join(self.lines)

    @property
    def records(self):
        """Its log records so far, of those lines that are JSON."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def said(self, message, **fields):
        """The records with this message and these fields, so far."""
        wanted = {"message": message, **fields}
        return [record for record in self.records if wanted.items() <= record.items()]

    def wait_log(self, text, within=PATIENCE, count=1):
        """Wait until `count` lines contain `text`; return the last of them."""
        with self._news:
            found = self._news.wait_for(lambda: sum(text in line for line in self.lines) >= count or self._ended, within)
        matching = [line for line in self.lines if text in line]
        assert found and len(matching) >= count, f"{text!r} {len(matching)} of {count} times in:\n{self.log}"
        return matching[count - 1]

    def wait_record(self, message, within=PATIENCE, **fields):
        """Wait for a record with this message and these fields, and return it."""
        with self._news:
            self._news.wait_for(lambda: self.said(message, **fields) or self._ended, within)
        found = self.said(message, **fields)
        assert found, f"no {message!r} with {fields} in:\n{self.log}"
        return found[0]

    def signal(self, number):
        """Send a signal to the supervisor alone."""
        os.kill(self.pid, number)

    def signal_all(self, number):
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.pid, number)

    def exit_code(self, within=PATIENCE):
        """Wait for the end of the supervisor and return its exit code."""
        try:
            code = self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still there after {within} s:\n{self.log}") from None
        self._reader.join(1)
        return code

    def stop(self, within=PATIENCE):
        """TERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return self.exit_code(within)

    @property
    def running(self):
        return self._popen.poll() is None

    def processes(self):
        """The pids of the helper and the children, as far as they are in the worker's process group."""
        found = []
        for entry in os.listdir("/proc"):
            with suppress(OSError, ValueError, IndexError):
                fields = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.pid and int(entry) != self.pid and fields[0] != "Z":
                    found.append(int(entry))
        return found

    def destroy(self):
        """Leave nothing behind, whatever became of it."""
        for number in (signal.SIGKILL, signal.SIGCONT):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        self._popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._popen.stderr.close()


class Site:
    """One application: its folder, its database, its workers."""

    def __init__(self, folder):
        self.folder = folder
        self.db = folder / "jobs.db"
        (folder / "scene.py").write_text(SCENE)
        os.mkfifo(folder / "voice")
        self._voice = os.open(folder / "voice", os.O_RDWR | os.O_NONBLOCK)
        self._heard = b""
        self._workers = []
        self._queue = None

    @property
    def env(self):
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def queue(self):
        if self._queue is None:
            self._queue = SqliteQueue(self.db, durability="normal")
        return self._queue

    def app(self, source, name="app"):
        """Write the application's module; what handlers need is imported, and there is a registry."""
        (self.folder / f"{name}.py").write_text(PRELUDE + source)

    def command(self, *flags, app="app:registry", db=True):
        flags = [str(flag) for flag in flags]
        if "--log-format" not in flags:
            flags += ["--log-format", "json"]
        return [sys.executable, "-m", "fireforget.worker", app, *(["--db", str(self.db)] if db else []), *flags]

    def worker(self, *flags, ready=True, **how):
        """Start a worker and wait until it is at work."""
        worker = self.worker_of(self.command(*flags, **how))
        if ready:
            worker.wait_log(" started: ")
        return worker

    def worker_of(self, command):
        """Start a command that works as a worker does."""
        self._workers.append(WorkerProcess(command, self.folder, self.env))
        return self._workers[-1]

    def script(self, source):
        """Start a program that embeds a worker."""
        (self.folder / "program.py").write_text(PRELUDE + source)
        process = WorkerProcess([sys.executable, str(self.folder / "program.py")], self.folder, self.env)
        self._workers.append(process)
        return process

    def run(self, *flags, **how):
        """Run a worker that ends by itself."""
        return subprocess.run(
            self.command(*flags, **how), cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=30, check=False
        )

    def burst(self, *flags):
        """Run all there is to run; return the worker, which has ended well."""
        worker = self.worker("--burst", *flags)
        assert worker.exit_code() == 0, worker.log[-2000:]
        return worker

    def enqueue(self, type, payload=None, **options):
        """Enqueue a task and return the job's id."""
        return self.queue.enqueue(Task(type, payload), **options).id

    def finished(self, job, within=PATIENCE):
        """Wait for a job's end; what is left of it, None when it succeeded and was removed."""
        try:
            return self.queue.wait(job, within)
        except UnknownJob:
            return None

    def result(self, type, payload=None, **options):
        """Enqueue a task, wait for its end and return its info, which is kept."""
        return self.queue.wait(self.enqueue(type, payload, **{"retention": 60, **options}), PATIENCE)

    def hear(self, expected=None, within=PATIENCE):
        """Wait for the next line that a handler says; with `expected`, for one that begins with these words."""
        until = monotonic() + within
        while True:
            line, separator, rest = self._heard.partition(b"\n")
            if separator:
                self._heard = rest
                text = line.decode()
                if expected is None or text.startswith(expected):
                    return text
                continue
            logs = "".join(worker.log[-4000:] for worker in self._workers)
            assert select.select([self._voice], [], [], max(0, until - monotonic()))[0], f"nobody said {expected!r}:\n{logs}"
            self._heard += os.read(self._voice, 65536)

    def silent(self, within=0.0):
        """Whether no handler has said anything that was not heard, nor does for so many seconds."""
        return not self._heard and not select.select([self._voice], [], [], within)[0]

    def notes(self):
        """The lines of the ledger so far."""
        path = self.folder / "ledger"
        return path.read_text().splitlines() if path.exists() else []

    def forget(self):
        """Forget what handlers of earlier tests have said and noted, and the jobs that these left for later."""
        self._heard = b""
        while select.select([self._voice], [], [], 0)[0]:
            os.read(self._voice, 65536)
        (self.folder / "ledger").unlink(missing_ok=True)
        for state in ("scheduled", "retry", "archived"):
            Inspector(self.queue).delete_all(state)

    def release(self, name="go"):
        """Let handlers go on that hold."""
        (self.folder / name).touch()

    def sql(self, statement, parameters=()):
        """Run one statement as another program would."""
        import sqlite3

        connection = sqlite3.connect(self.db, timeout=10, isolation_level=None)
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def eventually(self, check, within=PATIENCE):
        """Wait until `check` returns something true, and return that; looks as often as `queue.wait` does."""
        until = monotonic() + within
        pause = threading.Event()
        while not (found := check()):
            assert monotonic() < until, f"never: {check}\n" + "".join(worker.log[-4000:] for worker in self._workers)
            pause.wait(0.005)
        return found

    def state_is(self, job, state, within=PATIENCE):
        """Wait until a job is in a state, and return its info."""
        return self.eventually(lambda: (info := self.queue.get(job)).state == state and info, within)

    def close(self):
        for worker in self._workers:
            worker.destroy()
        if self._queue is not None:
            self._queue.close()
        os.close(self._voice)


class Death:
    """Tells of the end of processes, by the kernel's word."""

    def __init__(self, pids):
        self._descriptors = {}
        for pid in pids:
            with suppress(ProcessLookupError):
                self._descriptors[pid] = os.pidfd_open(pid)

    def wait(self, within):
        """Return the pids that are still there after `within` seconds."""
        until = monotonic() + within
        left = dict(self._descriptors)
        while left:
            ready, _, _ = select.select(list(left.values()), [], [], max(0, until - monotonic()))
            if not ready:
                break
            left = {pid: descriptor for pid, descriptor in left.items() if descriptor not in ready}
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        return sorted(left)


@pytest.fixture
def own_site(tmp_path):
    """An application's folder, with whatever the test starts there."""
    site = Site(tmp_path)
    yield site
    site.close()


@pytest.fixture
def site(own_site):
    """The same; test files that share one site among their tests override it."""
    return own_site


@pytest.fixture(scope="module")
def make_site(tmp_path_factory):
    """Makes sites that all tests of a module share: starting a worker for each of them would take most of the time."""
    sites = []

    def make():
        sites.append(Site(tmp_path_factory.mktemp("site")))
        return sites[-1]

    make.sites = sites
    yield make
    for site in sites:
        site.close()


@pytest.fixture
def deaths():
    """`deaths(pids).wait(seconds)` returns those of the processes that are still there then."""
    if not hasattr(os, "pidfd_open"):
        pytest.skip("needs pidfd_open to be told of the end of other programs' processes")
    return Death


@pytest.fixture(autouse=True)
def afresh(request):
    """No test sees what others of its module have left in a site that they share, in whatever order they run."""
    if "make_site" in request.fixturenames:
        for site in request.getfixturevalue("make_site").sites:
            site.forget()
