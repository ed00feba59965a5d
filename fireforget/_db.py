"""Connections to the database file: how they are opened, set up, shared between threads and forks, and how errors read.

One connection a thread: SQLite would allow more, but CPython's statement cache misreads when threads share one (gh-118172).
A connection never crosses a fork: see `gate`, which stands around every use of one.

Nothing here opens the database file by other means than SQLite: POSIX drops all locks of a process on a file as soon as any
descriptor of it is closed.
"""

import logging
import os
import random
import sqlite3
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fireforget import _schema
from fireforget._shield import shield
from fireforget.errors import (
    QueueClosed,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreReplaced,
    StoreUnavailable,
)

_log = logging.getLogger("fireforget.store")

OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "afs", "fuse.sshfs", "fuse.glusterfs"})
WAL_LIMIT_BYTES = 32 * 1024 * 1024
"""Producers without a worker fold the WAL back into the database when it is larger than this."""
WORKER_WAL_BYTES = 4 * 1024 * 1024
"""A worker does so earlier: what is in the page cache still costs little."""
_CHECKPOINT_RETRY_SECONDS = 2.0  # each try may hold up writers for the patience below
CHECKPOINT_PATIENCE_MS = 200
"""How long a checkpoint holds up writers while it waits for readers."""

DEFAULT_PATIENCE = 5.0
"""Seconds that a statement waits for the write lock."""

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.0015  # seconds

# Of https://sqlite.org/fileformat2.html#walformat: the size of a page and the salt; the salt of a frame.
_WAL_HEADER = struct.Struct(">8x I 4x 8s 8x")
_WAL_FRAME = struct.Struct("8x 8s 8x")

_SYNCHRONOUS = {"normal": 1, "full": 2}

_inherited: list[sqlite3.Connection] = []
"""Connections of a parent process that forked in the middle of a statement: kept for ever, so that no destructor closes them."""
_in_use: set[sqlite3.Connection] = set()
"""Those that a handle is to close. The garbage collector ends a circle in any order, and would warn of a connection that it meets
before its handle.
"""


class _ForkGate:
    """Lets no process fork while a connection is in use, so that none is open when it does.

    SQLite keeps in the process which locks it holds on a file. A forked child inherits that record without the locks: a new
    connection there would believe itself protected and overwrite what others do. So before a fork every connection is closed, and
    opened anew when it is next wanted; a fork waits for statements that are under way, and statements for the fork.

    `with gate:` stands around every use, and may be nested in a thread.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, in a forked child."""
        self._changed = threading.Condition(threading.RLock())  # a signal handler may come in the middle, and enqueue
        self._users: dict[int, int] = {}
        self._forking: int | None = None

    def __enter__(self) -> None:
        shield.__enter__()  # until `__exit__`: an interruption must neither hold the gate open nor cut a transaction in two
        me = threading.get_ident()
        with self._changed:
            while self._forking is not None and self._forking != me and me not in self._users:
                self._changed.wait()
            self._users[me] = self._users.get(me, 0) + 1

    def __exit__(self, *_: object) -> None:
        self.let_go()
        shield.__exit__()

    def hold(self) -> None:
        """Keep the gate open for this thread after the block that it is in, until `let_go`: a transaction stays open that long.

        Unlike inside the block, an interruption comes at once.
        """
        with self._changed:
            self._users[threading.get_ident()] += 1

    def let_go(self) -> None:
        """End what `hold` began, or one block."""
        me = threading.get_ident()
        with self._changed:
            self._users[me] -= 1
            if not self._users[me]:
                del self._users[me]
            if self._forking is not None:
                self._changed.notify_all()

    def close(self) -> None:
        """Before a fork: wait until no other thread uses a connection, and keep it so."""
        me = threading.get_ident()
        with self._changed:
            while self._forking is not None:
                self._changed.wait()
            self._forking = me
            while self._users.keys() - {me}:
                self._changed.wait()

    def open(self) -> None:
        """After a fork, in the parent."""
        with self._changed:
            self._forking = None
            self._changed.notify_all()

    def is_used_here(self) -> bool:
        """Return whether the calling thread uses a connection: it forks in the middle of a statement's callback."""
        return threading.get_ident() in self._users


gate = _ForkGate()


