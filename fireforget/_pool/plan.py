"""How many jobs go where: pure functions and small state, no clocks, no processes.

A frame is a batch of jobs that travels to a child as one message. It grows only as far as the jobs in it are short: a batch
must never make anybody wait.
"""

from collections.abc import Iterable, Mapping

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
    """Shares what is run between queues by their weights, over time: a smooth weighted round robin.

    With weights 6, 3 and 1 every ten picks among full queues are six, three and one, spread as evenly as they can be. A queue
    that is empty takes no part and saves nothing up.
    """

    def __init__(self, weights: Mapping[str, int], strict: bool) -> None:
        self._weights = dict(weights)
        self._strict = strict
        self._credit = dict.fromkeys(weights, 0)

    def picks(self, filled: Iterable[str], most: int) -> list[str]:
        """Return the queue to take each of the next `most` jobs from, of those that are `filled`."""
        lanes = sorted(filled, key=lambda queue: -self._weights[queue])
        if not lanes:
            return []
        if self._strict or len(lanes) == 1:
            return [lanes[0]] * most
        return [self._pick(lanes) for _ in range(most)]

    def _pick(self, lanes: list[str]) -> str:
        total = 0
        for queue in lanes:
            self._credit[queue] += self._weights[queue]
            total += self._weights[queue]
        best = max(lanes, key=self._credit.__getitem__)
        self._credit[best] -= total
        return best

    def found_empty(self, queue: str) -> None:
        """Forget what a queue had coming to it: it turned out to have fewer jobs than were picked."""
        self._credit[queue] = 0
