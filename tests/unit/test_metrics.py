"""The metrics file, read back with a parser as strict as the format's own description (text exposition 0.0.4)."""

import math
import os
import re

import pytest

from fireforget.metrics import METRICS, Samples, exposition, replace_file, write_metrics

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
_VALUE = re.compile(r"[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf)|NaN")
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


def parse(text):
    """Return {metric: (kind, {(sample name, labels): value})}; an assertion fails for whatever the format does not allow."""
    assert text == "" or text.endswith("\n")
    metrics = {}
    help_of = kind_of = None
    for line in text.split("\n")[:-1]:
        if line.startswith("# HELP "):
            help_of, text_of_help = line[7:].split(" ", 1)
            assert help_of not in metrics, "one metric's lines stand together"
            assert text_of_help
        elif line.startswith("# TYPE "):
            kind_of, kind = line[7:].split(" ")
            assert kind_of == help_of
            assert kind in ("counter", "gauge", "histogram")
            metrics[kind_of] = (kind, {})
        else:
            name, labels, value = parse_sample(line)
            kind, samples = metrics[kind_of]
            base = re.sub(r"_(bucket|sum|count)$", "", name) if kind == "histogram" else name
            assert base == kind_of
            assert (name, labels) not in samples, "no series twice"
            samples[name, labels] = value
    for name, (kind, samples) in metrics.items():
        assert samples, f"{name} has no samples"
        if kind == "histogram":
            check_histogram(name, samples)
    return metrics


def parse_sample(line):
    name = _NAME.match(line)
    assert name, line
    rest = line[name.end() :]
    labels = {}
    if rest.startswith("{"):
        rest = rest[1:]
        while not rest.startswith("}"):
            label = _LABEL.match(rest)
            assert label, line
            assert label[1] not in labels
            labels[label[1]] = re.sub(r"\\.", lambda escape: _ESCAPES[escape[0]], label[2])
            rest = rest[label.end() :].removeprefix(",")
        rest = rest[1:]
    assert rest.startswith(" "), line
    assert _VALUE.fullmatch(rest[1:]), line
    return name[0], tuple(sorted(labels.items())), float(rest[1:])


def check_histogram(name, samples):
    series = {}
    for (sample, labels), value in samples.items():
        if sample == f"{name}_bucket":
            pairs = dict(labels)
            bound = float(pairs.pop("le"))
            series.setdefault(tuple(sorted(pairs.items())), []).append((bound, value))
    assert series
    for labels, buckets in series.items():
        bounds, counts = zip(*buckets, strict=True)
        assert list(bounds) == sorted(bounds)
        assert list(counts) == sorted(counts), "buckets are cumulative"
        assert bounds[-1] == math.inf
        assert samples[f"{name}_count", labels] == counts[-1]
        assert (f"{name}_sum", labels) in samples


def filled():
    """Every metric, with values for its labels."""
    samples, gauges = Samples(), {}
    for name, (kind, labels, _) in METRICS.items():
        values = tuple(f"a {label}" for label in labels)
        if kind == "counter":
            samples.count(name, values, 3)
        elif kind == "histogram":
            samples.observe(name, values, 0.3)
        else:
            gauges[name, values] = 1.5
    return samples, gauges


def test_every_metric_is_written_with_help_and_type():
    """Prometheus' own parser takes the whole file."""
    metrics = parse(exposition(*filled()))
    assert {name: kind for name, (kind, _) in metrics.items()} == {name: kind for name, (kind, _, _) in METRICS.items()}
    assert all(help_text and "\n" not in help_text for _, _, help_text in METRICS.values())


