"""Counters, gauges and histograms, and the text file that Prometheus reads.

Children count in a `Samples` of their own and hand what they counted to the supervisor with their results; the supervisor merges
it into one `Samples` that lives as long as the worker, so counters survive the children. `Exposition` writes it down, in the
text format 0.0.4.
"""

import os
import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from math import isfinite, isnan
from typing import Any

Labels = tuple[str, ...]
"""The values of a metric's labels, in the order of its label names."""

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Upper bounds in seconds: Prometheus' defaults, and beyond, up to the default timeout."""

METRICS: dict[str, tuple[str, Labels, str]] = {
    "job_processed_total": ("counter", ("task_type", "queue", "status"), "Runs of jobs that ended, by outcome."),
    "job_duration_seconds": ("histogram", ("task_type", "queue"), "How long runs took."),
    "job_wait_seconds": ("histogram", ("queue",), "From when a job was due to when it started."),
    "fireforget_queue_size": ("gauge", ("queue", "state"), "Jobs stored, by queue and state."),
    "fireforget_queue_latency_seconds": ("gauge", ("queue",), "How long the oldest pending job has been due."),
    "fireforget_queue_paused": ("gauge", ("queue",), "1 while the queue is paused."),
    "fireforget_jobs_retried_total": ("counter", ("task_type", "queue"), "Failed runs that will be tried again."),
    "fireforget_jobs_archived_total": ("counter", ("task_type", "queue"), "Jobs that failed for good."),
    "fireforget_jobs_returned_total": ("counter", ("reason",), "Runs that counted no attempt, by reason."),
    "fireforget_jobs_trimmed_total": (
        "counter",
        ("queue", "state"),
        "Jobs deleted since their queue keeps no more, or no older.",
    ),
    "fireforget_results_discarded_total": ("counter", (), "Results that came after the job had another owner."),
    "fireforget_child_deaths_total": ("counter", ("reason",), "Children that ended unasked, by signal or exit code."),
    "fireforget_worker_children": ("gauge", (), "Children that are alive."),
    "fireforget_wal_bytes": ("gauge", (), "Size of the write-ahead log."),
    "fireforget_submissions_total": ("counter", ("outcome",), "Fire-and-forget submissions of this process."),
}
"""Every metric that fireforget writes: its kind, the names of its labels, and its help."""

Delta = tuple[dict[tuple[str, Labels], float], dict[tuple[str, Labels], list[float]]]
"""What a `Samples` has counted, in types that `marshal` can carry: counts, and for each histogram its buckets and its sum."""


