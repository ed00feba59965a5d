"""Handlers that do a thing once, however often they are told to: `idempotent`.

::

    job ─► take the key ─┬─ free, or ours from a run that was killed ─► handler ─┬─ returned ─► keep the key, with the result
                         │                                                       └─ raised ───► give it up
                         ├─ done ─────────────► the stored result, the handler is not called
                         └─ another job has it ─► RetryLater: postponed, no attempt is counted

The keys are in the queue's own file; how they outlive a crash without being stuck is in `_keys`. They are reached through the
running job, so a handler needs to know no queue; in a transactional handler they are part of its transaction. Without a job, as
in a unit test that calls the function, it is a plain call.
"""

import functools
import inspect
import logging
import string
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, ParamSpec, TypeVar, cast

from fireforget import _keys, logs
from fireforget import payload as json_payload
from fireforget._keys import Done, Held, Key
from fireforget._signatures import signature_of
from fireforget.clock import Seconds, to_seconds
from fireforget.errors import InvalidOption, QueueClosed, RegistrationError, RetryLater, SkipRetry, StoreError
from fireforget.job import Job, _is_async, running
from fireforget.registry import Definition

P = ParamSpec("P")
R = TypeVar("R")

KeyOf = str | Callable[..., str | None]

_SHORTEST_WAIT, _LONGEST_WAIT = 0.5, 30.0
"""Seconds after which a postponed job looks again: as long as the key has been held by then, so that it looks seldom where a run
takes long."""

_log = logging.getLogger("fireforget.patterns")
_TROUBLE = (StoreError, QueueClosed)


