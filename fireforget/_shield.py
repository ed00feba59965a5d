"""Keeps an interruption out of code that must not be cut in two.

A timeout raises in a handler wherever it is at that moment. Were that between taking a lock and the `try` that gives it back, the
lock would be held for ever, and every later job of the process would hang.

So it comes in through a `Window` of the thread that runs the job, and that is open while the application's code runs. What stands
around the handler is ours: it logs and counts, under locks of `logging` too, and what it has said of a run must stay true.

Handlers call our code as well. `with shield:` stands around what holds locks there: an interruption that comes inside is raised
when the outermost such section ends.
"""

import threading
from collections.abc import Callable


class Shield:
    """How deep each thread is in shielded sections, and what waits to be raised there."""

    def __init__(self) -> None:
        self._depth: dict[int, int] = {}
        self._waiting: dict[int, BaseException] = {}

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._depth[me] = self._depth.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        me = threading.get_ident()
        if self._depth[me] > 1:
            self._depth[me] -= 1
            return
        del self._depth[me]
        error = self._waiting.pop(me, None)
        if error is not None:
            raise error

    def defers(self, thread: int, error: BaseException) -> bool:
        """Return whether the thread is in a shielded section; then it raises the error at its end."""
        self._waiting[thread] = error  # first, so that a section that ends at this moment raises it, or it is still here below
        return thread in self._depth or self._waiting.pop(thread, None) is None

    def forget(self, thread: int) -> None:
        """Drop an interruption that has not been raised: its job has ended."""
        self._waiting.pop(thread, None)


shield = Shield()


class Window:
    """Lets interruptions into the thread that has made it, while it is open; one that comes before waits until then.

    That thread opens and shuts it. Any other may call `interrupt`, and so may a signal handler of its own.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may come in the middle
        """Held while an interruption is thrown, so that under it, none is on its way."""
        self._thread = threading.get_ident()
        self._is_open = False
        self.waiting: BaseException | None = None
        """What came while it was shut."""

    def open(self) -> None:
        """Let interruptions in from now on; raises the one that waits."""
        with self.lock:
            self._is_open = self.waiting is None
        if not self._is_open and (waiting := self.take()) is not None:
            raise waiting

    def shut(self) -> None:
        """Let none in from now on; raises one that was thrown before, if it has not come yet."""
        with self.lock:
            self._is_open = False
        _be_interrupted()

    def take(self) -> BaseException | None:
        """Return the interruption that waits, which waits no longer."""
        with self.lock:
            waiting, self.waiting = self.waiting, None
        return waiting

    def interrupt(self, error: BaseException, throw: Callable[[BaseException], None]) -> None:
        """Have `throw` raise the error in the thread; at once where the window is open, and no shielded section is under way."""
        with self.lock:
            if not self._is_open:
                self.waiting = error
                return
            self._is_open = False
            if not shield.defers(self._thread, error):
                throw(error)


def _be_interrupted() -> None:
    """Do nothing: what another thread has thrown at this one is raised when a function is called, at the latest."""
