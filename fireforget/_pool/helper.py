"""The fork helper: the parent of a worker's children.

It is forked from the worker before that has threads or a database, and stays as it was then: one thread, the application
imported, nothing open. So a child that is forked from it, at any later time, is clean, shares its memory, and is at work within
milliseconds. It does three things, each asked for over its socket: fork a child, send a child a signal, tell of a child's end.
A signal never meets a foreign process that got the same pid, since only the helper itself reaps.

When the worker is gone the helper kills what is left and ends.
"""

import gc
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fireforget._pool.channel import Channel, Mailbox

ChildMain = Callable[[socket.socket, int], None]
"""Runs a child on its end of the channel and its slot of the board; when it returns the child ends with exit code 0."""

QUIET_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGTSTP", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)
"""Signals of a terminal or an init system that the supervisor answers for all."""


class ForkHelper:
    """The supervisor's handle on its fork helper. `signal_child` may be called from any thread, the rest from the loop."""

    def __init__(self, pid: int, connection: socket.socket, life: int) -> None:
        self.pid = pid
        self._socket = connection
        self._life = life
        self._closed = False
        self.mailbox = Mailbox(connection)

    @classmethod
    def start(cls, child_main: ChildMain, at_start: Callable[[], None] = lambda: None) -> "ForkHelper":
        """Fork the helper. `at_start` runs in it first; `child_main` in each child. Raises `OSError`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        life_read, life_write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python 3.12 warns of forking with threads. In a worker of its own there are none yet; in an application that
            # embeds one, the helper runs nothing but this module and what handlers do.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_and_exit(lambda: _helper_main(ours, theirs, life_read, life_write, child_main, at_start))
        theirs.close()
        os.close(life_read)
        return cls(pid, ours, life_write)

    def fork_child(self, slot: int, connection: socket.socket) -> None:
        """Ask for a child on this end of a channel; answered by ("forked", slot, pid). Closes `connection` here."""
        with connection:
            socket.send_fds(self._socket, [bytes([_FORK, slot & 0xFF, slot >> 8, 0, 0, 0])], [connection.fileno()])

    def signal_child(self, pid: int, number: int) -> None:
        """Send a signal to a child; nothing happens when it has ended."""
        with suppress(OSError):  # the helper is gone, and has killed its children
            if number == signal.SIGKILL:
                os.kill(self.pid, signal.SIGCONT)  # somebody may have stopped it, and a limit is a limit
            self._socket.send(bytes([_SIGNAL, number]) + pid.to_bytes(4, "little"))

    def reap_strangers(self) -> None:
        """As process 1 of a container: reap the orphans that came to it. The helper itself is not among them."""
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid == self.pid:
                    return
                os.waitpid(ended.si_pid, 0)
            except ChildProcessError:
                return

    def close(self) -> None:
        """End the helper, and with it whatever children are left, and wait for it."""
        self._closed = True
        self._socket.close()
        os.close(self._life)
        with suppress(ChildProcessError, ProcessLookupError):  # the application ignores SIGCHLD, or reaped it
            if not self._has_ended(CLOSE_SECONDS):
                os.kill(self.pid, signal.SIGKILL)  # the kernel kills its children through the `life` pipe
                os.waitpid(self.pid, 0)

    def _has_ended(self, seconds: float) -> bool:
        """Wait for the helper's end, for some seconds; one that somebody has stopped is told to go on."""
        os.kill(self.pid, signal.SIGCONT)
        end = time.monotonic() + seconds
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() >= end:
                return False
            time.sleep(0.002)
        return True

    def close_in_forked_child(self) -> None:
        """In a process that the application forks: let go of what would keep the helper believing that the worker lives."""
        if not self._closed:
            self._socket.close()
            os.close(self._life)


CLOSE_SECONDS = 5.0
_FORK, _SIGNAL = 1, 2
_REQUEST_BYTES = 6


