"""What operators see: one log record a run, and a metrics file that Prometheus can read."""

import json
import math
import os
import re

import pytest

from fireforget import Task

APP = """
@registry.task("ok")
def ok():
    pass

@registry.task("sleep")
def sleep(seconds):
    time.sleep(seconds)

@registry.task("pre:")
def prefixed():
    pass

@registry.task("fails")
def fails():
    raise ValueError("a \\\\ \\"quoted\\" text\\nin two lines")

@registry.task("dies")
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

@registry.task("later")
def later():
    raise RetryLater(3600)

@registry.task("holds")
def holds():
    say("holding")
    hold()

strange = 'quo"te\\\\back\\nline'

@registry.task(strange)
def odd():
    pass
"""

STRANGE = 'quo"te\\back\nline'

LINE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)')
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"')
ESCAPES = {"\\\\": "\\", "\\n": "\n", '\\"': '"'}


class Metrics:
    """The exposition format 0.0.4, read as strictly as its own parsers do."""

    def __init__(self, text):
        assert text.endswith("\n")
        self.kinds, self.values = {}, {}
        helped = set()
        for line in text.splitlines():
            if line.startswith("# HELP "):
                helped.add(line.split(" ", 3)[2])
            elif line.startswith("# TYPE "):
                _, _, name, kind = line.split(" ")
                assert name in helped and name not in self.kinds
                self.kinds[name] = kind
            else:
                match = LINE.fullmatch(line)
                assert match, line
                name, labels, value = match.groups()
                base = re.sub(r"_(bucket|sum|count)$", "", name) if name not in self.kinds else name
                assert base in self.kinds, line
                pairs = {key: re.sub(r'\\[\\n"]', lambda m: ESCAPES[m[0]], text) for key, text in LABEL.findall(labels or "")}
                key = (name, frozenset(pairs.items()))
                assert key not in self.values, f"twice: {line}"
                self.values[key] = float(value)

    def get(self, name, **labels):
        return self.values.get((name, frozenset(labels.items())))

    def total(self, name, **labels):
        wanted = set(labels.items())
        return sum(value for (this, has), value in self.values.items() if this == name and wanted <= has)


@pytest.fixture
def site(site):
    site.app(APP)
    site.metrics_path = site.folder / "metrics.prom"
    site.metrics = lambda: Metrics(site.metrics_path.read_text())
    return site


def test_a_json_log_has_one_record_a_run_with_its_fields(site):
    """The names and types that the contract gives; nothing else is on the line but who, when and how grave."""
    done = site.enqueue("pre:x", queue="critical")
    failed = site.enqueue("fails", max_retry=0)
    worker = site.burst("--concurrency", 1)
    assert all(line.startswith("{") for line in worker.lines)
    (record,) = worker.said("task processed")
    assert {key: record[key] for key in ("level", "task_type", "task_id", "queue", "retry_count", "success")} == {
        "level": "INFO", "task_type": "pre:", "task_id": done, "queue": "critical", "retry_count": 0, "success": True,
    }  # fmt: skip
    assert isinstance(record["duration"], float) and 0 <= record["duration"] < 1
    assert "error" not in record
    (record,) = worker.said("task failed")
    assert {key: record[key] for key in ("level", "task_type", "task_id", "queue", "retry_count", "success", "error")} == {
        "level": "ERROR", "task_type": "fails", "task_id": failed, "queue": "default", "retry_count": 0, "success": False,
        "error": 'ValueError: a \\ "quoted" text\nin two lines',
    }  # fmt: skip


def test_a_text_log_has_one_line_a_run_with_its_fields(site):
    """The same, for people: `name=value`, quoted where it must be; never more than one line."""
    done = site.enqueue("ok")
    failed = site.enqueue("fails", max_retry=0)
    worker = site.burst("--concurrency", 1, "--log-format", "text")
    (line,) = [line for line in worker.lines if "task processed" in line]
    assert re.fullmatch(
        rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z INFO task processed task_type=ok task_id={done} queue=default "
        r"retry_count=0 duration=[0-9.e-]+ success=True",
        line,
    )
    (line,) = [line for line in worker.lines if "task failed" in line]
    assert f"ERROR task failed task_type=fails task_id={failed} queue=default retry_count=0 duration=" in line
    assert "success=False" in line
    quoted = re.search(r'error=(".*?(?<!\\)")( |$)', line)[1]
    assert json.loads(quoted) == 'ValueError: a \\ "quoted" text\nin two lines'


def test_the_log_level_is_obeyed(site):
    """At `error` only what failed is said."""
    site.enqueue("ok")
    failed = site.enqueue("fails", max_retry=0)
    worker = site.worker("--concurrency", 1, "--burst", "--log-level", "error", ready=False)
    assert worker.exit_code() == 0
    assert [(record["message"], record["task_id"]) for record in worker.records] == [("task failed", failed)]


