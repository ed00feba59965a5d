"""The handlers of one application, their options, and the middleware around them.

A registry knows nothing of databases and processes: producers use its definitions to make tasks, workers to run them.
"""

import inspect
import itertools
import weakref
from collections.abc import Callable, Iterable
from functools import update_wrapper
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, TypeVar

from fireforget import payload as json_payload
from fireforget._handler_limits import KeyTemplate, Limits, Rate, check_concurrency, parse_rate
from fireforget._signatures import signature_of
from fireforget.clock import Seconds, to_seconds
from fireforget.cron import Schedule
from fireforget.cron import parse as parse_cron
from fireforget.errors import InvalidOption, InvalidTask, PayloadMismatch, RegistrationError
from fireforget.job import PassHeaders, _is_async, current_job
from fireforget.middleware import DEFAULT_CHAIN, Middleware
from fireforget.periodic import Periodic, periodic_for
from fireforget.retry import RetryDelay, check_retry_delay
from fireforget.task import HANDLER_OPTIONS, Task, TaskInfo, check_options, check_type

__all__ = ["Definition", "PayloadMismatch", "Registry", "current_job"]

DEFAULT_TRANSACTION_TIMEOUT = 1.0
"""Seconds that the transaction of a transactional handler may be open: nobody else can write meanwhile."""

P = ParamSpec("P")
R = TypeVar("R")

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


IsFailure = Callable[[BaseException], bool]
"""Says of an error whether the run has failed; False: it is tried again, and neither an attempt nor a failure is counted."""

Hook = Callable[["TaskInfo", str], object]
"""Is told of a job, as it is afterwards, and of the error or reason."""

HookName = Literal["on_failure", "on_archived"]


class Reactions(NamedTuple):
    """What a registry or a handler wants done about failures, besides trying again; and what its jobs pass on."""

    is_failure: IsFailure | None = None
    on_failure: Hook | None = None
    on_archived: Hook | None = None
    pass_headers: PassHeaders | None = None
    """None: as the registry says, which is True unless it says otherwise."""

    @classmethod
    def checked(
        cls,
        is_failure: IsFailure | None,
        on_failure: Hook | None,
        on_archived: Hook | None,
        pass_headers: bool | Iterable[str] | None,
    ) -> "Reactions":
        """Return what was given; raises `InvalidOption` for what cannot be called, is a coroutine function, or no names."""
        for name, function in (("is_failure", is_failure), ("on_failure", on_failure), ("on_archived", on_archived)):
            if function is not None and (not callable(function) or _is_async(function)):
                raise InvalidOption(name, function, "give a plain function, not async")
        if pass_headers is None or isinstance(pass_headers, bool):
            return cls(is_failure, on_failure, on_archived, pass_headers)
        names = () if isinstance(pass_headers, str) or not isinstance(pass_headers, Iterable) else tuple(pass_headers)
        if not names or not all(isinstance(name, str) for name in names):
            raise InvalidOption("pass_headers", pass_headers, "give True, False, or a list of the headers' names")
        return cls(is_failure, on_failure, on_archived, frozenset(names))

    def or_those_of(self, registry: "Reactions") -> "Reactions":
        """Return a handler's, with the registry's for what was not given; the registry's hooks are called besides its own."""
        is_failure = registry.is_failure if self.is_failure is None else self.is_failure
        pass_headers = registry.pass_headers if self.pass_headers is None else self.pass_headers
        return self._replace(is_failure=is_failure, pass_headers=pass_headers)