class Database:
    """One database file as this process uses it: a connection for each thread that asks.

    Safe to share between threads and to use after a fork. `durability` is "full" (a commit survives a power cut) or "normal"
    (the last commits may be rolled back by one; the file stays sound).
    """

    def __init__(self, path: str | os.PathLike[str], durability: str) -> None:
        self.path = resolve_path(path)
        self.identity: tuple[int, int] | None = None
        self._prepare(_SYNCHRONOUS[durability])
        check_library()
        check_place(self.path)
        create_file(self.path)
        with translated(self.path), gate:
            _schema.migrate(self.connection(), self.path)
        self.identity = file_identity(self.path)

    def sibling(self, durability: str) -> "Database":
        """Return the same file with connections of its own, of another durability."""
        twin = Database.__new__(Database)
        twin.path, twin.identity = self.path, self.identity
        twin._prepare(_SYNCHRONOUS[durability])
        return twin

    def _prepare(self, synchronous: int) -> None:
        self._synchronous = synchronous
        self._local = threading.local()
        self._open: weakref.WeakSet[_Handle] = weakref.WeakSet()
        self._closed = False
        _databases.add(self)

    def connection(self, patience: float = DEFAULT_PATIENCE) -> sqlite3.Connection:
        """Return this thread's connection, opened at its first use; autocommit, write transactions begin IMMEDIATE.

        Use it inside `with gate:`. Its statements wait for the write lock for `patience` seconds, rounded up to tenths. Raises
        `QueueClosed` after `close`, and `StoreReplaced` when it would have to be opened and the file is another one by now.
        """
        if self._closed:
            self.close_thread()
            raise QueueClosed("this queue was closed: open a new SqliteQueue on the same path")
        handle: _Handle | None = getattr(self._local, "handle", None)
        if handle is None or handle.closed:
            if self.identity is not None:
                self.check_identity()
            handle = _Handle(self._connect())
            self._local.handle = handle
            self._open.add(handle)
        handle.wait_at_most(patience)
        return handle.connection

    def _connect(self) -> sqlite3.Connection:
        return connect(self.path, self._synchronous)

    @contextmanager
    def use(self, patience: float = DEFAULT_PATIENCE) -> Iterator[sqlite3.Connection]:
        """Use this thread's connection for a block; raises `StoreError`s."""
        with translated(self.path), gate:
            yield self.connection(patience)

    def check_identity(self) -> None:
        """Raise `StoreReplaced` unless the path still leads to the file that was opened: a commit would go nowhere."""
        if file_identity(self.path) != self.identity:
            raise StoreReplaced(
                self.path, "the file was deleted or replaced while it was open: put it back, or start the program anew"
            )

    def close_thread(self) -> None:
        """Close the calling thread's connection, if it has one."""
        handle = self._local.__dict__.pop("handle", None)
        if handle is not None:
            handle.close()

    def close(self) -> None:
        """Close the calling thread's connection; another thread's is closed when it next asks for it, or ends.

        Closing a connection in the middle of another thread's statement would take the process down.
        """
        self._closed = True
        self.close_thread()

    def _close_all(self) -> None:
        """Before a fork, with the gate closed: close the connections of all threads."""
        for handle in list(self._open):
            handle.close()

    def _put_aside(self) -> None:
        """In a forked child: keep what could not be closed before the fork from ever being used or closed."""
        for handle in list(self._open):
            if not handle.closed:
                handle.closed = True
                _inherited.append(handle.connection)
        self._open = weakref.WeakSet()
        self._local = threading.local()