def test_the_names_and_labels_of_the_contract_are_there():
    """Dashboards and alarms depend on them."""
    promised = {
        "job_processed_total": ("task_type", "queue", "status"),
        "job_duration_seconds": ("task_type", "queue"),
        "job_wait_seconds": ("queue",),
        "fireforget_queue_size": ("queue", "state"),
        "fireforget_queue_latency_seconds": ("queue",),
        "fireforget_jobs_retried_total": ("task_type", "queue"),
        "fireforget_jobs_archived_total": ("task_type", "queue"),
        "fireforget_jobs_returned_total": ("reason",),
        "fireforget_child_deaths_total": ("reason",),
        "fireforget_worker_children": (),
        "fireforget_queue_paused": ("queue",),
        "fireforget_submissions_total": ("outcome",),
    }
    assert promised.items() <= {name: labels for name, (_, labels, _) in METRICS.items()}.items()


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\nb", "\\n", '\\"', "", "ü\t{},=", "\\"])
def test_any_text_can_be_a_label(text):
    """A queue may have any name; it comes back as it was, and does not break the file."""
    samples = Samples()
    samples.count("job_processed_total", (text, "q", "success"))
    ((_, labels),) = parse(exposition(samples, {}))["job_processed_total"][1]
    assert dict(labels)["task_type"] == text


def test_a_histogram_is_cumulative_from_5_ms_to_beyond_10_s():
    """On a bound, below the first and above the last: each lands where the format says, in `le`."""
    samples = Samples()
    for seconds in (0.0, 0.005, 0.0051, 10.0, 10_000.0):
        samples.observe("job_wait_seconds", ("low",), seconds)
    values = parse(exposition(samples, {}))["job_wait_seconds"][1]
    buckets = {dict(labels)["le"]: value for (name, labels), value in values.items() if name.endswith("_bucket")}
    expected = {"0.005": 2, "0.01": 3, "5": 3, "10": 4, "1800": 4, "+Inf": 5}
    assert {bound: buckets[bound] for bound in expected} == expected
    assert values["job_wait_seconds_count", (("queue", "low"),)] == 5
    assert values["job_wait_seconds_sum", (("queue", "low"),)] == pytest.approx(10_010.0101)


@pytest.mark.parametrize("value", [0, 1, 1.5, 1e-9, 1e21, 2**53 + 1, -3, math.inf, -math.inf, math.nan])
def test_any_number_can_be_a_value(value):
    """A clock that jumps or a row that was written by hand must not end the metrics."""
    values = parse(exposition(Samples(), {("fireforget_wal_bytes", ()): value}))["fireforget_wal_bytes"][1]
    assert values["fireforget_wal_bytes", ()] == pytest.approx(value, nan_ok=True)


def test_nothing_counted_is_an_empty_file():
    """No HELP without a sample."""
    assert exposition(Samples(), {}) == ""


def test_what_children_counted_adds_up():
    """Counters survive a child: each hands over what it has counted since the last time, once."""
    total, child = Samples(), Samples()
    for _ in range(2):
        child.count("job_processed_total", ("t", "q", "success"))
        child.observe("job_wait_seconds", ("q",), 0.5)
        total.merge(child.drain())
    assert child.drain() is None
    counts, histograms = total.snapshot()
    assert counts == {("job_processed_total", ("t", "q", "success")): 2}
    assert histograms["job_wait_seconds", ("q",)][-1] == 1.0


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    """It is replaced, readable for the scraper's user, and nothing else is left in the folder."""
    path = tmp_path / "metrics.prom"
    replace_file(path, "old\n")
    with open(path) as reader:
        replace_file(path, "new\n")
        assert reader.read() == "old\n"
    assert path.read_text() == "new\n"
    assert os.stat(path).st_mode & 0o777 == 0o644
    assert os.listdir(tmp_path) == ["metrics.prom"]
    with pytest.raises(OSError):
        replace_file(tmp_path / "missing" / "metrics.prom", "x\n")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    """The old one stays, and no temporary file with it."""
    path = tmp_path / "metrics.prom"
    replace_file(path, "old\n")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "\ud800")
    assert (os.listdir(tmp_path), path.read_text()) == (["metrics.prom"], "old\n")


def test_a_producer_can_write_its_own_file(tmp_path):
    """The outcomes of fire-and-forget submissions, which no worker's file has."""
    write_metrics(tmp_path / "producer.prom")
    kind, samples = parse((tmp_path / "producer.prom").read_text())["fireforget_submissions_total"]
    assert kind == "counter"
    assert {dict(labels)["outcome"] for _, labels in samples} == {"submitted", "enqueued", "failed", "dropped"}