def _run_and_exit(main: Callable[[], None]) -> None:
    code = 1
    try:
        main()
        code = 0
    except ConnectionError:
        pass  # the worker is gone; the kernel is about to end this process as well
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except Exception:  # a closed pipe at the very end is nobody's problem
            pass
        os._exit(code)  # no destructors, no atexit: they belong to the process this one was forked from


def _helper_main(
    ours: socket.socket,
    theirs: socket.socket,
    life_read: int,
    life_write: int,
    child_main: ChildMain,
    at_start: Callable[[], None],
) -> None:
    ours.close()
    os.close(life_write)
    be_quiet()
    gc.collect()
    gc.freeze()  # what is alive now is never collected, so children go on sharing its memory
    at_start()
    _Helper(theirs, life_read, child_main).run()


def be_quiet() -> None:
    """Leave the terminal's and the init system's signals to the supervisor.

    With an empty handler, not SIG_IGN: programs that a handler starts would inherit that, and be deaf to Ctrl-C for ever.
    """
    signal.set_wakeup_fd(-1)
    for number in QUIET_SIGNALS:
        signal.signal(number, lambda *_: None)


class _Helper:
    """The helper's own loop."""

    def __init__(self, connection: socket.socket, life: int, child_main: ChildMain) -> None:
        self._socket = connection
        self._channel = Channel(connection)
        self._life = life
        self._child_main = child_main
        self._children: set[int] = set()

    def run(self) -> None:
        wake_read, wake_write = os.pipe()
        os.set_blocking(wake_read, False)
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(wake_read, select.POLLIN)
        try:
            while self._serve(poll, wake_read):
                pass
        finally:
            self._kill_all()

    def _serve(self, poll: "select.poll", wake_read: int) -> bool:
        ready = dict(poll.poll())
        if wake_read in ready:
            os.read(wake_read, 4096)
            self._reap()
        if self._socket.fileno() in ready:
            return self._obey()
        return True

    def _obey(self) -> bool:
        """Do what the supervisor asks; return False when it is gone."""
        try:
            request, descriptors, _, _ = socket.recv_fds(self._socket, _REQUEST_BYTES, 1)
        except ConnectionError:
            return False
        while 0 < len(request) < _REQUEST_BYTES:
            request += self._socket.recv(_REQUEST_BYTES - len(request))
        if not request:
            return False
        if request[0] == _FORK:
            self._fork(request[1] | request[2] << 8, socket.socket(fileno=descriptors[0]))
        else:
            self._signal(int.from_bytes(request[2:6], "little"), request[1])
        return True

    def _fork(self, slot: int, connection: socket.socket) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            connection.close()
            self._tell(("not forked", slot, str(error)))
            return
        if pid == 0:
            _run_and_exit(lambda: self._become_child(slot, connection))
        connection.close()
        self._children.add(pid)
        self._tell(("forked", slot, pid))

    def _become_child(self, slot: int, connection: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._socket.close()
        die_with_the_worker(self._life)
        self._child_main(connection, slot)

    def _signal(self, pid: int, number: int) -> None:
        self._reap()
        if pid in self._children:
            os.kill(pid, number)

    def _reap(self) -> None:
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._children:
                self._children.remove(pid)
                self._tell(("died", pid, status))

    def _tell(self, message: Any) -> None:
        with suppress(OSError):  # the supervisor is gone; the loop is about to read that
            self._channel.send(message)

    def _kill_all(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)


def die_with_the_worker(life: int) -> None:
    """Have the kernel kill this process when the worker's end of the `life` pipe closes, which its death does.

    No thread of this process could do that while a handler holds the GIL. The pipe is opened anew, since the owner of its
    signals belongs to the open file, and all children share the one they inherited.
    """
    import fcntl

    if not hasattr(fcntl, "F_SETSIG"):  # macOS: the end of the channel is noticed between jobs, and the helper kills as well
        return
    own = os.open(f"/proc/self/fd/{life}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([own], [], [], 0)[0]:  # it died in between, and no signal will come of that
        os._exit(1)