class _Handle:
    """Closes a thread's connection when the thread has ended."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.closed = False
        _in_use.add(connection)
        self._let_go = _in_use.discard
        self._pid = os.getpid()
        self._tenths = round(DEFAULT_PATIENCE * 10)

    def wait_at_most(self, seconds: float) -> None:
        """Set SQLite's busy timeout; a statement of its own only when it changes, since every enqueue comes here."""
        tenths = max(0, -int(-seconds * 10 // 1))
        if tenths != self._tenths:
            self.connection.execute(f"PRAGMA busy_timeout = {tenths * 100}")
            self._tenths = tenths

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._let_go(self.connection)
            self.connection.close()

    def __del__(self, getpid: Callable[[], int] = os.getpid) -> None:  # `os` itself may be gone by then, as in uWSGI's end
        if self._pid == getpid():
            self.close()
        elif not self.closed:
            _inherited.append(self.connection)


_databases: weakref.WeakSet[Database] = weakref.WeakSet()


def _before_fork() -> None:
    gate.close()
    if not gate.is_used_here():
        for database in list(_databases):
            database._close_all()


def _after_fork_in_child() -> None:
    gate.reset()
    for database in list(_databases):
        database._put_aside()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=gate.open, after_in_child=_after_fork_in_child)


# --- opening ----------------------------------------------------------------------------------------------------------


def resolve_path(path: str | os.PathLike[str]) -> str:
    """Return the absolute path of a database file; raises `StoreUnavailable` for what cannot be one."""
    text = os.fspath(path)
    if not isinstance(text, str) or not text.strip() or text.startswith((":memory:", "file:")):
        raise StoreUnavailable(
            text, "a queue needs a file that other processes can open: give a path, not an in-memory database or a URI"
        )
    return os.path.realpath(text)


def check_library() -> None:
    """Raise `StoreUnavailable` when Python's SQLite is older than 3.35."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StoreUnavailable(
            "SQLite", f"Python uses version {sqlite3.sqlite_version}, fireforget needs 3.35 or later: use a newer Python"
        )


def check_place(path: str) -> None:
    """Raise `StoreUnavailable` or `StoreReadOnly` when no database can live at `path`, with what to do about it."""
    folder = os.path.dirname(path)
    if os.path.isdir(path):
        raise StoreUnavailable(path, "this is a folder: give the path of a file in it")
    if not os.path.isdir(folder):
        raise StoreUnavailable(path, f"its folder {folder} does not exist: create it first")
    if os.path.exists(path) and not os.path.isfile(path):
        raise StoreUnavailable(path, "this is not a regular file: give the path of one")
    for place in (path, folder):
        if os.path.exists(place) and not os.access(place, os.R_OK | os.W_OK):
            if is_mounted_read_only(folder):
                raise StoreReadOnly(path, "its file system is mounted read-only: mount it writable, or give another path")
            what = "it" if place == path else f"its folder {place}"
            raise StoreReadOnly(path, f"{what} cannot be written: give this user the right to write the file and its folder")
    kind = file_system_of(folder)
    if kind in NETWORK_FILE_SYSTEMS:
        raise StoreUnavailable(
            path, f"it lies on a network file system ({kind}), where SQLite's WAL cannot work: use a local disk"
        )


def is_mounted_read_only(folder: str) -> bool:
    """Return whether the file system of a folder takes no writes, whoever asks."""
    try:
        return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
    except (OSError, AttributeError):  # Windows has no statvfs
        return False


def library_version() -> str:
    """Return the version of Python's SQLite."""
    return sqlite3.sqlite_version


def has_wal_reset_bug(version: str) -> bool:
    """Return whether an SQLite can corrupt a file whose WAL is reset by a commit while another connection starts a checkpoint.

    Fixed in 3.51.3, and on their branches in 3.50.7 and 3.44.6: https://sqlite.org/wal.html
    """
    numbers = tuple(map(int, version.split(".")))
    fixed_on_its_branch = (3, 50, 7) <= numbers < (3, 51, 0) or (3, 44, 6) <= numbers < (3, 45, 0)
    return numbers < (3, 51, 3) and not fixed_on_its_branch


def file_system_of(folder: str) -> str | None:
    """Return the type of the file system that holds `folder`, such as "ext4"; None where the system does not tell."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:
        return None
    best, kind = "", None
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        mount_point = before.split(" ")[4].replace("\\040", " ")
        inside = folder == mount_point or folder.startswith(mount_point.rstrip("/") + "/")
        if inside and len(mount_point) >= len(best):
            best, kind = mount_point, after.split(" ")[0]
    return kind


def create_file(path: str) -> None:
    """Create an empty database file for its owner alone, and make its name durable; does nothing when it exists.

    SQLite gives the WAL and its index the permissions of the database file.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    except FileExistsError:
        return
    except OSError as error:
        raise StoreReadOnly(path, f"it cannot be created ({error.strerror}): choose a folder that can be written") from error
    sync_folder(os.path.dirname(path))
    _log.info("%s: created", path)


def sync_folder(folder: str) -> None:
    """Make the names in a folder durable: without it a power cut may take a new file away, whatever was synced in it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def connect(path: str, synchronous: int, factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """Return a new connection with our pragmas, of the class `factory`; raises `StoreError`s."""
    if _inherited:
        raise StoreUnavailable(
            path,
            "this process was forked in the middle of a transaction, and SQLite would take its parent's locks for its own: fork "
            "before or after it",
        )
    with translated(path):
        # check_same_thread=False: `Database.close` closes those of other threads. Each is still used by one thread only.
        # mode=rw: a file that was deleted in the meantime must not be made anew, empty.
        uri = Path(path).as_uri() + "?mode=rw"
        connection = sqlite3.connect(
            uri, timeout=DEFAULT_PATIENCE, isolation_level=None, check_same_thread=False, uri=True, factory=factory
        )
        try:
            _use_wal(connection, path)
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            # Checkpoints are ours alone (see `checkpoint`): SQLite before 3.51.3 can corrupt a file whose WAL is reset by a
            # commit at the moment when another connection starts one.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
            connection.execute("PRAGMA mmap_size = 0")
            # What a statement keeps to undo itself stays in memory that is used again. In a file's buffer it is given back to
            # the system and had again for each statement: a claim takes nearly twice as long.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.text_factory = decode_leniently
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync = 1")
        except BaseException:
            connection.close()
            raise
        return connection


def look(path: str) -> sqlite3.Connection:
    """Return a new connection that takes the file as it is, for a look at what is wrong with it; raises `StoreError`s.

    It neither converts nor migrates anything. Like any program's, it recovers the WAL that a program has left behind.
    """
    with translated(path):
        connection = sqlite3.connect(Path(path).as_uri() + "?mode=rw", timeout=DEFAULT_PATIENCE, isolation_level=None, uri=True)
        try:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.text_factory = decode_leniently
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the file is read here for the first time
        except BaseException:
            connection.close()
            raise
        return connection


def _use_wal(connection: sqlite3.Connection, path: str) -> None:
    """Put the file into WAL mode. The mode is read first, since setting it needs a lock even where nothing changes."""
    if connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
        return
    was_empty = connection.execute("PRAGMA page_count").fetchone()[0] == 0
    mode = _set_wal(connection)
    if mode != "wal":
        raise StoreUnavailable(path, f"SQLite keeps it in journal mode {mode!r} and a queue needs WAL: use a local disk")
    if not was_empty:
        _log.warning("%s was not in WAL mode: converted, and it stays so for every program that opens it", path)


def _set_wal(connection: sqlite3.Connection) -> str:
    """Set the mode, and wait for the lock that it takes: this pragma does not heed the busy timeout."""
    end = time.monotonic() + DEFAULT_PATIENCE
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= end:
                raise
        time.sleep(0.005)


def decode_leniently(data: bytes) -> str:
    """Return text as it is in the file, with replacement characters where a foreign program stored what is not UTF-8."""
    return data.decode("utf-8", "replace")


def decode_exactly(data: bytes) -> str | bytes:
    """Return text as it is in the file, or the bytes where it is not UTF-8: with replacements it would be another name."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


@contextmanager
def lenient(connection: sqlite3.Connection, decode: Callable[[bytes], str | bytes] = decode_leniently) -> Iterator[None]:
    """Read text as it is, whatever a foreign program stored; not always, since it costs a call of Python for each text."""
    before, connection.text_factory = connection.text_factory, decode
    try:
        yield
    finally:
        connection.text_factory = before


def file_identity(path: str) -> tuple[int, int] | None:
    """Return what tells this file from any other (device and inode); None when there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# --- checkpoints ------------------------------------------------------------------------------------------------------


def wal_size(path: str) -> int:
    """Return the size of the WAL in bytes; 0 when there is none."""
    try:
        return os.stat(path + "-wal").st_size
    except OSError:
        return 0


def was_reset_by_others(path: str) -> bool:
    """Return whether the WAL shows that somebody reset it without making it empty, which our own checkpoints do.

    A WAL that begins anew has another salt in its header and its first frames; behind them, frames of the time before remain.
    It is read past SQLite, which is safe for this file alone: there are no locks on it.
    """
    try:
        with open(path + "-wal", "rb") as wal:
            header = wal.read(_WAL_HEADER.size)
            frames, frame = 0, 0
            if len(header) == _WAL_HEADER.size:
                page_size, salt = _WAL_HEADER.unpack(header)
                frame = _WAL_FRAME.size + page_size
                frames = (os.fstat(wal.fileno()).st_size - _WAL_HEADER.size) // frame
            if not frames:
                return False
            wal.seek(_WAL_HEADER.size + (frames - 1) * frame)
            last = wal.read(_WAL_FRAME.size)
    except OSError:
        return False
    return len(last) == _WAL_FRAME.size and _WAL_FRAME.unpack(last)[0] not in (salt, bytes(8))


def checkpoint(connection: sqlite3.Connection, path: str) -> bool:
    """Fold the WAL back into the database; return whether all of it was.

    One checkpointer at a time, by a lock file of its own, and in TRUNCATE mode, which holds SQLite's write lock from its start
    and resets the WAL itself. It gives up after `CHECKPOINT_PATIENCE_MS` when a reader is in the way; the next one carries on.
    """
    with checkpoint_lock(path) as locked:
        if not locked:
            return False
        patience = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        connection.execute(f"PRAGMA busy_timeout = {CHECKPOINT_PATIENCE_MS}")
        try:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            return False
        finally:
            connection.execute(f"PRAGMA busy_timeout = {patience}")
        return not busy


class WalKeeper:
    """Keeps the WAL of a file below a limit, by looking at its size after commits."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path
        self._limit = limit_bytes
        self.retry_at = float("inf")
        """When to try again after a reader was in the way, in monotonic seconds; infinity when the last try did it."""

    def after_commit(self, connection: sqlite3.Connection) -> None:
        """Fold the WAL back when it is too large, unless a reader was in the way a moment ago; raises `sqlite3.Error`."""
        if wal_size(self._path) <= self._limit:
            self.retry_at = float("inf")
        elif self.retry_at == float("inf") or time.monotonic() >= self.retry_at:
            try:
                done = checkpoint(connection, self._path)
            except OSError:  # no descriptors are left, say
                done = False
            self.retry_at = float("inf") if done else time.monotonic() + _CHECKPOINT_RETRY_SECONDS


@contextmanager
def checkpoint_lock(path: str) -> Iterator[bool]:
    """Keep every other program of ours from checkpoints for a block; gives False, and keeps nobody, when one is at it."""
    try:
        import fcntl
    except ImportError:  # Windows: producers there rely on SQLite's own exclusion
        yield True
        return
    descriptor = os.open(path + "-checkpoint", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


# --- errors -----------------------------------------------------------------------------------------------------------


@contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours, with the file's name and what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(path, error) from error


def translate(path: str, error: sqlite3.Error, waited: float | None = None) -> StoreError:
    """Return the `StoreError` that says what an error of SQLite means. `waited` is how long the call waited for a lock."""
    code = getattr(error, "sqlite_errorcode", 0)
    make, problem = _MEANINGS.get(code & 0xFF, (StoreError, f"SQLite says: {error}; the command doctor looks for what is wrong"))
    if make is StoreBusy:
        seconds = "" if waited is None else f" after waiting {waited:.1f} s"
        return StoreBusy(
            path, f"another program holds the write lock{seconds}: find who keeps a transaction open, or wait longer (timeout=)"
        )
    return make(path, problem)


_MEANINGS: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, ""),
    sqlite3.SQLITE_LOCKED: (StoreBusy, ""),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "it cannot be written: give this user the right to write the file and its folder"),
    sqlite3.SQLITE_FULL: (StoreFull, "the disk is full or the file has reached its limit: make room and try again"),
    sqlite3.SQLITE_IOERR: (StoreError, "the disk reports an input/output error: check free space, quota and the disk"),
    sqlite3.SQLITE_CORRUPT: (
        StoreCorrupt,
        "the file is damaged: stop writing, and restore a backup or try `.recover` of sqlite3",
    ),
    sqlite3.SQLITE_NOTADB: (StoreUnavailable, "this file is not an SQLite database: give another path; it was left as it is"),
    sqlite3.SQLITE_CANTOPEN: (
        StoreUnavailable,
        "SQLite cannot open it: check that the file and its folder can be read and written",
    ),
}


