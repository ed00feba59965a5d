"""What an `Inspector` tells of queues, workers, attempts, groups and schedules: records that do not change."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from fireforget import cron
from fireforget.task import State

ROW_BYTES = 200
"""About what a job takes in the file beside its texts: numbers, and its places in the indexes."""


@dataclass(frozen=True)
class QueueStats:
    """One queue as it is now."""

    name: str
    counts: dict[State, int]
    """How many jobs are in each state, zeros included."""
    latency: float
    """Seconds that the oldest pending job has been due; 0 when none is pending."""
    paused: bool
    paused_at: datetime | None = None
    """Since when it has been paused; None when it is not."""
    processed_today: int = 0
    """Runs that ended since midnight, UTC, well or not; those of the last second may be missing."""
    failed_today: int = 0
    """How many of these failed."""
    processed_total: int = 0
    """Runs that ended since the queue's first job."""
    failed_total: int = 0
    bytes: int = 0
    """About what its jobs take in the file, by a sample of a hundred jobs of all queues."""

    @property
    def size(self) -> int:
        """All jobs stored, in whatever state."""
        return sum(self.counts.values())


@dataclass(frozen=True)
class ChildJob:
    """A job that a child of a worker runs at this moment."""

    id: str
    type: str
    queue: str
    since: datetime
    """When the child began to run it; `started_at` of the job is when the worker claimed it."""


@dataclass(frozen=True)
class ChildInfo:
    """One of a worker's processes that run handlers."""

    pid: int
    started_at: datetime
    memory: int | None
    """Bytes that are resident, pages that it shares with others included; None where the system does not tell."""
    jobs: list[ChildJob]
    """What it runs, at most one job a thread; one that has ended while this was read may be missing."""


@dataclass(frozen=True)
class ChildDeath:
    """The end of a child that was not meant to end."""

    at: datetime
    pid: int
    reason: str
    """The signal's name, such as "SIGKILL", or "exit code 1"."""


@dataclass(frozen=True)
class WorkerInfo:
    """One worker that has signed in; one that was killed stands here until the next one takes over from it."""

    name: str
    host: str
    pid: int
    queues: dict[str, int]
    concurrency: int
    threads: int
    started_at: datetime
    active: int
    """Jobs in its hands: running, or about to."""
    alive: bool
    """Whether any of its processes lives: the lock that they share is held."""
    children: list[ChildInfo] | None = None
    """Its children that live, first slot first; None where that cannot be read: its lock file is another user's, or gone."""
    child_deaths: int | None = None
    """How many of its children have died since it started though they should not have; None where that cannot be read."""
    last_child_death: ChildDeath | None = None


@dataclass(frozen=True)
class HistoryPoint:
    """What became of runs in one minute, hour or day, in UTC."""

    at: datetime
    """When it began."""
    seconds: int
    """How long it is: 60, 3600 or 86400."""
    processed: int = 0
    """Runs that ended, well or not."""
    failed: int = 0
    retried: int = 0
    """How many of the failed ones are tried again."""
    archived: int = 0
    """Jobs that failed for good, or whose deadline had passed."""
    timed: int = 0
    """Of how many runs the run time is known: those that the metrics middleware saw."""
    run_seconds: float = 0.0
    """How long these took together."""
    waited: int = 0
    """Of how many runs the wait is known; none where only one type was asked for."""
    wait_seconds: float = 0.0
    """How long these jobs had been due when they started, together."""

    @property
    def error_rate(self) -> float | None:
        """The share of the runs that failed; None when none ended."""
        return self.failed / self.processed if self.processed else None

    @property
    def mean_run(self) -> float | None:
        """Seconds that a run took in the mean; None when that is known of none."""
        return self.run_seconds / self.timed if self.timed else None

    @property
    def mean_wait(self) -> float | None:
        """Seconds that a job had been due when it started, in the mean; None when that is known of none."""
        return self.wait_seconds / self.waited if self.waited else None


@dataclass(frozen=True)
class Step:
    """One step of a job whose result is stored."""

    name: str
    stored_at: datetime
    result: Any


@dataclass(frozen=True)
class Attempt:
    """One failed run of a job."""

    number: int
    started_at: datetime
    duration: float
    """Seconds."""
    worker: str
    error: str
    traceback: str | None


@dataclass(frozen=True)
class Need:
    """A job that another one waits for, or has waited for."""

    id: str
    state: State | None
    """Where it stands; None for one that is not stored any more."""
    outcome: State | None
    """How it ended, as far as the other one is concerned: completed, archived, or cancelled or deleted; None while it has not."""
    reason: str | None
    """Why it failed, if it did."""


@dataclass(frozen=True)
class Dependant:
    """A job that waits for another one, or has waited for it and not succeeded since."""

    id: str
    state: State


@dataclass(frozen=True)
class LimitInfo:
    """The limits that a job counts towards, as the newest of the workers has them, and how far they are used up."""

    handler: str
    """The registered type."""
    key: str | None
    """What its `concurrency_key` made of the payload; None where it has none, or an argument was missing."""
    concurrency: int | None
    """How many may run at once; None: any number."""
    running: int
    """How many jobs with this key are active now."""
    rate: str | None
    """How many may start in a time; None: any number."""
    started: int
    """How many count towards that now."""
    opens_at: datetime | None
    """When the next one may start; None where one may start now, as far as the rate goes."""

    def __str__(self) -> str:
        full = self.opens_at is not None or (self.concurrency is not None and self.running >= self.concurrency)
        facts = [f"limited by {self.key or self.handler}" if full else self.key or self.handler]
        if self.concurrency is not None:
            facts.append(f"{self.running} of {self.concurrency} running")
        if self.rate is not None:
            facts.append(f"{self.started} of {self.rate} started")
        return ", ".join(facts)


@dataclass(frozen=True)
class GroupInfo:
    """Jobs of one group in one queue that wait to be handed over together."""

    queue: str
    name: str
    size: int
    """How many jobs wait."""
    oldest: datetime
    """When the first of them was enqueued."""
    newest: datetime
    """When the last of them was."""
    closed: bool
    """Whether the group is complete, and its aggregator is to run, runs, or has failed; later jobs are a group of their own."""
    completes_at: datetime | None
    """When an open group is complete if nothing more comes; None where no aggregator is known."""


@dataclass(frozen=True)
class ScheduleInfo:
    """One schedule as it stands in the database."""

    name: str
    type: str
    """Of the tasks that it enqueues."""
    queue: str
    expression: str
    timezone: str
    missed: str
    """What becomes of missed ticks: run_once, skip or catch_up."""
    next_at: datetime | None
    """When it ticks next, as far as a worker runs then that has it; None while it is paused."""
    last_at: datetime | None
    """The last tick that was enqueued."""
    paused: bool
    paused_at: datetime | None
    workers: int
    """How many running workers have it in their registry."""

    def upcoming(self, count: int, start: datetime | None = None) -> list[datetime]:
        """Return the next ticks after `start` (an aware datetime; None: now), in the schedule's zone, whether paused or not."""
        return cron.parse(self.expression, self.timezone).upcoming(start or datetime.now(UTC), count)


@dataclass(frozen=True)
class ScheduleEvent:
    """What became of a tick."""

    tick: datetime
    at: datetime
    """When it was enqueued."""
    outcome: str
    """enqueued; refused, since another job held its unique key; or missed, where nothing was enqueued for one tick or several."""
    job_id: str | None
    """The job, which need not be stored any more; while a payload is being built, the job that does so."""
    detail: str | None
    """Why it was refused, or what was missed."""