def test_the_trace_of_a_task_is_in_its_records(site):
    """A W3C traceparent header is carried into the log."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    site.enqueue("ok", headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"})
    assert site.burst("--concurrency", 1).said("task processed")[0]["trace_id"] == trace


def test_the_counts_are_right_at_exit(site):
    """Every run is counted once, under its registered pattern and its true queue."""
    for queue, count in (("critical", 30), ("default", 20), ("low", 10)):
        site.queue.enqueue_many([Task("ok") for _ in range(count)], queue=queue)
    for _ in range(3):
        site.enqueue("fails", max_retry=1)
    for name in ("a", "b"):
        site.enqueue(f"pre:{name}")
    site.enqueue("later")
    site.enqueue("sleep", {"seconds": 0.03})
    site.enqueue("dies", max_retry=0, priority=9)  # first of all, so that it takes no other job's counts with it
    site.enqueue(STRANGE)
    worker = site.burst("--concurrency", 2, "--metrics-file", "metrics.prom", "--metrics-interval", 30)
    metrics = site.metrics()
    get = metrics.get
    assert [
        get("job_processed_total", task_type="ok", queue=queue, status="success") for queue in ("critical", "default", "low")
    ] == [30, 20, 10]
    assert get("job_processed_total", task_type="fails", queue="default", status="failed") == 6
    assert get("job_processed_total", task_type="pre:", queue="default", status="success") == 2
    assert get("job_processed_total", task_type="dies", queue="default", status="failed") == 1
    assert get("job_processed_total", task_type=STRANGE, queue="default", status="success") == 1
    assert metrics.total("job_processed_total", task_type="later") == 0
    assert get("fireforget_jobs_retried_total", task_type="fails", queue="default") == 3
    assert get("fireforget_jobs_archived_total", task_type="fails", queue="default") == 3
    assert get("fireforget_jobs_archived_total", task_type="dies", queue="default") == 1
    assert get("fireforget_jobs_returned_total", reason="postponed") == 1
    assert get("fireforget_child_deaths_total", reason="SIGKILL") == 1
    assert get("job_duration_seconds_count", task_type="sleep", queue="default") == 1
    assert 0.03 <= get("job_duration_seconds_sum", task_type="sleep", queue="default") < 1
    assert get("job_duration_seconds_bucket", task_type="sleep", queue="default", le="0.025") == 0
    assert get("job_duration_seconds_bucket", task_type="sleep", queue="default", le="+Inf") == 1
    assert metrics.total("job_wait_seconds_count") == 30 + 20 + 10 + 6 + 2 + 1 + 1 + 1 + 1
    assert get("fireforget_queue_size", queue="default", state="archived") == 4
    assert get("fireforget_queue_size", queue="default", state="retry") == 1
    assert get("fireforget_queue_size", queue="default", state="pending") == 0
    assert get("fireforget_queue_paused", queue="default") == 0
    assert len(worker.said("task processed")) == 60 + 2 + 1 + 1


def test_the_metrics_have_their_kinds_and_buckets(site):
    """What a dashboard is built on does not change: names, kinds, and the histogram's bounds from 5 ms to beyond 10 s."""
    site.enqueue("ok")
    site.enqueue("fails", max_retry=1)
    site.enqueue("dies", max_retry=0, priority=9)
    site.burst("--concurrency", 1, "--metrics-file", site.metrics_path)
    metrics = site.metrics()
    assert metrics.kinds.items() >= {
        "job_processed_total": "counter", "job_duration_seconds": "histogram", "job_wait_seconds": "histogram",
        "fireforget_queue_size": "gauge", "fireforget_queue_latency_seconds": "gauge", "fireforget_jobs_retried_total": "counter",
        "fireforget_jobs_archived_total": "counter", "fireforget_child_deaths_total": "counter",
        "fireforget_worker_children": "gauge",
        "fireforget_queue_paused": "gauge",
    }.items()  # fmt: skip
    buckets = {
        dict(labels)["le"]: value
        for (name, labels), value in metrics.values.items()
        if name == "job_duration_seconds_bucket" and ("task_type", "ok") in labels
    }
    bounds = sorted(math.inf if bound == "+Inf" else float(bound) for bound in buckets)
    assert bounds[0] == 0.005 and 10.0 in bounds and bounds[-1] == math.inf
    ordered = [buckets[bound] for bound in sorted(buckets, key=lambda bound: math.inf if bound == "+Inf" else float(bound))]
    assert ordered == sorted(ordered)


def test_counters_survive_the_death_of_children(site):
    """What a child had counted before it died in the middle of a batch is not lost."""
    site.queue.enqueue_many([Task("ok") for _ in range(100)])
    site.queue.enqueue_many([Task("dies", max_retry=0) if n % 100 == 50 else Task("ok") for n in range(400)])
    worker = site.burst("--concurrency", 1, "--metrics-file", site.metrics_path)
    assert len(worker.said("task processed")) == 496
    metrics = site.metrics()
    assert metrics.get("fireforget_child_deaths_total", reason="SIGKILL") == 4
    assert metrics.get("job_processed_total", task_type="dies", queue="default", status="failed") == 4
    assert metrics.get("job_processed_total", task_type="ok", queue="default", status="success") == 496


