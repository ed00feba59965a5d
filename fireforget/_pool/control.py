"""`Worker`: start and stop a supervisor, in the foreground with signals or embedded in an application."""

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fireforget import logs
from fireforget._pool.config import Settings
from fireforget._pool.supervisor import Supervisor
from fireforget.clock import Seconds
from fireforget.errors import WorkerError
from fireforget.queue_sqlite import SqliteQueue
from fireforget.registry import Registry

_REQUEST_OF_SIGNAL = {"SIGTERM": "stop", "SIGINT": "stop", "SIGTSTP": "pause", "SIGCONT": "resume"}


class Worker:
    """Runs the jobs of a queue in a pool of processes.

    `registry` has the handlers; `queue` is a `SqliteQueue` or the path of its file. The other arguments are the command's flags:
    `concurrency` child processes (None: one for each CPU), `threads` jobs at once in each (1), `queues` with their weights
    (critical 6, default 3, low 1), `strict_priority` (heavier queues first, always), `burst` (end when nothing is left to run),
    `metrics_file` and `metrics_interval` in seconds (None, 15), `shutdown_timeout` in seconds for running jobs at a stop (30),
    `max_tasks_per_child` and `max_rss_mb` to replace a child between jobs (None: never).

    Use `run()` in a program of its own, or `start()` and `shutdown()`, or `with`, inside an application. A worker can be started
    once. Start it before the application has threads if you can: its processes are forked from the application's.

    Raises `InvalidOption` for a setting that cannot be one.
    """

    _supervisor_class = Supervisor

    def __init__(
        self,
        registry: Registry,
        queue: SqliteQueue | str | os.PathLike[str],
        *,
        concurrency: int | None = None,
        threads: int | None = None,
        queues: Mapping[str, int] | Iterable[str] | None = None,
        strict_priority: bool = False,
        burst: bool = False,
        metrics_file: str | os.PathLike[str] | None = None,
        metrics_interval: Seconds | None = None,
        shutdown_timeout: Seconds | None = None,
        max_tasks_per_child: int | None = None,
        max_rss_mb: int | None = None,
    ) -> None:
        if not isinstance(registry, Registry):
            raise WorkerError(f"{registry!r} is not a Registry: give the one that your handlers are registered in")
        self.settings = Settings.checked(
            concurrency=concurrency,
            threads=threads,
            queues=queues,
            strict_priority=strict_priority,
            burst=burst,
            metrics_file=metrics_file,
            metrics_interval=metrics_interval,
            shutdown_timeout=shutdown_timeout,
            max_tasks_per_child=max_tasks_per_child,
            max_rss_mb=max_rss_mb,
        )
        self._supervisor = self._supervisor_class(registry, self.settings, queue)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._opened = False

    def run(self) -> None:
        """Work until SIGTERM or SIGINT, or the end of a burst; blocks.

        TERM and INT stop: no more claims, running jobs have the shutdown timeout, what still runs then is put back with no
        attempt counted. A second one does not wait. TSTP stops claiming, CONT takes it up again. Signals are only answered in
        the main thread.

        Raises `StoreError` or `WorkerError` when it cannot start or go on.
        """
        restore = self._listen_to_signals()
        try:
            self.open()
            self._supervisor.run()
        finally:
            restore()

    def open(self) -> None:
        """Fork the helper, open the database and sign in, which `run` and `start` do by themselves; raises what is in the way.

        For a program that wants to tell a worker that could not start from one that could not go on.
        """
        if not self._opened:
            refuse_where_there_is_no_fork()
            self._supervisor.open()
            self._opened = True

    def start(self) -> None:
        """Start working in the background and return; jobs are taken from now on. Raises as `run` does.

        A program that ends without `shutdown` puts what runs back as it leaves, with no attempt counted.
        """
        if self._thread is not None:
            raise WorkerError("this worker was started already: make a new Worker")
        self.open()
        self._thread = threading.Thread(target=self._run_in_thread, name="fireforget-supervisor", daemon=True)
        self._thread.start()
        atexit.register(self._stop_at_exit, os.getpid())

    def _stop_at_exit(self, pid: int) -> None:
        """Stop with the program: running jobs are put back at once, since it did not ask to wait. Not in a process it forked."""
        if os.getpid() == pid:
            self.shutdown(timeout=0)

    def shutdown(self, timeout: Seconds | None = None) -> None:
        """Stop claiming, let running jobs end, put back what still runs after the shutdown timeout, and wait for all of it.

        `timeout` in seconds replaces the worker's `shutdown_timeout` here. Raises what made the worker end by itself, if it did.
        """
        if timeout is not None:
            self._supervisor.set_patience(timeout)
        self._supervisor.request("stop")
        if self._thread is None:
            return  # it works in `run`, which returns when it has stopped
        self._thread.join()
        atexit.unregister(self._stop_at_exit)
        if self._error is not None:
            raise self._error

    @property
    def alive(self) -> bool:
        """Whether a worker that was started is still at work."""
        return self._thread is not None and self._thread.is_alive()

    def join(self) -> None:
        """Wait for a started worker to end by itself, as one with `burst` does. Raises as `shutdown` does."""
        if self._thread is not None:
            self._thread.join()
            if self._error is not None:
                raise self._error

    def __enter__(self) -> "Worker":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()

    def _run_in_thread(self) -> None:
        try:
            self._supervisor.run()
        except BaseException as error:
            self._error = error
            atexit.unregister(self._stop_at_exit)
            logs.event(logging.ERROR, "the worker cannot go on", error=str(error))

    def _listen_to_signals(self) -> Callable[[], None]:
        """Route signals to the supervisor; return what restores the former handlers. Handlers only record, the loop acts."""
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        before: dict[int, Any] = {}
        requests = dict(_REQUEST_OF_SIGNAL)
        if os.getpid() == 1:  # of a container: orphans of handlers come to it
            requests["SIGCHLD"] = "reap"
        for name, request in requests.items():
            number = getattr(signal, name, None)
            if number is not None:
                before[number] = signal.signal(number, lambda *_, what=request: self._supervisor.request(what))

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        return restore


def refuse_where_there_is_no_fork() -> None:
    """Raise `WorkerError` on a system without fork: producers work there, a worker does not."""
    if not hasattr(os, "fork") or sys.platform == "win32":
        raise WorkerError("a worker needs os.fork, which this system has not: enqueue here, and run the worker on Linux or macOS")
