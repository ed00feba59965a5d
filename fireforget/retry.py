"""When a failed job runs again: pure functions from the number of the failure to a delay in seconds.

A policy is seconds, a function, or a `RetryPolicy`, which is made of parts and reads like a sentence::

    exponential(base=2, cap=600, jitter=0.1)
    fixed(1).then(exponential(first=30, cap=3600), after=3)
    exponential(cap=600).on(ConnectionError, fixed(5))

Nothing here waits, and nothing here is stored: a policy belongs to a handler or a registry, and is asked when a job has failed.
"""

import random
from collections.abc import Callable

from fireforget.clock import Seconds, to_seconds
from fireforget.errors import InvalidOption

RetryDelay = Seconds | Callable[[int, BaseException], Seconds]
"""A fixed delay, or a function of the retry count (0 after the first failure) and the error."""

LONGEST = 365 * 86400.0
"""Seconds that a policy with no cap of its own ends at, a year: 2**n would soon be a time that no clock can show."""

_Delay = Callable[[int, BaseException], float]


def default_delay(retry_count: int) -> float:
    """Return asynq's delay after failure number `retry_count`, counted from 0: `n**4 + 15 + random(0..29) * (n + 1)` seconds.

    The formula is sidekiq's, by way of asynq's DefaultRetryDelayFunc: 15 to 44 s after the first failure, about 20 days over
    25 retries.
    """
    return float(retry_count**4 + 15 + random.randint(0, 29) * (retry_count + 1))


def delay_after(policy: RetryDelay | None, retry_count: int, error: BaseException) -> float:
    """Return the seconds to wait after failure number `retry_count` (from 0) under `policy`; None means `default_delay`.

    Raises what a policy function raises, and `InvalidOption` when it returns something that is not a duration.
    """
    if policy is None:
        return default_delay(retry_count)
    duration = policy(retry_count, error) if callable(policy) else policy
    return to_seconds("retry_delay", duration)


def check_retry_delay(policy: RetryDelay | None) -> RetryDelay | None:
    """Return the policy if it can be one; raises `InvalidOption` for what is neither a duration nor a function."""
    return policy if policy is None or callable(policy) else to_seconds("retry_delay", policy)


def is_ours(policy: RetryDelay | None) -> bool:
    """Return whether no code of the application is in a policy, so that a process without any of it may ask it."""
    return policy.ours if isinstance(policy, RetryPolicy) else not callable(policy)


# --- policies that are made of parts --------------------------------------------------------------------------------------


class RetryPolicy:
    """A retry delay made by `fixed`, `linear` or `exponential`, and what else is added to it. Immutable.

    It is called like any function of retry count and error, and so can be tried: `exponential(base=2)(3)` is 8.0.
    """

    __slots__ = ("_delay", "_text", "ours")

    ours: bool
    """Whether all its parts are of this module."""

    def __init__(self, delay: _Delay, text: str, *, ours: bool = False) -> None:
        self._delay = delay
        self._text = text
        self.ours = ours

    def __call__(self, retry_count: int, error: BaseException | None = None) -> float:
        """Return the seconds to wait after failure number `retry_count`, counted from 0.

        `error` is what the job failed with, for a policy that has an `on`; None is an error that no `on` is about.
        """
        return self._delay(retry_count, Exception() if error is None else error)

    def capped(self, cap: Seconds) -> "RetryPolicy":
        """Return this policy with no delay above `cap` seconds. Raises `InvalidOption`."""
        most = to_seconds("cap", cap)
        return RetryPolicy(lambda n, error: min(most, self._delay(n, error)), f"{self._text}.capped({most:g})", ours=self.ours)

    def jittered(self, jitter: float) -> "RetryPolicy":
        """Return this policy with each delay shortened at random by up to this share of it, from 0 to 1.

        Jobs that failed together then do not come back together. It only shortens, so that a cap holds; 1 is what others call
        full jitter. Raises `InvalidOption`.
        """
        share = _check_jitter(jitter)

        def delay(retry_count: int, error: BaseException) -> float:
            return self._delay(retry_count, error) * (1 - share * random.random())

        return RetryPolicy(delay, f"{self._text}.jittered({share:g})", ours=self.ours)

    def then(self, policy: RetryDelay | None, *, after: int) -> "RetryPolicy":
        """Return this policy for the first `after` failures, and `policy` for those that follow, which it counts from 0.

        `policy` is whatever can be a `retry_delay`; None is the default delay. Raises `InvalidOption`.
        """
        if isinstance(after, bool) or not isinstance(after, int) or after < 1:
            raise InvalidOption("after", after, "give how many failures come before it, a whole number above 0")
        later = check_retry_delay(policy)

        def delay(retry_count: int, error: BaseException) -> float:
            if retry_count < after:
                return self._delay(retry_count, error)
            return delay_after(later, retry_count - after, error)

        return RetryPolicy(delay, f"{self._text}.then({_name(later)}, after={after})", ours=self.ours and is_ours(later))

    def on(self, errors: type[BaseException] | tuple[type[BaseException], ...], policy: RetryDelay | None) -> "RetryPolicy":
        """Return a policy that is `policy` where the job failed with one of these errors, and this one otherwise.

        `errors` is an exception class or a tuple of them, subclasses included. A job whose process ended under it failed with
        `ChildDied`, one whose process was killed at its timeout with `JobTimeout`. Raises `InvalidOption`.
        """
        kinds = errors if isinstance(errors, tuple) else (errors,)
        if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise InvalidOption("errors", errors, "give an exception class, or a tuple of them")
        special = check_retry_delay(policy)

        def delay(retry_count: int, error: BaseException) -> float:
            # The bases are looked at, not isinstance: that can be made to run code of the class's own.
            if any(kind in type(error).__mro__ for kind in kinds):
                return delay_after(special, retry_count, error)
            return self._delay(retry_count, error)

        names = ", ".join(kind.__name__ for kind in kinds)
        return RetryPolicy(delay, f"{self._text}.on({names}, {_name(special)})", ours=self.ours and is_ours(special))

    def __repr__(self) -> str:
        return self._text


