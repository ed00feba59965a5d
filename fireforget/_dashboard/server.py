"""The HTTP server: one thread reads requests from all connections, a few others answer them.

`http.server` has a thread for each connection, so a thousand connections that say nothing are a thousand threads, and a limit on
threads lets a few slow ones keep everybody else out. Here a connection costs no thread until its request is there as a whole, and
none while its answer is being sent::

    connections ─ asyncio: read head and body ─┬─ readers (4 threads) ─┬─ WSGI application ─ asyncio: send
                                               └─ changers (2 threads) ┘

Actions have threads of their own: deleting a million jobs takes a while, and the page stays live. When there are as many
connections as may be, the one that has been waited for longest makes room, be it for its request or for it to take its answer.
Connections are taken one at a time, with room made before: asyncio's own server takes all that have come, and where that is more
than this process may have files it writes a line to the log for each, for as long as it lasts.
"""

import asyncio
import contextlib
import io
import logging
import socket
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from fireforget._dashboard.web import MOST_BODY_BYTES

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication, WSGIEnvironment

_log = logging.getLogger("fireforget.dashboard")

READERS, CHANGERS = 4, 2
MOST_CONNECTIONS = 512
REQUEST_SECONDS = 20.0
"""How long a connection may take until its next request is there, silence included."""
SEND_SECONDS = 20.0
_MOST_HEAD_BYTES = 16 * 1024
_BACKLOG = 1024  # connections that the system takes for us meanwhile
_BREATH_SECONDS = 0.05  # when there is no file left for another one
_LARGE_BODY_BYTES, _LARGE_BODIES = 64 * 1024, 4  # so many larger bodies are read at once


class _Malformed(Exception):
    """What came is no request that we answer; the connection ends with this status."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


@dataclass
class _Head:
    """The head of a request."""

    method: str
    target: str
    keep_alive: bool
    length: int
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """Serves a WSGI application in a thread of its own, from `start` to `close`; `with` does both.

    `host` is a name or address to listen on, `port` a number, 0 for any that is free. `start` raises `OSError` when that fails.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        request_seconds: float = REQUEST_SECONDS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        self._app = app
        self._host = host
        self.port = port
        self._request_seconds = request_seconds
        self._most = min(most_connections, _descriptors() // 2)
        self._waiting: dict[asyncio.StreamWriter, None] = {}
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers = ThreadPoolExecutor(READERS, "fireforget-dashboard-read")
        self._changers = ThreadPoolExecutor(CHANGERS, "fireforget-dashboard-change")
        self._large = asyncio.Semaphore(_LARGE_BODIES)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending: asyncio.Event | None = None
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="fireforget-dashboard", daemon=True)

    @property
    def url(self) -> str:
        """Where the page is."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}.get(self._host, self._host)
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{self.port}/"

    def start(self) -> None:
        """Listen; returns when connections are taken."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """Stop listening, drop all connections, and wait for actions that are under way."""
        loop, ending = self._loop, self._ending
        if loop is not None and ending is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                loop.call_soon_threadsafe(ending.set)
        self._thread.join()
        for pool in (self._readers, self._changers):
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        listening = await _listen(self._host, self.port)
        self.port = listening[0].getsockname()[1]
        taking = [asyncio.create_task(self._take(one)) for one in listening]
        self._ready.set()
        try:
            await self._ending.wait()
        finally:
            for task in taking:
                task.cancel()
            await asyncio.gather(*taking, return_exceptions=True)
            for one in listening:
                one.close()
            for writer in list(self._connections):
                writer.transport.abort()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, listening: socket.socket) -> None:
        """Take connections, one at a time."""
        loop, told = asyncio.get_running_loop(), False
        while True:
            try:
                taken, _ = await loop.sock_accept(listening)
            except OSError as error:  # this process or the system has no file left
                if not told:
                    _log.warning("dashboard cannot take connections for a moment", extra={"error": str(error)})
                told = True
                self._make_room()
                await asyncio.sleep(_BREATH_SECONDS)
                continue
            told = False
            if len(self._connections) >= self._most and not self._make_room():
                taken.close()
                await asyncio.sleep(0)  # where many have come, the others have their turn too
                continue
            with contextlib.suppress(OSError):  # gone already
                await loop.connect_accepted_socket(self._protocol, taken)

    def _protocol(self) -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=_MOST_HEAD_BYTES), self._connected)

    # --- a connection -------------------------------------------------------------------------------------------------

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._connections.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # gone, or too slow
        except _Malformed as malformed:
            writer.write(_bare(malformed.status))
        finally:
            self._connections.discard(writer)
            self._waiting.pop(writer, None)
            writer.close()

    def _make_room(self) -> bool:
        """End the connection that has been waited for longest; return whether there was one."""
        for writer in self._waiting:
            del self._waiting[writer]
            writer.transport.abort()
            return True
        return False

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read a request and answer it; return whether another one may follow."""
        self._waiting[writer] = None
        async with asyncio.timeout(self._request_seconds):
            try:
                head = _parse(await reader.readuntil(b"\r\n\r\n"))
            except asyncio.LimitOverrunError:
                raise _Malformed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from None
            if head.headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            body = await self._body(reader, head.length)
        self._waiting.pop(writer, None)
        environ = _environ(head, body, writer)
        assert self._loop is not None
        pool = self._changers if head.method == "POST" else self._readers
        answer = await self._loop.run_in_executor(pool, _call, self._app, environ, head.keep_alive)
        writer.write(answer)
        self._waiting[writer] = None
        async with asyncio.timeout(SEND_SECONDS):
            await writer.drain()
        return head.keep_alive

    async def _body(self, reader: asyncio.StreamReader, length: int) -> bytes:
        if length <= _LARGE_BODY_BYTES:
            return await reader.readexactly(length)
        async with self._large:
            return await reader.readexactly(length)


