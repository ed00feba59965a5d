"""When a failed job runs again: pure functions from the number of the failure to a delay in seconds."""

import random
from collections.abc import Callable

from fireforget.clock import Seconds, to_seconds

RetryDelay = Seconds | Callable[[int, BaseException], Seconds]
"""A fixed delay, or a function of the retry count (0 after the first failure) and the error."""


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