def test_counters_survive_the_replacement_of_children(site):
    """A child that has had its share hands over what it counted."""
    site.queue.enqueue_many([Task("ok") for _ in range(100)])
    site.burst("--concurrency", 2, "--max-tasks-per-child", 7, "--metrics-file", site.metrics_path)
    assert site.metrics().get("job_processed_total", task_type="ok", queue="default", status="success") == 100


def test_a_scraper_never_sees_half_a_file(site):
    """The file is replaced as a whole, is readable for others, and nothing is left beside it."""
    site.worker("--concurrency", 1, "--metrics-file", site.metrics_path, "--metrics-interval", 0.01)
    seen = set()
    site.queue.enqueue_many([Task("sleep", {"seconds": 0.005}) for _ in range(100)])
    last = site.enqueue("ok")

    def look():
        text = site.metrics_path.read_text()
        Metrics(text)
        seen.add(text)
        return Metrics(text).total("job_processed_total") == 101

    site.eventually(look)
    assert site.finished(last) is None
    assert len(seen) > 3
    assert os.stat(site.metrics_path).st_mode & 0o777 == 0o644
    assert [name for name in os.listdir(site.folder) if "metrics" in name][:1] == ["metrics.prom"]


def test_the_gauges_follow_what_is_stored(site):
    """Queue sizes, the age of the oldest pending job, paused queues and live children, within the interval."""
    site.worker("--concurrency", 2, "--metrics-file", site.metrics_path, "--metrics-interval", 0.05)
    site.enqueue("holds")
    site.hear("holding")
    site.enqueue("ok", process_in=3600)
    site.enqueue("nobody:home", queue="low")
    site.sql("INSERT INTO fireforget_queue (name, paused_at) VALUES ('critical', 1.0)")

    def look():
        get = site.metrics().get
        return (
            get("fireforget_queue_size", queue="default", state="active") == 1
            and get("fireforget_queue_size", queue="default", state="scheduled") == 1
            and get("fireforget_queue_size", queue="low", state="pending") == 1
            and get("fireforget_queue_latency_seconds", queue="low") > 0.05
            and get("fireforget_queue_paused", queue="critical") == 1
            and get("fireforget_worker_children") == 2
        )

    site.eventually(look, within=3)


def test_a_metrics_file_that_cannot_be_written_does_not_stop_the_worker(site):
    """It is said in the log, and jobs run."""
    worker = site.worker("--concurrency", 1, "--metrics-file", site.metrics_path, "--metrics-interval", 0.05)
    site.metrics_path.unlink()
    site.metrics_path.mkdir()
    (site.metrics_path / "in the way").touch()
    assert site.result("ok").state == "completed"
    worker.wait_record("metrics file not written", level="ERROR")
    assert worker.stop() == 0


def test_middleware_of_the_application_wraps_every_job_in_its_order(site):
    """Outermost first, inside the defaults; it sees the job, the result and the error, and may change both."""
    site.app("""
def recording(name):
    def middleware(job, call_next):
        note(name, "before", job.type)
        try:
            result = call_next()
        except Exception as error:
            note(name, "error", type(error).__name__)
            raise
        note(name, "after", result)
        return result
    return middleware

def translating(job, call_next):
    try:
        return call_next() + "!"
    except LookupError:
        raise SkipRetry("not there") from None

registry.use(recording("outer"), translating)
registry.use(recording("inner"))

@registry.task("ok")
def ok():
    note("handler")
    return "ok"

@registry.task("fails")
async def fails():
    raise KeyError("x")
""")
    worker = site.worker("--concurrency", 1)
    assert site.result("ok").result == "ok!"
    info = site.result("fails")
    assert (info.state, info.retry_count, info.last_error) == ("archived", 0, "SkipRetry: not there")
    assert site.notes() == [
        "outer before ok", "inner before ok", "handler", "inner after ok", "outer after ok!",
        "outer before fails", "inner before fails", "inner error KeyError", "outer error SkipRetry",
    ]  # fmt: skip
    assert worker.wait_record("task failed")["error"] == "SkipRetry: not there"


def test_a_registry_may_replace_the_whole_chain(site):
    """Even without recovery a handler that raises SystemExit is a failed job, and the worker lives on."""
    site.app("""
registry = Registry(middleware=[], retry_delay=0)

@registry.task("exits")
def exits():
    sys.exit(3)

@registry.task("ok")
def ok():
    return "ok"
""")
    worker = site.worker("--concurrency", 1)
    info = site.result("exits", max_retry=0)
    assert info.state == "archived" and "SystemExit" in info.last_error
    assert site.result("ok").result == "ok"
    assert not worker.said("child died")
    assert worker.stop() == 0
