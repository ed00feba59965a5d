"""What wraps every job: in which order, and what is counted and logged of each outcome."""

import asyncio
import json
import logging
from types import SimpleNamespace

import pytest

from fireforget._claimed import Claimed
from fireforget.errors import JobCancelled, JobTimeout, RetryLater, RevokeTask, SkipRetry
from fireforget.job import Job, current_job, running
from fireforget.middleware import DEFAULT_CHAIN, HandlerExit, compose, describe, trace_id_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def job(headers=None, report=None, **changes):
    fields = {
        **dict.fromkeys(Claimed._fields), "task_id": "1", "type": "email:send", "queue": "low", "headers": headers,
        "retry_count": 2, "max_retry": 25, "timeout": 30.0, "due": -0.25,
    }  # fmt: skip
    definition = SimpleNamespace(pattern="email:", is_failure=None, pass_headers=None)
    return Job(tuple(Claimed(**{**fields, **changes})), definition, SimpleNamespace(tag="", report=report), started_at=0.0)


@pytest.fixture
def run(samples, caplog):
    """Run a handler through the default chain; return its result, or what it raised."""
    caplog.set_level(logging.DEBUG, "fireforget")

    def run(handler, job=job()):  # noqa: B008
        try:
            return compose(DEFAULT_CHAIN, lambda _: handler())(job)
        except BaseException as error:
            return error

    return run


def raising(error):
    def handler():
        raise error

    return handler


def test_the_first_middleware_is_the_outermost():
    """It sees the job first, and what became of it last."""
    seen = []

    def named(name):
        def wrap(job, call_next):
            seen.append(f"{name} in")
            result = call_next()
            seen.append(f"{name} out")
            return [*result, name]

        return wrap

    result = compose([named("a"), named("b")], lambda _: seen.append("handler") or [])(job())
    assert seen == ["a in", "b in", "handler", "b out", "a out"]
    assert result == ["b", "a"]
    assert compose([], lambda _: 5)(job()) == 5


def test_the_default_chain_is_recovery_tracing_metrics_logging():
    """So a failure is logged and counted before it is turned into anything else."""
    assert [wrap.__name__ for wrap in DEFAULT_CHAIN] == ["recovery", "tracing", "metrics", "logging"]


def test_a_success_is_counted_and_logged_once(run, samples, caplog):
    """With the registered pattern as its type, the true queue, how long it took and how long it had waited."""
    assert run(lambda: 7) == 7
    assert samples.snapshot()[0] == {("job_processed_total", ("email:", "low", "success")): 1}
    assert set(samples.snapshot()[1]) == {("job_wait_seconds", ("low",)), ("job_duration_seconds", ("email:", "low"))}
    assert samples.snapshot()[1]["job_wait_seconds", ("low",)][-1] == 0.25
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.name) == ("INFO", "task processed", "fireforget.worker")
    assert (record.task_type, record.task_id, record.queue, record.retry_count) == ("email:", "1", "low", 2)
    assert record.success is True
    assert record.duration >= 0


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("no"), "ValueError: no"),
        (KeyError(), "KeyError"),
        (SkipRetry("pointless"), "SkipRetry: pointless"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
        (JobTimeout("timed out after 5 s"), "timed out after 5 s"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_else_a_handler_raises_is_a_failed_job(run, samples, caplog, error, text):
    """SystemExit and KeyboardInterrupt included: counted as failed, and logged with their own name."""
    raised = run(raising(error))
    assert raised is error or raised.__cause__ is error
    assert samples.snapshot()[0] == {("job_processed_total", ("email:", "low", "failed")): 1}
    assert ("job_duration_seconds", ("email:", "low")) in samples.snapshot()[1]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.error) == ("ERROR", "task failed", text)
    assert record.success is False


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_a_handler_cannot_end_its_process_by_an_exception(run, error):
    """What leaves the chain is an ordinary error that names what was raised."""
    raised = run(raising(error))
    assert isinstance(raised, HandlerExit)
    assert describe(error) in str(raised)


@pytest.mark.parametrize(
    ("error", "verb"),
    [(RetryLater(5), "postponed"), (RevokeTask("gone"), "revoked"), (JobCancelled("cancelled while it ran"), "cancelled")],
)
def test_a_wish_or_a_cancellation_is_neither_success_nor_failure(run, samples, caplog, error, verb):
    """It has a counter and an INFO record of its own."""
    assert run(raising(error)) is error
    assert samples.snapshot()[0] == {("fireforget_jobs_returned_total", (verb,)): 1}
    assert ("job_duration_seconds", ("email:", "low")) not in samples.snapshot()[1]
    (record,) = caplog.records
    assert (record.levelname, record.getMessage(), record.reason) == ("INFO", f"task {verb}", str(error))
    assert not hasattr(record, "success")


def test_the_trace_of_the_producer_is_in_the_record(run, caplog):
    """And only in those of its own job."""
    traced = job(json.dumps({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}))
    run(lambda: None, traced)
    run(raising(ValueError()), traced)
    run(lambda: None)
    assert [getattr(record, "trace_id", None) for record in caplog.records] == [TRACE, TRACE, None]


@pytest.mark.parametrize("header", [None, "", "00", f"00-{TRACE}", "00-" + "0" * 32 + "-a-01", "00-short-a-01"])
def test_a_malformed_trace_is_none(header):
    """A header is a foreign program's text."""
    assert trace_id_of(header) is None


def test_an_error_whose_text_raises_is_still_described():
    """It must not hide the failure."""

    class Mute(Exception):
        def __str__(self):
            raise RuntimeError

    assert describe(Mute()) == "Mute: <its text raised RuntimeError>"


# --- the job that a handler sees ------------------------------------------------------------------------------------------


def test_current_job_is_an_error_outside_of_a_handler():
    """With what to do about it."""
    with pytest.raises(Exception, match="inside a handler"):
        current_job()
    own = job()
    token = running.set(own)
    assert current_job() is own
    running.reset(token)


@pytest.mark.parametrize("headers", [None, "null", "[1]", "{", '"text"', b"\xff", 5])
def test_headers_that_a_foreign_program_stored_are_empty_not_an_error(headers):
    """A handler can always read them."""
    assert job(headers).headers == {}
    assert job('{"a": "b", "c": 1}').headers == {"a": "b"}


def test_progress_and_results_are_checked_where_they_are_said():
    """A fraction from 0 to 1, a note that is text; a result that cannot be kept is null, and fails no job."""
    said = []
    own = job(report=lambda _, kind, value: said.append((kind, value)))
    own.progress(0.5, "half")
    own.progress(1)
    own.write_result({"a": 1})
    assert said == [("progress", (0.5, "half")), ("progress", (1.0, None)), ("result", '{"a":1}')]
    for wrong in ((1.1,), (-0.1,), (True,), ("half",), (0, 5)):
        with pytest.raises(ValueError):
            own.progress(*wrong)
    own.write_result({1})
    own.write_result("x" * 2_000_000)
    assert said[3:] == [("result", None)] * 2
