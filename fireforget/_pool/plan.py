"""How many jobs go where: pure functions and small state, no clocks, no processes.

A frame is a batch of jobs that travels to a child as one message. It grows only as far as the jobs in it are short: a batch
must never make anybody wait.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace
from math import lcm

FRAME_SECONDS = 0.004
"""A frame should take a child about this long; a child holds at most two, so a new critical job waits for less than 10 ms."""
MOST_IN_FRAME = 256
_NEW_WEIGHT = 0.3
_LONGEST_FOLLOWED = 30.0


class Pace:
    """How long a job takes on a child at present: a moving average that falls slowly and rises at once."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def observe(self, jobs: int, seconds: float) -> None:
        """Take in that `jobs` jobs took `seconds` together."""
        if jobs <= 0:
            return
        mean = min(seconds / jobs, _LONGEST_FOLLOWED)
        if self.seconds is None or mean > self.seconds:
            self.seconds = mean
        else:
            self.seconds += (mean - self.seconds) * _NEW_WEIGHT

    def frame(self) -> int:
        """Return how many jobs make a frame: one while the pace is unknown."""
        if self.seconds is None:
            return 1
        return max(1, min(MOST_IN_FRAME, int(FRAME_SECONDS / max(self.seconds, 1e-6))))


def room(in_hand: int, frame: int, threads: int) -> int:
    """Return how many jobs a child with `in_hand` unfinished ones should be given.

    Short jobs come in frames, the next one sent while one is being worked on. Long ones come one for each thread: what waits in a
    child behind a long job could be running in another.
    """
    if frame <= 1:
        return max(0, threads - in_hand)
    wanted = max(frame, threads)
    return wanted if in_hand <= wanted else 0


class Lanes:
    """Shares what is run between queues by their weights, over time: stride scheduling.

    Each pick moves its queue's next turn on by a stride, the shorter the heavier the queue; the earliest turn is picked next.
    With weights 6, 3 and 1 every ten picks among full queues are six, three and one, spread evenly. A queue that is empty takes
    no part and saves nothing up. A pick costs the logarithm of the number of queues.
    """

    def __init__(self, weights: Mapping[str, int], strict: bool) -> None:
        self._strict = strict
        self._weights = dict(weights)
        common = 2 * lcm(*weights.values())  # so that strides and their halves are whole numbers, and shares exact
        self._stride = {queue: common // weight for queue, weight in weights.items()}
        self._turn: dict[str, int] = {}
        self._now = 0
        """The turn of the last pick."""

    def picks(self, filled: Iterable[str], most: int) -> list[str]:
        """Return the queue to take each of the next `most` jobs from, of those that are `filled`."""
        lanes = sorted(filled, key=lambda queue: -self._weights[queue])
        if not lanes:
            return []
        if self._strict or len(lanes) == 1:
            return [lanes[0]] * most
        turns = [(self._turn_of(queue), order) for order, queue in enumerate(lanes)]
        heapify(turns)
        picked = []
        for _ in range(most):
            self._now, order = turns[0]
            heapreplace(turns, (self._now + self._stride[lanes[order]], order))
            picked.append(lanes[order])
        self._turn.update((lanes[order], turn) for turn, order in turns)
        return picked

    def _turn_of(self, queue: str) -> int:
        """Return a queue's next turn; one that took no part for a while has no turns in the past."""
        turn = self._turn.get(queue)
        return self._now + self._stride[queue] // 2 if turn is None else max(turn, self._now)

    def found_empty(self, queue: str) -> None:
        """Forget a queue's turn: it turned out to have fewer jobs than were picked."""
        self._turn.pop(queue, None)
