"""An executor whose threads never hold up the interpreter's exit.

`concurrent.futures.ThreadPoolExecutor` joins its threads when the interpreter leaves, so a single call that does not
answer hangs the exit for ever. The threads here are daemons: who needs their work done waits for it and decides how
long.

    submit --> _work (a deque) --> a parked thread, whose bell is rung
                               \\-> or a new thread, up to max_threads
                               \\-> or, at max_threads, the next thread that is free

One lock, `_lock`, guards everything and is never held while work runs. A parked thread waits on a bell of its own, a
bare lock used as a semaphore: a ring before the wait is not lost, and one too many only makes it look twice. It ends
after `idle_seconds` without work. The last one stays and sleeps, because Python 3.12 starts no thread once the
interpreter has begun to leave: what exit callbacks submit then still has one.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from contextvars import Context
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Work = tuple["Future[Any]", Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def new_bell() -> threading.Lock:
    """Return a bell that has not been rung: `acquire` waits for it, `release` rings it, once for each wait."""
    bell = threading.Lock()
    bell.acquire()
    return bell


def ring(bell: threading.Lock) -> None:
    """Ring a bell; one that was rung already stays rung."""
    with suppress(RuntimeError):
        bell.release()


def wait_for(bell: threading.Lock, seconds: float) -> bool:
    """Wait until the bell is rung, for at most `seconds` (below 0 is 0); return whether it was."""
    return bell.acquire(timeout=min(max(seconds, 0.0), threading.TIMEOUT_MAX))


class DaemonExecutor(Executor):
    """Run calls on daemon threads; thread-safe, and re-entrant (a finalizer may submit in the middle of a submit).

    `name` begins the names of the threads, `max_threads` bounds them, and all but one end after `idle_seconds` without
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
            if not self._ring_one() and self._threads < self._max_threads:
                self._start_thread(work)
        return future

    def _ring_one(self) -> bool:
        """Wake a parked thread; False when there is none."""
        if not self._parked:
            return False
        # Rung first: should a signal handler raise in between, the thread wakes up and takes itself off the list.
        bell = self._parked[-1]
        ring(bell)
        if bell in self._parked:
            self._parked.remove(bell)
        return True

    def _start_thread(self, work: _Work) -> None:
        self._started += 1
        self._threads += 1
        in_no_context = Context().run  # some builds have threads inherit one: this would be in the job that submits for ever
        try:
            threading.Thread(target=in_no_context, args=(self._run,), name=f"{self._name}-{self._started}", daemon=True).start()
        except (RuntimeError, MemoryError):  # no more threads, or the interpreter is leaving
            self._threads -= 1
            if not self._threads:
                self._work.remove(work)
                raise
            # a thread that is busy now gets to it

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
                    return self._take()
                if self._closed:
                    self._threads -= 1
                    return None
                self._parked.append(bell)
                seconds = self._idle_seconds if self._threads > 1 else threading.TIMEOUT_MAX
            rung = wait_for(bell, seconds)
            if self._is_surplus(bell, rung):
                return None

    def _take(self) -> _Work:
        work = self._work.popleft()
        if self._work:
            self._ring_one()  # a submit inside a submit may have rung the same thread twice
        return work

    def _is_surplus(self, bell: threading.Lock, rung: bool) -> bool:
        """Take a woken thread off the parked ones; end it when nobody has rung and there is another."""
        with self._lock:
            if bell not in self._parked:
                return False
            self._parked.remove(bell)
            if rung or self._threads == 1:
                return False
            self._threads -= 1
            return True

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work and let the threads end after what was submitted. Never waits, whatever `wait` says."""
        with self._lock:
            self._closed = True
            cancelled = list(self._work) if cancel_futures else []
            if cancel_futures:
                self._work.clear()
            bells, self._parked = self._parked, []
        for bell in bells:
            ring(bell)
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