def pause_for_lock() -> None:
    """Wait a moment before the write lock is asked for once more.

    SQLite's own waiting sleeps the longer the longer one has waited, up to 0.1 s, so whoever comes last gets the lock first and
    the patient starve. With the same short pause for all, a lock that is free half of the time is had within milliseconds.
    """
    time.sleep(random.uniform(_SHORTEST_PAUSE, _LONGEST_PAUSE))


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether an error says that another connection holds the lock."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_not_ours(error: BaseException | None) -> bool:
    """Return whether an error says that the file is no SQLite database, or one without our tables."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_NOTADB or "no such table: fireforget_" in str(error)


@contextmanager
def begun(database: Database, patience: float) -> Iterator[sqlite3.Connection]:
    """Begin a write transaction, waiting for the lock for `patience` seconds, and use its connection for a block.

    Raises `sqlite3.OperationalError` when the time is over. The gate is left between tries: a fork must not wait for a lock that
    another program holds. The block ends the transaction.
    """
    end = time.monotonic() + patience
    while True:
        with gate:
            connection = database.connection(patience=0)
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_busy(error) or time.monotonic() >= end:
                    raise
            else:
                yield connection
                return
        pause_for_lock()


@contextmanager
def changing(
    database: Database, patience: float, then: Callable[[sqlite3.Connection], object] = lambda connection: None
) -> Iterator[sqlite3.Connection]:
    """Run a block in one write transaction, and `then` once it is committed; raises `StoreError`s.

    After an error of the block, or of the commit, nothing of it happened.
    """
    with translated(database.path), begun(database, patience) as connection:
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            rollback(connection)
            raise
        then(connection)


def rollback(connection: sqlite3.Connection) -> None:
    """End a failed transaction, if SQLite has not ended it already; the error that led here is the one to report."""
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        _log.debug("rollback failed", exc_info=True)
