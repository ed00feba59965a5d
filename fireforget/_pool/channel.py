"""Messages between a supervisor and its children: a length, then a value that `marshal` can carry.

`marshal` is the fastest way to move tuples of text and numbers between processes of one interpreter, which these always are;
nothing of it is ever stored. The child's end blocks. The supervisor's end never does: a child that is stopped in the middle of a
message must not stop the supervisor.
"""

import marshal
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("<I")
_CHUNK = 256 * 1024


class Channel:
    """The child's end."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._buffer = bytearray()

    def send(self, message: Any) -> None:
        """Send one message; raises `OSError` when the supervisor is gone."""
        data = marshal.dumps(message)
        self._socket.sendall(_LENGTH.pack(len(data)) + data)

    def receive(self) -> Any:
        """Wait for the next message; None when the supervisor has closed its end, or is gone."""
        while (message := _take(self._buffer)) is None:
            try:
                data = self._socket.recv(_CHUNK)
            except ConnectionError:
                return None
            if not data:
                return None
            self._buffer += data
        return message

    def has_message(self) -> bool:
        """Return whether the next message, or a part of it, has arrived."""
        if self._buffer:
            return True
        try:
            return bool(self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return False
        except OSError:
            return True


class Mailbox:
    """The supervisor's end."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._in = bytearray()
        self._out = bytearray()
        self.ended = False

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self.socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether something waits for room in the socket."""
        return bool(self._out)

    def send(self, message: Any) -> None:
        """Queue one message and send what fits."""
        data = marshal.dumps(message)
        self._out += _LENGTH.pack(len(data)) + data
        self.flush()

    def flush(self) -> None:
        """Send what fits; what is left goes when the socket can be written again."""
        while self._out and not self.ended:
            try:
                sent = self.socket.send(self._out)
            except BlockingIOError:
                return
            except OSError:  # the child is gone; its death is told by the helper, and its jobs are known
                self._out.clear()
                return
            del self._out[:sent]

    def receive(self) -> list[Any]:
        """Return all messages that have arrived by now; sets `ended` when the child has closed its end."""
        while not self.ended:
            try:
                data = self.socket.recv(_CHUNK)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.ended = True
                break
            self._in += data
        messages = []
        while (message := _take(self._in)) is not None:
            messages.append(message)
        return messages

    def close(self) -> None:
        """Close this end; the child reads the end of its messages."""
        self.socket.close()
        self.ended = True


def _take(buffer: bytearray) -> Any:
    """Remove the first whole message from the buffer and return it; None when there is none yet."""
    if len(buffer) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(buffer)
    end = _LENGTH.size + length
    if len(buffer) < end:
        return None
    message = marshal.loads(memoryview(buffer)[_LENGTH.size : end])
    del buffer[:end]
    return message