def idempotent(
    key: KeyOf, ttl: Seconds, on_store_error: Literal["open", "closed"] = "open"
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Have a handler do what a key stands for once, and give later jobs the result of the first.

    Stands below `@registry.task(...)`, on a plain or `async` function, whose signature it keeps. A job takes the key while its
    handler runs. When that returns, the key is kept with the result for `ttl` seconds, and later jobs with the same key complete
    with that result without a run. When it raises, the key is given up. A job whose key another running job has is postponed,
    and costs no attempt. The key belongs to the job: when its process is killed, its own retry gets in, and so does the next job.

    * `key` is text with the handler's arguments in braces, such as `"order:{order_id}"`, or a function of the same arguments
      that returns text, or None for a call that has no key. Keys of different task types are apart.
    * `ttl` in seconds, above 0.
    * `on_store_error` is what happens when the key cannot be taken, since the file is locked for 5 s say: "open" runs the handler
      all the same and logs a WARNING, "closed" fails the run, which is then retried. Where the handler has succeeded and the
      result cannot be kept, the job succeeds and an ERROR is logged, either way.

    Called without a job, as in a unit test, the function just runs. Raises `InvalidOption` for what cannot be, such as a key that
    names no argument, and `RegistrationError` above `@registry.task`.
    """
    seconds = to_seconds("ttl", ttl, above_minimum=True)
    if on_store_error not in ("open", "closed"):
        raise InvalidOption("on_store_error", on_store_error, 'choose "open" or "closed"')
    if not callable(key) and (not isinstance(key, str) or not key.strip()):
        raise InvalidOption("key", key, 'give text such as "order:{order_id}", or a function of the handler\'s arguments')

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if isinstance(function, Definition):
            raise RegistrationError(f"{function!r}: put @idempotent(...) below @registry.task(...), on the function itself")
        if not callable(function):
            raise RegistrationError(f"{function!r} cannot be idempotent: decorate a function")
        rule = _Rule(_Naming(key, function), seconds, on_store_error)
        return _wrap_async(function, rule) if _is_async(function) else _wrap(function, rule)

    return decorate


def _wrap(function: Callable[P, R], rule: "_Rule") -> Callable[P, R]:
    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        claim = rule.claim(args, kwargs)
        if claim is None:
            return function(*args, **kwargs)
        if isinstance(claim, Done):
            return cast(R, json_payload.decode(claim.result))
        try:
            result = function(*args, **kwargs)
        except BaseException:
            claim.release()
            raise
        claim.keep(result)
        return result

    return once


def _wrap_async(function: Callable[P, R], rule: "_Rule") -> Callable[P, R]:
    """Wrap a coroutine function. The store is used on other threads: it may wait for a lock, and other coroutines must not."""
    from asyncio import to_thread

    called = cast(Callable[..., Any], function)

    @functools.wraps(function)
    async def once(*args: Any, **kwargs: Any) -> Any:
        claim = await to_thread(rule.claim, args, kwargs)
        if claim is None:
            return await called(*args, **kwargs)
        if isinstance(claim, Done):
            return json_payload.decode(claim.result)
        try:
            result = await called(*args, **kwargs)
        except BaseException:
            await to_thread(claim.release)
            raise
        await to_thread(claim.keep, result)
        return result

    return cast(Callable[P, R], once)


class _Naming:
    """Makes the key of a call out of its arguments."""

    def __init__(self, key: KeyOf, function: Callable[..., Any]) -> None:
        self._key = key
        self._signature = signature_of(function)
        if isinstance(key, str):
            self._check_template(key)

    def _check_template(self, template: str) -> None:
        """Raise `InvalidOption` for a template that no call could fill: that is better known now than in every job."""
        parameters = self._signature.parameters
        try:
            fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        except ValueError as error:
            raise InvalidOption("key", template, f"it cannot be filled in ({error}): write a brace of the text as two") from None
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for field in fields:
            name = field.partition(".")[0].partition("[")[0]
            if name not in parameters:
                near = get_close_matches(name, list(parameters), n=1)
                hint = f"did you mean {{{near[0]}}}?" if near else f"its arguments are {', '.join(parameters) or 'none'}"
                raise InvalidOption("key", template, f"the handler has no argument {name!r}: {hint}")

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        """Return the key of a call; None where the application's function says that it has none. Raises `SkipRetry`."""
        if isinstance(self._key, str):
            return json_payload.storable(self._fill(self._key, args, kwargs))
        key = self._key(*args, **kwargs)
        if key is None:
            return None
        if not isinstance(key, str) or not key.strip():
            raise SkipRetry(f"the key of an idempotent handler is {key!r}: its function must return text, or None for no key")
        return json_payload.storable(key)

    def _fill(self, template: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            values |= value if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD else {name: value}
        try:
            return template.format_map(values)
        except (LookupError, AttributeError, ValueError, TypeError) as error:
            raise SkipRetry(f"the key {template!r} cannot be filled in: {type(error).__name__}: {error}") from error


class _Rule(NamedTuple):
    """How calls of one handler are kept apart."""

    naming: _Naming
    ttl: float
    on_store_error: str

    def claim(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "_Claim | Done | None":
        """Take the key for the running job; None when the handler is to run without one.

        Raises `RetryLater` while another job has it, and a `StoreError` where it cannot be taken and must be.
        """
        job = running.get(None)
        if job is None:
            return None
        key = self.naming(args, kwargs)
        if key is None:
            return None
        claim = _Claim(job, Key(job.type, key), self.ttl)
        try:
            taken = claim.take()
        except _TROUBLE as error:
            if self.on_store_error == "closed":
                raise
            _tell(logging.WARNING, "idempotency key not taken, the handler runs without it", job, error)
            return None
        if isinstance(taken, Held):
            raise RetryLater(min(_LONGEST_WAIT, max(_SHORTEST_WAIT, taken.seconds)), f"another job holds the key {key!r}")
        return taken if isinstance(taken, Done) else claim


class _Claim:
    """A key, taken by the running job."""

    def __init__(self, job: Job, key: Key, ttl: float) -> None:
        self._job = job
        self._key = key
        self._ttl = ttl
        self._token = 0

    def take(self) -> "_keys.Ours | Done | Held":
        """Take the key, if it is free; raises `StoreError`s."""
        self._queue = self._job._run.store()
        with _keys.changing(self._queue._database) as connection:
            taken = _keys.take(connection, self._key, self._job.id, self._ttl, self._queue._clock())
        if isinstance(taken, _keys.Ours):
            self._token = taken.token
        return taken

    def keep(self, result: Any) -> None:
        """Keep the key with a result; whatever goes wrong, the handler has done its work and is not called again for that."""
        text, note = json_payload.result_of(result)
        if note is not None:
            logs.result_not_kept(self._job.pattern, self._job.id, self._job.queue, note)
        try:
            with _keys.changing(self._queue._database) as connection:
                kept = _keys.keep(connection, self._key, self._token, text, self._queue._clock() + self._ttl)
        except _TROUBLE as error:
            _tell(logging.ERROR, "idempotency key not kept, a later job will run again", self._job, error)
            return
        if not kept:
            _tell(logging.ERROR, "idempotency key was lost while the handler ran", self._job, None)

    def release(self) -> None:
        """Give the key up; where that fails, it is free all the same once the job is not active any more."""
        try:
            with _keys.changing(self._queue._database) as connection:
                _keys.release(connection, self._key, self._token)
        except _TROUBLE as error:
            _tell(logging.DEBUG, "idempotency key not released, it is free when the run has ended", self._job, error)


def _tell(level: int, message: str, job: Job, error: Exception | None) -> None:
    fields = {"task_type": job.pattern, "task_id": job.id, "queue": job.queue}
    _log.log(level, message, extra=fields if error is None else {**fields, "error": str(error)})