async def _listen(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets, one for each address of the host; raises `OSError`."""
    server = await asyncio.start_server(lambda *_: None, host, port, start_serving=False)  # it knows how to bind, everywhere
    try:
        found = [one.dup() for one in server.sockets]
    finally:
        server.close()
    for one in found:
        one.setblocking(False)
        one.listen(_BACKLOG)
    return found


def _descriptors() -> int:
    """Return how many files this process may have open."""
    if sys.platform == "win32":
        return MOST_CONNECTIONS * 2
    import resource

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS * 2 if soft == resource.RLIM_INFINITY else soft


def _parse(raw: bytes) -> _Head:
    """Return the head of a request. What may be read in two ways is refused: a proxy before us may read it in the other."""
    line, *fields = raw[:-4].decode("latin-1").split("\r\n")
    if any((one < " " and one != "\t") or one == "\x7f" for text in (line, *fields) for one in text):
        raise _Malformed(HTTPStatus.BAD_REQUEST)  # such as a line that ends in a bare \r, or NUL
    words = line.split(" ")
    if len(words) != 3 or not words[0].isalpha() or not words[1].startswith("/") or words[2] not in ("HTTP/1.1", "HTTP/1.0"):
        raise _Malformed(HTTPStatus.BAD_REQUEST)
    headers: dict[str, str] = {}
    for one in fields:
        name, colon, value = one.partition(":")
        key = name.lower()
        if not colon or not name or name != name.strip() or not name.replace("-", "").replace("_", "").isalnum():
            raise _Malformed(HTTPStatus.BAD_REQUEST)
        if key in headers and key in ("host", "content-length", "origin", "authorization", "content-type"):
            raise _Malformed(HTTPStatus.BAD_REQUEST)
        if "_" not in name:  # in WSGI it would look like the header with a hyphen
            headers[key] = (
                f"{headers[key]}{'; ' if key == 'cookie' else ', '}{value.strip()}" if key in headers else value.strip()
            )
    if "transfer-encoding" in headers:
        raise _Malformed(HTTPStatus.NOT_IMPLEMENTED)
    length = headers.get("content-length", "0")
    if not length.isdecimal() or not length.isascii() or len(length) > 12:
        raise _Malformed(HTTPStatus.BAD_REQUEST)
    if int(length) > MOST_BODY_BYTES:
        raise _Malformed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    wish = headers.get("connection", "").lower()
    keep_alive = "close" not in wish and (words[2] == "HTTP/1.1" or "keep-alive" in wish)
    return _Head(words[0].upper(), words[1], keep_alive, int(length), headers)


def _environ(head: _Head, body: bytes, writer: asyncio.StreamWriter) -> "WSGIEnvironment":
    path, _, query = head.target.partition("?")
    peer = writer.get_extra_info("peername") or ("?", 0)
    own = writer.get_extra_info("sockname") or ("?", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "CONTENT_TYPE": head.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(head.length),
        "REMOTE_ADDR": str(peer[0]),
        "SERVER_NAME": str(own[0]),
        "SERVER_PORT": str(own[1]),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers.items():
        if name not in ("content-type", "content-length"):
            environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ


def _call(app: "WSGIApplication", environ: "WSGIEnvironment", keep_alive: bool) -> bytes:
    """Have the application answer, and return the answer as it goes over the wire."""
    said: list[Any] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
        said[:] = [status, headers]

    try:
        parts: Iterable[bytes] = app(environ, start_response)
        body = b"".join(parts)
        status, headers = said
    except Exception:
        _log.exception("dashboard request failed")
        return _bare(HTTPStatus.INTERNAL_SERVER_ERROR)
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Connection: {'keep-alive' if keep_alive else 'close'}", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace") + body


def _bare(status: HTTPStatus) -> bytes:
    return f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")


def addresses_of(host: str) -> list[str]:
    """Return the addresses that a host stands for; raises `OSError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host or None, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)]
