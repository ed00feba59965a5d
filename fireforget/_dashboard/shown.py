"""How jobs, queues, workers, schedules and groups look in JSON.

What a job carries (payload, result, errors, notes) is text here, cut to size: the page shows it as text, so whatever is in it is
never markup, and a number of twenty digits is still the same number. Instants are ISO 8601 in UTC.
"""

import json
from datetime import datetime
from typing import Any

from fireforget.inspector import Attempt, GroupInfo, HistoryPoint, Need, QueueStats, ScheduleEvent, ScheduleInfo, Step, WorkerInfo
from fireforget.task import TaskInfo

LINE = 200
"""Characters of a text in a list."""
WHOLE = 64 * 1024
"""Characters of a text on a page of its own; what is longer can be downloaded."""


def cut(text: str, most: int) -> str:
    """Return as much of a text as is shown."""
    return text if len(text) <= most else text[: most - 1] + "\u2026"


def instant(moment: datetime | None) -> str | None:
    """Return an instant as text."""
    return None if moment is None else moment.isoformat()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return a JSON value as text."""
    try:
        return json.dumps(value, ensure_ascii=False, indent=indent)
    except RecursionError:
        return "(nested too deeply to be shown)"


def job_line(info: TaskInfo) -> dict[str, Any]:
    """Return a job as it stands in a list."""
    return {
        "id": info.id,
        "type": info.type,
        "queue": info.queue,
        "state": info.state.value,
        "payload": cut(json_text(info.payload), LINE),
        "priority": info.priority,
        "retry_count": info.retry_count,
        "max_retry": info.max_retry,
        "last_error": None if info.last_error is None else cut(info.last_error, LINE),
        "enqueued_at": instant(info.enqueued_at),
        "next_process_at": instant(info.next_process_at),
        "started_at": instant(info.started_at),
        "completed_at": instant(info.completed_at),
        "progress": _progress(info),
        "group": info.group,
        "worker": info.worker,
    }


def job_page(info: TaskInfo) -> dict[str, Any]:
    """Return all of a job that is shown of it alone."""
    texts: dict[str, Any] = {}
    for name, value in (("payload", info.payload), ("result", info.result)):
        text = json_text(value, indent=2)
        texts[name] = cut(text, WHOLE)
        texts[f"{name}_length"] = len(text)
    return {
        **job_line(info),
        **texts,
        "last_error": None if info.last_error is None else cut(info.last_error, WHOLE),
        "headers": {cut(name, LINE): cut(value, LINE) for name, value in list(info.headers.items())[:100]},
        "timeout": info.timeout,
        "deadline": instant(info.deadline),
    }


def _progress(info: TaskInfo) -> dict[str, Any] | None:
    if info.progress is None:
        return None
    note = info.progress.note
    return {"fraction": info.progress.fraction, "note": None if note is None else cut(note, LINE)}


def attempt(one: Attempt) -> dict[str, Any]:
    """Return a failed run."""
    return {
        "number": one.number,
        "started_at": instant(one.started_at),
        "duration": one.duration,
        "worker": one.worker,
        "error": cut(one.error, WHOLE),
        "traceback": None if one.traceback is None else cut(one.traceback, WHOLE),
    }


def step(one: Step) -> dict[str, Any]:
    """Return a step whose result is stored."""
    result = cut(json_text(one.result), LINE)
    return {"name": cut(one.name, LINE), "stored_at": instant(one.stored_at), "result": result}


def need(one: Need) -> dict[str, Any]:
    """Return a job that another one waits for."""
    reason = None if one.reason is None else cut(one.reason, LINE)
    return {"id": one.id, "state": one.state, "outcome": one.outcome, "reason": reason}


def queue(stats: QueueStats, weights: dict[str, int]) -> dict[str, Any]:
    """Return a queue; `weights` are those that living workers give it, by the workers' names."""
    return {
        "queue": stats.name,
        "paused": stats.paused,
        "paused_at": instant(stats.paused_at),
        "latency": round(stats.latency, 3),
        "size": stats.size,
        "states": {state.value: jobs for state, jobs in stats.counts.items()},
        "weights": weights,
        "processed_today": stats.processed_today,
        "failed_today": stats.failed_today,
        "processed_total": stats.processed_total,
        "failed_total": stats.failed_total,
    }


def point(one: HistoryPoint) -> dict[str, Any]:
    """Return what became of runs in one minute, hour or day."""
    return {
        "from": instant(one.at),
        "seconds": one.seconds,
        "processed": one.processed,
        "failed": one.failed,
        "retried": one.retried,
        "archived": one.archived,
        "mean_run": one.mean_run,
        "mean_wait": one.mean_wait,
    }


def worker(info: WorkerInfo) -> dict[str, Any]:
    """Return a worker."""
    death = info.last_child_death
    return {
        "name": info.name,
        "host": info.host,
        "pid": info.pid,
        "queues": info.queues,
        "concurrency": info.concurrency,
        "threads": info.threads,
        "started_at": instant(info.started_at),
        "active": info.active,
        "alive": info.alive,
        "child_deaths": info.child_deaths,
        "last_child_death": None if death is None else {"at": instant(death.at), "pid": death.pid, "reason": death.reason},
    }


def children(info: WorkerInfo) -> list[dict[str, Any]] | None:
    """Return the children of a worker, and what each runs."""
    if info.children is None:
        return None
    return [
        {
            "pid": one.pid,
            "started_at": instant(one.started_at),
            "memory": one.memory,
            "jobs": [{"id": job.id, "type": job.type, "queue": job.queue, "since": instant(job.since)} for job in one.jobs],
        }
        for one in info.children
    ]


def schedule(info: ScheduleInfo, times: int) -> dict[str, Any]:
    """Return a schedule with its next ticks."""
    return {
        "name": info.name,
        "type": info.type,
        "queue": info.queue,
        "expression": info.expression,
        "timezone": info.timezone,
        "missed": info.missed,
        "next_at": instant(info.next_at),
        "last_at": instant(info.last_at),
        "paused": info.paused,
        "paused_at": instant(info.paused_at),
        "workers": info.workers,
        "next_times": [instant(tick) for tick in info.upcoming(times)],
    }


def event(one: ScheduleEvent) -> dict[str, Any]:
    """Return what became of a tick."""
    return {
        "tick": instant(one.tick),
        "at": instant(one.at),
        "outcome": one.outcome,
        "job_id": one.job_id,
        "detail": None if one.detail is None else cut(one.detail, LINE),
    }


def group(info: GroupInfo) -> dict[str, Any]:
    """Return a group that waits."""
    return {
        "queue": info.queue,
        "name": info.name,
        "size": info.size,
        "oldest": instant(info.oldest),
        "newest": instant(info.newest),
        "closed": info.closed,
        "completes_at": instant(info.completes_at),
    }