def fixed(seconds: Seconds, *, jitter: float = 0) -> RetryPolicy:
    """Return the policy that always waits `seconds`, shortened at random by up to the share `jitter` (0 to 1).

    Raises `InvalidOption`.
    """
    first = to_seconds("seconds", seconds)
    return _finished(lambda n, error: first, f"fixed({first:g})", None, jitter)


def linear(first: Seconds, step: Seconds | None = None, *, cap: Seconds | None = None, jitter: float = 0) -> RetryPolicy:
    """Return the policy that waits `first` seconds, and `step` more after each further failure: `first + n * step`.

    `step` None is `first` again. `cap` is the longest delay in seconds; None: a year. `jitter` shortens each delay at random
    by up to this share of it (0 to 1). Raises `InvalidOption`.
    """
    start = to_seconds("first", first)
    more = start if step is None else to_seconds("step", step)
    return _finished(lambda n, error: start + n * more, f"linear({start:g}, {more:g})", cap, jitter)


def exponential(*, base: float = 2, first: Seconds = 1, cap: Seconds | None = None, jitter: float = 0) -> RetryPolicy:
    """Return the policy that waits `first` seconds, and `base` times as long after each further failure: `first * base**n`.

    `base` is at least 1. `cap` is the longest delay in seconds; None: a year. `jitter` shortens each delay at random by up to
    this share of it (0 to 1). Raises `InvalidOption`.
    """
    if isinstance(base, bool) or not isinstance(base, int | float) or not 1 <= base <= LONGEST:
        raise InvalidOption("base", base, "give a number of at least 1, by which each delay is longer than the one before")
    start = to_seconds("first", first)

    def delay(retry_count: int, error: BaseException) -> float:
        try:
            return start * float(base) ** retry_count
        except OverflowError:
            return LONGEST if start else 0.0

    return _finished(delay, f"exponential(base={base:g}, first={start:g})", cap, jitter)


def _finished(delay: _Delay, text: str, cap: Seconds | None, jitter: float) -> RetryPolicy:
    """Return a policy that ends somewhere, and whose jitter comes last."""
    policy = RetryPolicy(lambda n, error: min(LONGEST, delay(n, error)), text, ours=True)
    if cap is not None:
        policy = policy.capped(cap)
    return policy.jittered(jitter) if _check_jitter(jitter) else policy


def _check_jitter(jitter: object) -> float:
    if isinstance(jitter, bool) or not isinstance(jitter, int | float) or not 0 <= jitter <= 1:
        raise InvalidOption("jitter", jitter, "give a share from 0 to 1, such as 0.1 for up to a tenth less")
    return float(jitter)


def _name(policy: RetryDelay | None) -> str:
    return getattr(policy, "__name__", None) or repr(policy)