class Samples:
    """Counts and histograms; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], list[float]] = {}
        self._runs: dict[Labels, tuple[list[float], list[float]]] = {}
        """Waits and durations of runs, by type, queue and status, until they are added to the others."""

    def count(self, name: str, labels: Labels, by: float = 1) -> None:
        """Add to a counter."""
        key = (name, labels)
        with self._lock:
            self._counts[key] = self._counts.get(key, 0) + by

    def observe(self, name: str, labels: Labels, seconds: float) -> None:
        """Add one observation to a histogram."""
        key = (name, labels)
        with self._lock:
            values = self._histograms.get(key)
            if values is None:
                values = self._histograms[key] = _no_values()
            values[bisect_left(_BUCKETS, seconds)] += 1
            values[-1] += seconds

    def count_run(self, task_type: str, queue: str, status: str, wait: float, duration: float) -> None:
        """Count a run that ended: how long its job had waited and how long it took, in seconds.

        The three metrics of each run as one, since this is what a worker does most often.
        """
        with self._lock:
            runs = self._runs.get((task_type, queue, status))
            if runs is None:
                runs = self._runs[task_type, queue, status] = (_no_values(), _no_values())
            waits, durations = runs
            waits[bisect_left(_BUCKETS, wait)] += 1
            waits[-1] += wait
            durations[bisect_left(_BUCKETS, duration)] += 1
            durations[-1] += duration

    def _add_runs(self) -> None:
        for (task_type, queue, status), (waits, durations) in self._runs.items():
            key = ("job_processed_total", (task_type, queue, status))
            self._counts[key] = self._counts.get(key, 0) + sum(durations[:-1])
            self._add("job_wait_seconds", (queue,), waits)
            self._add("job_duration_seconds", (task_type, queue), durations)
        self._runs = {}

    def _add(self, name: str, labels: Labels, values: list[float]) -> None:
        mine = self._histograms.get((name, labels))
        self._histograms[name, labels] = list(values) if mine is None else [a + b for a, b in zip(mine, values, strict=True)]

    def drain(self) -> Delta | None:
        """Return what was counted since the last time and start from 0; None when that is nothing."""
        with self._lock:
            self._add_runs()
            if not self._counts and not self._histograms:
                return None
            delta = (self._counts, self._histograms)
            self._counts, self._histograms = {}, {}
            return delta

    def snapshot(self) -> Delta:
        """Return a copy of all that was counted, which goes on being counted."""
        with self._lock:
            self._add_runs()
            return dict(self._counts), {key: list(values) for key, values in self._histograms.items()}

    def merge(self, delta: Delta) -> None:
        """Add what another `Samples` has counted."""
        counts, histograms = delta
        with self._lock:
            for key, value in counts.items():
                self._counts[key] = self._counts.get(key, 0) + value
            for (name, labels), values in histograms.items():
                self._add(name, labels, values)


def _no_values() -> list[float]:
    """Return the values of an empty histogram: a bucket for each bound, one beyond, and the sum."""
    return [0] * (len(_BUCKETS) + 2)


Gauges = Mapping[tuple[str, Labels], float]


def exposition(samples: Samples, gauges: Gauges) -> str:
    """Return the text exposition of counters, histograms and gauges, each metric with its HELP and TYPE, in a fixed order."""
    lines: list[str] = []
    counts, histograms = samples.snapshot()
    sources: dict[str, Mapping[tuple[str, Labels], Any]] = {"counter": counts, "gauge": gauges, "histogram": histograms}
    for name, (kind, label_names, help_text) in METRICS.items():
        source = sources[kind]
        series = sorted((labels, value) for (metric, labels), value in source.items() if metric == name)
        if not series:
            continue
        lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
        for labels, value in series:
            pairs = list(zip(label_names, labels, strict=True))
            lines += _histogram_lines(name, pairs, value) if kind == "histogram" else [_line(name, pairs, value)]
    return "\n".join(lines) + "\n" if lines else ""


def _histogram_lines(name: str, pairs: list[tuple[str, str]], values: list[float]) -> Iterable[str]:
    total = 0.0
    for bound, value in zip((*_BUCKETS, None), values, strict=False):
        total += value
        yield _line(f"{name}_bucket", [*pairs, ("le", "+Inf" if bound is None else _number(bound))], total)
    yield _line(f"{name}_sum", pairs, values[-1])
    yield _line(f"{name}_count", pairs, total)


def _line(name: str, pairs: list[tuple[str, str]], value: float) -> str:
    labels = ",".join(f'{label}="{_escape(text)}"' for label, text in pairs)
    return f"{name}{{{labels}}} {_number(value)}" if labels else f"{name} {_number(value)}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: float) -> str:
    if not isfinite(value):
        return "NaN" if isnan(value) else "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))


def replace_file(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file's content atomically: a reader sees the old text or the new one, never a part. Raises `OSError`."""
    import tempfile  # here, since importing it takes a producer 3 ms

    target = os.path.abspath(os.fspath(path))
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=os.path.basename(target) + ".", dir=os.path.dirname(target))
    except OSError as error:
        error.filename = target  # nobody has asked for the temporary one
        raise
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)  # mkstemp's 0600 would hide it from the scraper, which is another user
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def write_metrics(path: str | os.PathLike[str]) -> None:
    """Write this process's fire-and-forget counts to a text file for a scraper, replaced atomically.

    For producers, whose counts no worker's metrics file has: `fireforget_submissions_total{outcome}`. Raises `OSError` when the
    file cannot be written.
    """
    from fireforget._submissions import buffer

    samples = Samples()
    for outcome, count in buffer.counts()._asdict().items():
        samples.count("fireforget_submissions_total", (outcome,), count)
    replace_file(path, exposition(samples, {}))