class Definition(Generic[P, R]):
    """A registered handler: call it to run the plain function, or make tasks for it with `task`."""

    _bare = False
    """Whether it runs without middleware, which is for what is no job of the application's."""

    def __init__(
        self,
        pattern: str,
        function: Callable[P, R],
        options: dict[str, Any],
        retry_delay: RetryDelay | None,
        reactions: Reactions = Reactions(),  # noqa: B008 - immutable
        transaction_timeout: float | None = None,
        limited: tuple[int | None, Rate | None, str | None] = (None, None, None),
    ) -> None:
        update_wrapper(self, function)
        self.pattern = pattern
        self.function = function
        self.options = options
        self.retry_delay = retry_delay
        self.is_failure, self.on_failure, self.on_archived, self.pass_headers = reactions
        self.transaction_timeout = transaction_timeout  # None: not transactional
        self.is_async = _is_async(function)
        self._signature = signature_of(function)
        parameters = self._signature.parameters.values()
        self._names = frozenset(p.name for p in parameters if p.kind in _BY_NAME)
        self._required = frozenset(p.name for p in parameters if p.default is p.empty and p.kind in _BY_NAME)
        self._plain = all(p.kind in _BY_NAME for p in parameters)
        self.limits = self._limits(*limited)
        """How many of its jobs may run, and start, at once; None: any number."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the handler itself, here and now, as the plain function that it is."""
        return self.function(*args, **kwargs)

    def task(self, *args: P.args, **kwargs: P.kwargs) -> Task:
        """Return a task for this handler with these arguments and the handler's own options.

        Needs no worker and no database. Raises `TypeError` at once when the arguments do not fit the signature, `InvalidPayload`
        when they are not JSON.
        """
        if self.pattern.endswith(":"):
            raise InvalidTask(f"{self.pattern!r} is a prefix: name the full type, as in Task({self.pattern + 'name'!r}, payload)")
        if args or not self._plain or not (kwargs.keys() <= self._names and self._required <= kwargs.keys()):
            payload = self._bind(args, kwargs)
        else:
            payload = kwargs
        options = self.options if self.limits is None else self._with_key(payload)
        return Task._from_checked(self.pattern, json_payload.encode(payload) if payload else None, options)

    def _limits(self, concurrency: int | None, rate: Rate | None, key: str | None) -> Limits | None:
        if key is not None and concurrency is None and rate is None:
            raise InvalidOption("concurrency_key", key, "give concurrency or rate too: it says by what they count")
        if concurrency is None and rate is None:
            return None
        if key is None:
            return Limits(self.pattern, concurrency, rate, None)
        parameters = self._signature.parameters.values()
        defaults = {p.name: ... if p.default is p.empty else p.default for p in parameters if p.kind in _BY_NAME}
        first = next((p.name for p in parameters if p.kind in _BY_POSITION), None)
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        return Limits(self.pattern, concurrency, rate, KeyTemplate(key, defaults, first, open_ended=open_ended))

    def _with_key(self, payload: Any) -> dict[str, Any]:
        """Return the options of a task with this payload, its limit key among them; raises `TypeError` where it has none."""
        assert self.limits is not None
        try:
            return {**self.options, "limit_key": self.limits.key_of(payload)}
        except LookupError as error:
            raise TypeError(f"{self.pattern}: {error}") from None

    def _bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.pattern}: {error}{self._others(error, kwargs)}; its signature is {self._signature}") from None
        payload: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                payload.update(value)
            elif kind in _BY_NAME:
                payload[name] = value
            else:
                raise TypeError(
                    f"{self.pattern}: {name} can only be given by position and a payload has names: make it a keyword"
                )
        return payload

    def _task_with(self, payload: Any) -> Task:
        """Return a task with a payload in the form in which it is stored; raises `PayloadMismatch` when it does not fit."""
        if isinstance(payload, dict) or payload is None:
            self._check_fit((), payload or {})
        else:
            self._check_fit((payload,), {})
        options = self.options if self.limits is None else self._with_key(payload)
        return Task._from_checked(self.pattern, None if payload is None else json_payload.encode(payload), options)

    def call(self, payload: Any) -> R:
        """Run the handler with a stored payload: an object's members are keyword arguments, null is none, anything else is one.

        Raises `PayloadMismatch` when they do not fit, and whatever the handler raises.
        """
        function: Callable[..., R] = self.function
        if payload is None:
            payload = {}
        if isinstance(payload, dict):
            if not (self._plain and payload.keys() <= self._names and self._required <= payload.keys()):
                self._check_fit((), payload)
            return function(**payload)
        self._check_fit((payload,), {})
        return function(payload)

    def _check_fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self._signature.bind(*args, **kwargs)
        except TypeError as error:
            others = self._others(error, kwargs)
            raise PayloadMismatch(f"the payload does not fit {self.pattern}{self._signature}: {error}{others}") from None
        if self.limits is not None and self.limits.template is not None:
            try:
                self.limits.key_of(args[0] if args else kwargs)
            except LookupError as error:
                raise PayloadMismatch(f"the payload does not fit {self.pattern}: {error}") from None

    def _others(self, error: TypeError, kwargs: dict[str, Any]) -> str:
        """Return what `Signature.bind` does not add to its first complaint: names that no argument has, mistyped ones say."""
        if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in self._signature.parameters.values()):
            return ""
        unexpected = [repr(name) for name in kwargs if name not in self._names and repr(name) not in str(error)]
        return f", and got an unexpected {', '.join(unexpected)}" if unexpected else ""

    def __repr__(self) -> str:
        return f"<handler {self.pattern!r}: {getattr(self.function, '__qualname__', self.function)}>"


