"""Keeps an interruption out of sections that hold locks.

A timeout raises in a handler wherever it is at that moment. Were that between taking a lock and the `try` that gives it back, the
lock would be held for ever, and every later job of the process would hang. `with shield:` stands around such sections: an
interruption that comes inside is raised when the outermost of them ends.
"""

import threading


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
        if thread not in self._depth:
            return False
        self._waiting[thread] = error
        return True

    def forget(self, thread: int) -> None:
        """Drop an interruption that has not been raised: its job has ended."""
        self._waiting.pop(thread, None)


shield = Shield()
