"""A ring in shared memory: what a child has to tell that nobody has to be woken for, and that outlives the child.

A job whose result is of use to nobody, most likely, must not cost a message: each wakes the supervisor, and so much that a worker
would do a third of such jobs. So the child lays results down here, and the supervisor takes them when it collects what has ended.

One side puts, the other takes. Both count words over the whole life of the child; an entry never crosses the end of the ring::

    head (child)  tail (supervisor)  | index  length  data ... | index  length  data ... | SKIP ... |
"""

_HEAD, _TAIL, _FIRST = 0, 1, 2
_SKIP = 2**63
RING_WORDS = 4096
"""8-byte words of one child's ring, its two counters included."""


class Ring:
    """One child's ring, in `RING_WORDS` words from `offset` on."""

    def __init__(self, words: "memoryview[int]", offset: int, size: int = RING_WORDS) -> None:
        self._words = words
        self._bytes = words.cast("B")
        self._head_at = offset + _HEAD
        self._tail_at = offset + _TAIL
        self._first = offset + _FIRST
        self._size = size - _FIRST

    def clear(self) -> None:
        """Make the ring ready for a new child."""
        self._words[self._head_at] = self._words[self._tail_at] = 0

    def put(self, index: int, data: bytes) -> bool:
        """Lay down what there is to tell of a job; return whether there was room. The child's side."""
        words = self._words
        head, need = words[self._head_at], 2 + (len(data) + 7) // 8
        place = head % self._size
        skipped = self._size - place if place + need > self._size else 0
        if head + skipped + need - words[self._tail_at] > self._size:
            return False
        if skipped:
            words[self._first + place] = _SKIP
            place = 0
        at = self._first + place
        words[at], words[at + 1] = index, len(data)
        self._bytes[8 * (at + 2) : 8 * (at + 2) + len(data)] = data
        words[self._head_at] = head + skipped + need  # last: until then nobody looks at it
        return True

    def take(self) -> list[tuple[int, bytes]]:
        """Take out all that was laid down: (index, data) of jobs. The supervisor's side."""
        words, found = self._words, []
        head, tail = words[self._head_at], words[self._tail_at]
        while tail < head:
            place = tail % self._size
            at = self._first + place
            if words[at] == _SKIP:
                tail += self._size - place
                continue
            length = words[at + 1]
            found.append((words[at], bytes(self._bytes[8 * (at + 2) : 8 * (at + 2) + length])))
            tail += 2 + (length + 7) // 8
        words[self._tail_at] = tail
        return found
