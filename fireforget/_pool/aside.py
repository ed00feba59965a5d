"""A thread of the supervisor beside its loop, for what takes a while: no job may wait for it."""

import threading


class Aside:
    """A thread that sleeps until something has happened, and ends when it is told to; what it does is its `_run`.

    It sleeps without a timeout, or until a moment of its own: an idle worker costs nothing.
    """

    def __init__(self, name: str) -> None:
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def something_happened(self) -> None:
        """Wake the thread, since what it looks at may have changed; cheap, and safe between threads."""
        if not self._changed.is_set():
            self._changed.set()

    def stop(self) -> None:
        """End the thread, and wait for its end."""
        self._stopping.set()
        self._changed.set()
        self._thread.join()
