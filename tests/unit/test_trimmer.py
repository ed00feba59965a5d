"""The thread that trims queues: that it ends when it is told to."""

import threading

from fireforget import metrics
from fireforget._pool.trimmer import Trimmer


class ClearedJustAfterTheCall(threading.Event):
    """An event that somebody sets for the last time just before it is cleared."""

    def __init__(self, stopping):
        super().__init__()
        self._stopping = stopping

    def clear(self):
        self._stopping.set()
        self.set()
        super().clear()


def test_a_stop_that_comes_between_two_looks_is_not_missed(queue):
    """A worker that has done its work ends, whenever its trimmer is told."""
    trimmer = Trimmer(queue._database, metrics.Samples(), queue._clock)
    trimmer._changed = ClearedJustAfterTheCall(trimmer._stopping)
    trimmer.start()
    trimmer._thread.join(10)
    assert not trimmer._thread.is_alive()
