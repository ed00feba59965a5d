"""An executor whose threads never hold up the interpreter's exit.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter leaves, so a single call that does not
answer hangs the exit for ever. The threads here are daemons: who needs their work done waits for it and decides how
long.

    submit --> _work (a deque) --> a parked thread, whose bell is rung
                               \\-> or a new thread, up to max_threads
                               \\-> or, at max_threads, the next thread that is free

One lock, `_lock`, guards everything and is never held while work runs. A parked thread waits on a bell of its own, a
bare lock used as a semaphore: a ring before the wait is not lost. It ends after `idle_seconds` without work.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def new_bell() -> threading.Lock:
    """Return a bell that has not been rung: `acquire` waits for it, `release` rings it, once for each wait."""
    bell = threading.Lock()
    bell.acquire()
    return bell


def wait_for(bell: threading.Lock, seconds: float) -> bool:
    """Wait until the bell is rung, for at most `seconds` (below 0 is 0); return whether it was."""
    return bell.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class DaemonExecutor(Executor):
    """Run calls on daemon threads; thread-safe, and re-entrant (a finalizer may submit in the middle of a submit).

    `name` begins the names of the threads, `max_threads` bounds them, and a thread ends after `idle_seconds` without
    work. After a fork the child needs an executor of its own: the threads have stayed in the parent.
    """

    def __init__(self, name: str, max_threads: int, *, idle_seconds: float = 10.0) -> None:
        self._name = name
        self._max_threads = max_threads
        self._idle_seconds = idle_seconds
        self._lock = threading.RLock()
        self._work: deque[_Work] = deque()
        self._parked: list[threading.Lock] = []
        self._threads = 0
        self._started = 0
        self._closed = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "Future[T]":
        """Have `fn(*args, **kwargs)` called on a thread.

        Raises `RuntimeError` after `shutdown`, and when there is no thread and none can be started.
        """
        future: Future[T] = Future()
        work = (future, fn, args, kwargs)
        with self._lock:
            if self._closed:
                raise RuntimeError("this executor was shut down: make a new one")
            self._work.append(work)
            bell = self._parked.pop() if self._parked else None
            growing = bell is None and self._threads < self._max_threads
            if growing:
                self._threads += 1
        if bell is not None:
            bell.release()
        elif growing:
            self._start_thread(work)
        return future

    def _start_thread(self, work: _Work) -> None:
        self._started += 1
        try:
            threading.Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
        except (RuntimeError, MemoryError):  # no more threads, or the interpreter is leaving
            with self._lock:
                self._threads -= 1
                if self._threads:
                    return  # a thread that is busy now gets to it
                self._work.remove(work)
            raise

    def _run(self) -> None:
        bell = new_bell()
        while (work := self._next(bell)) is not None:
            _perform(*work)
            del work  # while it is parked, a thread keeps nothing alive

    def _next(self, bell: threading.Lock) -> _Work | None:
        """Return the next work, waiting for it while parked; None when this thread is to end."""
        while True:
            with self._lock:
                if self._work:
                    return self._work.popleft()
                if self._closed:
                    self._threads -= 1
                    return None
                self._parked.append(bell)
            if not wait_for(bell, self._idle_seconds) and self._retire(bell):
                return None

    def _retire(self, bell: threading.Lock) -> bool:
        """End a thread that nobody has rung for; False when the ring came in the last moment."""
        with self._lock:
            if bell in self._parked:
                self._parked.remove(bell)
                self._threads -= 1
                return True
        bell.acquire()  # who took it from the parked ones is about to ring it
        return False

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work and let the threads end after what was submitted. Never waits, whatever `wait` says."""
        with self._lock:
            self._closed = True
            cancelled = list(self._work) if cancel_futures else []
            if cancel_futures:
                self._work.clear()
            bells, self._parked = self._parked, []
        for bell in bells:
            bell.release()
        for future, *_ in cancelled:
            future.cancel()


def _perform(future: "Future[Any]", fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:  # also SystemExit: it ends the call, never the thread
        future.set_exception(error)
    else:
        future.set_result(result)