Aggregate = Callable[[str, "list[TaskInfo]"], Task]
"""Makes one task of a group's name and its jobs."""


FAN_OUT = "fanout:"
"""What the types of tasks begin with that `fan_out` makes; the event and the subscriber's name follow."""


class GroupRule(NamedTuple):
    """When a group is complete."""

    grace: float
    """Seconds without a new job."""
    max_delay: float | None
    """Seconds since its first job; None: no limit."""
    max_size: int | None

    def complete_at(self, size: int, oldest: float, newest: float) -> float:
        """Return when a group of `size` jobs, enqueued from `oldest` to `newest`, is complete, in Unix seconds."""
        if self.max_size is not None and size >= self.max_size:
            return newest
        by_grace = newest + self.grace
        return by_grace if self.max_delay is None else min(by_grace, oldest + self.max_delay)


_registries: "weakref.WeakValueDictionary[int, Registry]" = weakref.WeakValueDictionary()
_count = itertools.count()


def all_registries() -> "list[Registry]":
    """Return the registries of this process that are in use, in the order in which they were made."""
    return [registry for _, registry in sorted(_registries.items())]


class Registry:
    """The handlers of one application.

    `retry_delay` is the default for its handlers: seconds, or a function of retry count (0 after the first failure) and error;
    None is asynq's formula (`retry.default_delay`). `middleware` is the chain around every job, outermost first; None is
    recovery, tracing, metrics, logging.

    `is_failure` is a function of the error that a run ended with: where it returns False, the job is tried again after its retry
    delay, at least a second, and neither an attempt nor a failure is counted. `on_failure` and `on_archived` are functions of a
    job's `TaskInfo` and of the error, as text; they are called in a child soon after a run has failed, or the job was archived by
    a worker for whatever reason, at least once each, and have 5 s. What they raise is logged. `pass_headers` says which of a
    job's headers the jobs take over that it enqueues: True, False, or names.

    Register everything while modules are imported; a registry is not meant to change while a worker uses it.
    """

    def __init__(
        self,
        *,
        retry_delay: RetryDelay | None = None,
        middleware: Iterable[Middleware] | None = None,
        is_failure: IsFailure | None = None,
        on_failure: Hook | None = None,
        on_archived: Hook | None = None,
        pass_headers: bool | Iterable[str] = True,
    ) -> None:
        self.retry_delay = check_retry_delay(retry_delay)
        self._reactions = Reactions.checked(is_failure, on_failure, on_archived, pass_headers)
        self.middleware: list[Middleware] = list(DEFAULT_CHAIN if middleware is None else middleware)
        self._definitions: dict[str, Definition[Any, Any]] = {}
        self._prefixes: list[str] = []
        self._aggregators: dict[str, tuple[Aggregate, GroupRule]] = {}
        self._subscribers: dict[str, list[Definition[Any, Any]]] = {}
        _registries[next(_count)] = self
        self._schedules: dict[str, Periodic] = {}

    def task(
        self,
        type: str,
        *,
        retry_delay: RetryDelay | None = None,
        is_failure: IsFailure | None = None,
        on_failure: Hook | None = None,
        on_archived: Hook | None = None,
        pass_headers: bool | Iterable[str] | None = None,
        transactional: bool = False,
        transaction_timeout: Seconds | None = None,
        concurrency: int | None = None,
        rate: str | None = None,
        concurrency_key: str | None = None,
        **options: Any,
    ) -> Callable[[Callable[P, R]], Definition[P, R]]:
        """Register the decorated function, plain or `async`, as the handler of a type.

        `type` is matched exactly; one that ends in ":" is a prefix, and the longest that fits is used where no exact one does.
        `options` are those of `Task` that do not name one job, and become the defaults of `definition.task(...)`.
        `retry_delay`, `is_failure` and `pass_headers` replace the registry's, `on_failure` and `on_archived` are called besides
        the registry's.

        With `transactional`, what the handler writes on `current_job().connection` and its completion commit together or not at
        all. `transaction_timeout` is for how many seconds it may keep others from writing; None: 1. One that takes longer is
        interrupted, and killed a quarter of a second later.

        `concurrency` is how many of its jobs may run at once, over all workers, `rate` how many may start in any second, minute
        or hour: "10/s", "100/m", "5000/h" (None: no limit). Both count by `concurrency_key`, text with names of the handler's
        arguments in braces, such as "user:{user_id}" (None: all jobs of the handler together). A job over its limit is not
        claimed, and holds up nothing else.

        Raises `RegistrationError` for a blank or taken type, what cannot be called, and an `async` handler that would be
        transactional; `UnknownOption` and `InvalidOption`.
        """
        type = _check_pattern(type)
        checked = check_options(options, HANDLER_OPTIONS)
        check_retry_delay(retry_delay)
        reactions = Reactions.checked(is_failure, on_failure, on_archived, pass_headers).or_those_of(self._reactions)
        limit = _transaction_limit(transactional, transaction_timeout)
        limited = check_concurrency(concurrency), parse_rate(rate), concurrency_key

        def register(function: Callable[P, R]) -> Definition[P, R]:
            if isinstance(function, Definition) or not callable(function):
                above = ", and write @registry.periodic above @registry.task" if isinstance(function, Definition) else ""
                raise RegistrationError(f"{function!r} cannot handle {type!r}: decorate a function{above}")
            if type in self._definitions:
                raise RegistrationError(f"{type!r} has a handler already, {self._definitions[type]!r}: one handler a type")
            if limit is not None and _is_async(function):
                raise RegistrationError(
                    f"{type!r} cannot be transactional as it is async: its transaction would stay open, and keep everybody else "
                    "from writing, while it awaits; make it a plain function"
                )
            return self._add(Definition(type, function, checked, retry_delay, reactions, limit, limited))

        return register

    def _add(self, definition: Definition[P, R]) -> Definition[P, R]:
        type = definition.pattern
        self._definitions[type] = definition
        if type.endswith(":"):
            self._prefixes = sorted([*self._prefixes, type], key=len, reverse=True)
        return definition

    def subscribe(self, event: str, *, name: str | None = None, **options: Any) -> Callable[[Callable[P, R]], Definition[P, R]]:
        """Register the decorated function as a handler of an event, which `fan_out` gives a task of its own.

        `event` is text such as "user:created". The handler's type is "fanout:", the event, ":" and `name`, which tells it from
        the event's other subscribers; None is the function's name. The type is stored with each job: give a name where the
        function may be renamed. `options` are those of `task`. A function may be subscribed to several events, one above the
        other.

        Raises `RegistrationError` for an event or name that is blank or taken, and what `task` raises.
        """
        if not isinstance(event, str) or not event.strip() or event.endswith(":"):
            raise RegistrationError(f"the event {event!r} cannot be subscribed to: give its whole name, such as 'user:created'")

        def register(function: Callable[P, R]) -> Definition[P, R]:
            plain = function.function if isinstance(function, Definition) else function
            own = getattr(plain, "__name__", None) if name is None else name
            if not isinstance(own, str) or not own.strip() or ":" in own or own == "<lambda>":
                raise RegistrationError(f"the subscriber {own!r} of {event!r} needs a name without a colon: give name=")
            if any(known.pattern == f"{FAN_OUT}{event}:{own}" for known in self._subscribers.get(event, ())):
                raise RegistrationError(f"{event!r} has a subscriber {own!r} already: give this one another name=")
            definition = self.task(f"{FAN_OUT}{event}:{own}", **options)(plain)
            self._subscribers.setdefault(event, []).append(definition)
            return definition

        return register

    @property
    def subscribers(self) -> dict[str, list[Definition[Any, Any]]]:
        """The handlers of each event, in the order of their registration."""
        return {event: list(handlers) for event, handlers in self._subscribers.items()}

    def aggregator(
        self,
        group: str,
        *,
        group_grace: Seconds = 60,
        group_max_delay: Seconds | None = None,
        group_max_size: int | None = None,
    ) -> Callable[[Aggregate], Aggregate]:
        """Register the decorated function to make one task of the jobs that were enqueued with `group`.

        `group` is matched like a type: exactly, or as a prefix when it ends in ":". A group is complete when nothing has been
        added for `group_grace` seconds, when its first job has waited for `group_max_delay` (None: no limit), or when it has
        `group_max_size` jobs (None: no limit). The function gets the group's name and the `TaskInfo`s of its jobs, runs in a
        child, and returns the `Task` to enqueue; that replaces the jobs in one transaction. It goes to the group's queue unless
        it names another. A function that raises is tried again like a handler.

        Raises `RegistrationError` for a blank or taken group, `InvalidOption` for the limits.
        """
        rule = GroupRule(
            to_seconds("group_grace", group_grace),
            None if group_max_delay is None else to_seconds("group_max_delay", group_max_delay),
            group_max_size,
        )
        if group_max_size is not None and (isinstance(group_max_size, bool) or group_max_size < 1):
            raise InvalidOption("group_max_size", group_max_size, "give a whole number above 0")
        if not isinstance(group, str) or not group.strip() or group in self._aggregators:
            raise RegistrationError(f"the group {group!r} cannot be registered: give text that has no aggregator yet")

        def register(function: Aggregate) -> Aggregate:
            self._aggregators[group] = (function, rule)
            return function

        return register

    def periodic(
        self,
        cron: str,
        *,
        timezone: object = None,
        missed: str = "run_once",
        payload: Any = None,
        name: str | None = None,
        type: str | None = None,
        **options: Any,
    ) -> Callable[[Callable[P, R]], Definition[P, R]]:
        """Have the decorated handler's task enqueued at each tick of a schedule, once however many workers run.

        Stands above `@registry.task(...)`, as often as there are schedules. Above a plain function it registers that as a
        handler too, whose type is `type` or else the function's name.

        `cron` is an expression of five fields, a word such as "@daily", or an interval such as "@every 30s"; `timezone` the
        zone in which it is read, a name such as "Europe/Berlin" (None: UTC). `missed` says what becomes of ticks that could
        not be enqueued within 60 seconds, since no worker ran: "run_once" enqueues one task for all of them, "skip" none,
        "catch_up" one for each, up to the last 1,000. `payload` is that of each task, or a function that returns it; the
        function is called in a child, at each tick, with the tick (an aware datetime in the schedule's zone) if it takes one
        argument. `name` is what the schedule is known by, and must not change (None: the handler's type; for further ones with
        the expression behind it). `options` are those of a handler, and override them.

        Raises `InvalidSchedule` for the expression or its zone, `RegistrationError` for a taken name and a payload that does not
        fit the handler, `InvalidPayload`, `UnknownOption` and `InvalidOption`.
        """
        schedule = parse_cron(cron, timezone)
        overriding = check_options(options, HANDLER_OPTIONS)

        def register(function: Callable[P, R]) -> Definition[P, R]:
            definition = self._definition_for(function, type, options)
            own = self._schedule_name(definition.pattern, schedule) if name is None else name
            periodic = periodic_for(definition, schedule, own, missed, payload, overriding)
            if own in self._schedules:
                taken = self._schedules[own].schedule.expression
                raise RegistrationError(f"there is a schedule {own!r} already, {taken!r}: give this one another name=")
            self._schedules[own] = periodic
            return definition

        return register

    def _definition_for(self, function: Callable[P, R], type: str | None, options: dict[str, Any]) -> Definition[P, R]:
        """Return the handler that a schedule is for; a plain function becomes one."""
        if not isinstance(function, Definition):
            return self.task(getattr(function, "__name__", "") if type is None else type, **options)(function)
        if type is not None:
            raise RegistrationError(f"{function!r} has a type already: leave out type={type!r}")
        if self._definitions.get(function.pattern) is not function:
            raise RegistrationError(f"{function!r} is in another registry: use that one's periodic")
        return function

    def _schedule_name(self, pattern: str, schedule: Schedule) -> str:
        if pattern not in self._schedules:
            return pattern
        zone = "" if schedule.timezone == "UTC" else f" {schedule.timezone}"
        return f"{pattern} {schedule.expression}{zone}"

    @property
    def schedules(self) -> dict[str, Periodic]:
        """The schedules by name, in the order of their registration."""
        return dict(self._schedules)

    @property
    def has_aggregators(self) -> bool:
        """Whether any aggregator is registered."""
        return bool(self._aggregators)

    def aggregator_of(self, group: str) -> tuple[Aggregate, GroupRule] | None:
        """Return the function and rule of a group: the exact ones, else those of the longest prefix, else None."""
        pattern = self._aggregator_pattern(group)
        return None if pattern is None else self._aggregators[pattern]

    def _aggregator_pattern(self, group: str) -> str | None:
        if group in self._aggregators:
            return group
        prefixes = (p for p in self._aggregators if p.endswith(":") and group.startswith(p))
        return max(prefixes, key=len, default=None)

    @property
    def _has_hooks(self) -> bool:
        """Whether any `on_failure` or `on_archived` is registered."""
        everywhere: list[Reactions | Definition[Any, Any]] = [self._reactions, *self._definitions.values()]
        return any(each.on_failure is not None or each.on_archived is not None for each in everywhere)

    def _hooks_of(self, type: str) -> list[tuple[HookName, str, Hook]]:
        """Return the hooks for jobs of a type: the name, whose it is ("handler" or "registry"), and the function."""
        own = self.match(type)
        homes = [] if own is None else [("handler", own.on_failure, own.on_archived)]
        homes.append(("registry", self._reactions.on_failure, self._reactions.on_archived))
        found: list[tuple[HookName, str, Hook]] = []
        for owner, on_failure, on_archived in homes:
            if on_failure is not None:
                found.append(("on_failure", owner, on_failure))
            if on_archived is not None:
                found.append(("on_archived", owner, on_archived))
        return found

    def _is_failure_of(self, type: str) -> IsFailure | None:
        """Return what tells failures from what is none for jobs of a type: the handler's, else the registry's, else None."""
        definition = self.match(type)
        return self._reactions.is_failure if definition is None else definition.is_failure

    def _retry_delay_of(self, type: str) -> RetryDelay | None:
        """Return the retry delay for jobs of a type: the handler's, else the registry's; None is the default."""
        definition = self.match(type)
        return self.retry_delay if definition is None or definition.retry_delay is None else definition.retry_delay

    def use(self, *middleware: Middleware) -> None:
        """Add middleware inside those that are there: the first of all is the outermost."""
        self.middleware.extend(middleware)

    def match(self, type: str) -> Definition[Any, Any] | None:
        """Return the handler of a type: the exact one, else that of the longest prefix, else None."""
        exact = self._definitions.get(type)
        if exact is not None:
            return exact
        return next((self._definitions[prefix] for prefix in self._prefixes if type.startswith(prefix)), None)

    def limits_of(self, type: str) -> Limits | None:
        """Return the limits of the handler of a type; None where it has none, or there is no handler."""
        definition = self.match(type)
        return None if definition is None else definition.limits

    @property
    def definitions(self) -> dict[str, Definition[Any, Any]]:
        """The handlers by pattern, in the order of their registration."""
        return dict(self._definitions)

    def __repr__(self) -> str:
        return f"<Registry of {', '.join(self._definitions) or 'no handlers'}>"


def _check_pattern(type: object) -> str:
    """Return the type that a handler is for; raises `RegistrationError` unless it is one, or the beginning of some."""
    if callable(type):
        name = getattr(type, "__name__", "name")
        raise RegistrationError(f"{type!r} is a function, not a task type: write @registry.task({name!r}) above it")
    if not isinstance(type, str) or not type.strip():
        raise RegistrationError(f"the task type {type!r} cannot be registered: give text such as 'email:send'")
    return check_type(type)


def _transaction_limit(transactional: object, timeout: Seconds | None) -> float | None:
    """Return how many seconds the handler's transaction may be open, None for one that is not transactional."""
    if not isinstance(transactional, bool):
        raise InvalidOption("transactional", transactional, "give True or False")
    if not transactional:
        if timeout is not None:
            raise InvalidOption("transaction_timeout", timeout, "give it together with transactional=True")
        return None
    if timeout is None:
        return DEFAULT_TRANSACTION_TIMEOUT
    return to_seconds("transaction_timeout", timeout, above_minimum=True)
