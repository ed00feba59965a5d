"""Where things stand on a worker's board, the file that `_pool.board` writes, and how others read it.

In 8-byte words::

    header:  magic, slots, threads
             wanted     (supervisor) it waits for the database's write lock or has it
             deaths     (supervisor) how many children have died that should not have
             died       (supervisor) when the last of them died, in Unix seconds, as a double
             dead pid, its exit code as a signed number: negative for a signal
    slot:    limit      (supervisor) jobs of this child may be started up to this index, not including it
             started    (child)      how many it has started
             done       (child)      with one thread: jobs below this index have ended, with nothing to tell or all told
             pid        (supervisor) the child's, 0 for none
             born       (supervisor) since when it has been there, in monotonic seconds, as a double
    cell:    index + 1  (child)      which of its jobs runs here, 0 for none
             number     (child)      that job's number in the database
             began      (child)      monotonic seconds, as a double
             interrupt  (supervisor) index + 1 of the job to be interrupted
             reason     (supervisor) why: see `_pool.board.Reason`
             holds      (child)      since when it holds the database's write lock for a handler or a step, 0 for not at all
             decides    (child)      since when, in monotonic seconds, the application decides on its failure, 0 for not at all

A slot has its cells behind it, one a thread, and all slots follow the header. Whoever only looks takes a copy, without a lock:
each word is whole, and two that do not match are a moment's.
"""

import os
import signal
import struct
from typing import NamedTuple

MAGIC = b"ffboard1"
MAGIC_OF_RELAY = b"ffrelay1"  # nothing that runs there is to blame for a death
HEADER = struct.Struct("<8sQQ")
HEADER_WORDS, SLOT_WORDS, CELL_WORDS = 8, 8, 8
WANTED, DEATHS, DIED, DEAD_PID, DEAD_CODE = 3, 4, 5, 6, 7
LIMIT, STARTED, DONE, PID, BORN = 0, 1, 2, 3, 4
INDEX, NUMBER, BEGAN, INTERRUPT, REASON, HOLDS, DECIDES = 0, 1, 2, 3, 4, 5, 6
SIGNED = 2**64
"""What is added to a negative number to store it in a word."""
_MOST_BYTES = 16 * 1024 * 1024


def slot_words(threads: int) -> int:
    """Return how many words a slot has, with its cells."""
    return SLOT_WORDS + threads * CELL_WORDS


def size(slots: int, threads: int) -> int:
    """Return how many bytes the header and the slots take."""
    return 8 * (HEADER_WORDS + slots * slot_words(threads))


def running(words: memoryview, doubles: "memoryview[float]", at: int, threads: int) -> list[tuple[int, int, float]]:
    """Return (index, job number, monotonic start) of what runs in the slot at a word; a view torn by a change is harmless."""
    limit, done = words[at + LIMIT], words[at + DONE]
    found = []
    for cell in range(at + SLOT_WORDS, at + slot_words(threads), CELL_WORDS):
        index = words[cell + INDEX] - 1
        if done <= index < limit and index >= 0:
            found.append((index, words[cell + NUMBER], doubles[cell + BEGAN]))
    return found


class SeenChild(NamedTuple):
    """A child's slot, as somebody saw it."""

    pid: int
    """0 where no child is."""
    born: float
    running: list[tuple[int, int, float]]
    """(index, job number, monotonic start)."""


class SeenBoard(NamedTuple):
    """A board, as somebody saw it."""

    is_relays: bool
    children: list[SeenChild]
    deaths: int
    died: float
    dead_pid: int
    dead_code: int


def read(descriptor: int) -> SeenBoard | None:
    """Return what is on a board at this moment; None for a file that is none, or none yet. Raises `OSError`."""
    content = os.pread(descriptor, HEADER_WORDS * 8, 0)
    if len(content) < HEADER_WORDS * 8:
        return None
    magic, slots, threads = HEADER.unpack_from(content)
    whole = size(slots, threads)
    if magic not in (MAGIC, MAGIC_OF_RELAY) or whole > _MOST_BYTES:
        return None
    content = os.pread(descriptor, whole, 0)
    if len(content) < whole:
        return None
    words, doubles = memoryview(content).cast("Q"), memoryview(content).cast("d")
    code = words[DEAD_CODE]
    children = [
        SeenChild(words[at + PID], doubles[at + BORN], running(words, doubles, at, threads))
        for at in range(HEADER_WORDS, whole // 8, slot_words(threads))
    ]
    return SeenBoard(
        magic == MAGIC_OF_RELAY,
        children,
        words[DEATHS],
        doubles[DIED],
        words[DEAD_PID],
        code if code < SIGNED // 2 else code - SIGNED,
    )


def exit_word(code: int) -> str:
    """Return a short name of how a process ended."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
