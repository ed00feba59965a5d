"""One call of an enqueuer, and what follows from its outcome: which submissions have failed, which are tried again together."""

from types import CoroutineType
from typing import Any

from fireforget._submission_lanes import Lane, Submission
from fireforget.errors import FireforgetError

_REFUSALS_AS_A_WHOLE = 8
"""So many times a batch is tried again as a whole without the one task that it was refused for."""
_NEARLY_LATE_SECONDS = 0.05


def attempt(lane: Lane, part: list[Submission], seconds: float) -> tuple[Any, BaseException | None]:
    """Call the enqueuer with a part; return its answers, one a submission where it is honest, and its error.

    Whatever it raises is its answer: a SystemExit from an enqueuer must not end the thread, nor the process.
    """
    options = part[0].options
    try:
        if len(part) == 1 or lane.many is None:
            answer = lane.enqueuer.enqueue(part[0].task, timeout=seconds, **options)
            return [answer], _unawaited(answer)
        answers = lane.many([each.task for each in part], timeout=seconds, **options)
        return answers, _unawaited(answers)
    except BaseException as error:
        return [], error


def _unawaited(answer: object) -> BaseException | None:
    if not isinstance(answer, CoroutineType):
        return None
    answer.close()
    return TypeError("the enqueuer's method is async and was not run: give an enqueuer with plain methods")


def after_refusal(
    part: list[Submission], error: BaseException, refusals: int, now: float
) -> tuple[list[Submission], list[list[Submission]]]:
    """Decide what follows when a part was refused: which submissions have failed, and in which parts the others try
    again.

    `refusals` counts those of the same batch, this one included.
    """
    if len(part) == 1:
        return part, []
    if isinstance(error, TimeoutError):
        return _after_timeout(part, now)
    index = _named_by(error, len(part))
    if index is None:
        return [], [[each] for each in part]
    before, after = part[:index], part[index + 1 :]
    if refusals <= _REFUSALS_AS_A_WHOLE:
        return [part[index]], [before + after]
    # Nine of ten may be duplicates. What stands before the refused one is known to be good, so it goes by itself:
    # from here on each submission is sent twice at most, where trying the whole again would be quadratic.
    return [part[index]], [each for each in (before, after) if each]


def _after_timeout(part: list[Submission], now: float) -> tuple[list[Submission], list[list[Submission]]]:
    """Fail what has used its time; try the rest again together, since each by itself might wait as long as all."""
    later = [each for each in part if each.deadline > now + _NEARLY_LATE_SECONDS]
    if len(later) == len(part):
        return part, []  # refused before the time was up: no reason to think that the next call is luckier
    return [each for each in part if each.deadline <= now + _NEARLY_LATE_SECONDS], [later] if later else []


def _named_by(error: BaseException, length: int) -> int | None:
    """Return the position of the one task that an error of a batch is about, None when it is about all."""
    index = getattr(error, "index", None)
    if isinstance(error, FireforgetError) and type(index) is int and 0 <= index < length:
        return index
    return None
