"""Log records as people and machines read them."""

import io
import json
import logging
import re
import sys
from types import SimpleNamespace

import pytest

from fireforget import logs


@pytest.fixture
def printed(capsys):
    """What has been printed to standard error; the logging of this process is put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_is_one_object_a_line_with_the_promised_members(printed):
    """Whatever the texts hold, line breaks included."""
    logs.configure("info", "json")
    logs.task_processed("email:send", "7", "low", 0, 0.25, None)
    logs.task_failed("email:send", "8", "low", 3, 1.5, "ValueError: two\nlines", "ab" * 16)
    processed, failed = map(json.loads, printed().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", processed.pop("time"))
    assert processed == {
        "level": "INFO", "logger": "fireforget.worker", "message": "task processed", "task_type": "email:send", "task_id": "7",
        "queue": "low", "retry_count": 0, "duration": 0.25, "success": True,
    }  # fmt: skip
    assert (failed["level"], failed["message"], failed["success"]) == ("ERROR", "task failed", False)
    assert (failed["error"], failed["retry_count"], failed["trace_id"]) == ("ValueError: two\nlines", 3, "ab" * 16)


def test_text_is_one_line_a_record_with_the_same_fields(printed):
    """Values with spaces or line breaks are quoted, so that a line can be taken apart again."""
    logs.configure("info", "text")
    logs.task_failed("email:send", "8", "low", 3, 1.5, "ValueError: two\nlines")
    (line,) = printed().splitlines()
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ERROR task failed task_type=email:send task_id=8 queue=low", line)
    assert line.endswith('retry_count=3 duration=1.5 success=False error="ValueError: two\\nlines"')


@pytest.mark.parametrize("verb", ["postponed", "revoked", "cancelled", "returned"])
def test_what_counts_neither_way_has_its_own_message(printed, verb):
    """And says why."""
    logs.configure("info", "json")
    logs.task_not_counted(verb, "t", "1", "low", 0, 0.1, "because")
    record = json.loads(printed())
    assert (record["level"], record["message"], record["reason"]) == ("INFO", f"task {verb}", "because")
    assert "success" not in record


@pytest.mark.parametrize("form", ["text", "json"])
def test_an_applications_own_handler_gets_every_record_and_changes_no_line(printed, caplog, form):
    """What is printed does not depend on whether somebody listens besides."""
    logs.configure("info", form)
    logs.task_processed("t", "1", "low", 0, 0.1, "ab" * 16)
    alone = printed()
    logging.getLogger("fireforget").addHandler(caplog.handler)
    try:
        logs.task_processed("t", "1", "low", 0, 0.1, "ab" * 16)
    finally:
        logging.getLogger("fireforget").removeHandler(caplog.handler)
    assert without_time(printed()) == without_time(alone)
    (record,) = caplog.records
    assert (record.getMessage(), record.task_id, record.trace_id) == ("task processed", "1", "ab" * 16)


def without_time(line):
    return re.sub(r"\d{4}-\S+?Z", "", line)


def test_an_application_may_filter_what_is_printed(printed):
    """With the means of `logging`, wherever it puts them: at the handler, the logger, or where records are made."""
    logs.configure("info")
    (handler,) = logging.getLogger().handlers
    handler.addFilter(lambda record: record.task_id != "1")
    logs.task_processed("t", "1", "low", 0, 0.1, None)
    logs.task_processed("t", "2", "low", 0, 0.1, None)
    assert [re.search(r"task_id=(\d)", line)[1] for line in printed().splitlines()] == ["2"]


def test_an_application_may_make_the_records(printed, monkeypatch):
    """With a factory of its own."""
    logs.configure("info")
    made = []
    monkeypatch.setattr(logging, "_logRecordFactory", lambda *args: made.append(logging.LogRecord(*args)) or made[-1])
    logs.task_processed("t", "1", "low", 0, 0.1, None)
    assert "task_id=1" in printed()
    assert [record.task_id for record in made] == ["1"]


def test_an_application_may_format_what_is_printed(printed):
    """With a formatter and a level of its own at the handler that we have set up."""
    logs.configure("info")
    (handler,) = logging.getLogger().handlers
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s of %(task_id)s"))
    handler.setLevel(logging.ERROR)
    logs.task_processed("t", "1", "low", 0, 0.1, None)
    logs.task_failed("t", "2", "low", 0, 0.1, "E")
    assert printed() == "ERROR: task failed of 2\n"


@pytest.mark.parametrize("method", ["handle", "callHandlers"])
def test_what_reports_errors_sees_the_records(printed, monkeypatch, method):
    """Such programs put themselves into `logging.Logger`, and have no handler."""
    logs.configure("info")
    seen, original = [], getattr(logging.Logger, method)
    monkeypatch.setattr(logging.Logger, method, lambda self, record: (seen.append(record.task_id), original(self, record))[1])
    logs.task_failed("t", "1", "low", 0, 0.1, "E")
    assert seen == ["1"]
    assert "task_id=1" in printed()


class Broken(io.StringIO):
    def write(self, text):
        raise RuntimeError("broken")


@pytest.mark.parametrize("filters", [[], [bool]])
@pytest.mark.parametrize("stream", [None, Broken(), SimpleNamespace()])
def test_a_run_does_not_fail_by_its_record(printed, monkeypatch, stream, filters):
    """A handler may have put into the place of `sys.stderr` what cannot be written to."""
    logs.configure("info")
    logging.getLogger().handlers[0].filters = filters
    monkeypatch.setattr(sys, "stderr", stream)
    logs.task_processed("t", "1", "low", 0, 0.1, None)
    monkeypatch.undo()
    logs.task_processed("t", "2", "low", 0, 0.1, None)
    assert "task_id=2" in printed()


def test_a_record_that_cannot_be_written_is_told_as_logging_tells_it(printed, monkeypatch):
    """With what was in its way."""
    logs.configure("info")
    stream = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", stream)
    logs.task_failed("t", "1", "low", 0, 0.1, "\xe9")
    stream.seek(0)
    assert "UnicodeEncodeError" in stream.read()


def test_the_level_is_kept(printed):
    """At `warning` a success costs no record, and a failure is still seen."""
    logs.configure("warning", "json")
    assert not logs.wants_info()
    logs.task_processed("t", "1", "low", 0, 0.1, None)
    logs.task_not_counted("revoked", "t", "1", "low", 0, 0.1, "why")
    logs.task_failed("t", "1", "low", 0, 0.1, "E")
    assert [json.loads(line)["message"] for line in printed().splitlines()] == ["task failed"]


def test_an_applications_own_records_are_printed_too(printed):
    """With their traceback, and values that are not JSON as text."""
    logs.configure("info", "json")
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("shop").exception("oh %s", "no", extra={"error": object(), "not_ours": 1})
    record = json.loads(printed())
    assert (record["logger"], record["message"]) == ("shop", "oh no")
    assert "ZeroDivisionError" in record["traceback"]
    assert "not_ours" not in record


def test_configuring_twice_prints_once(printed):
    """Earlier handlers are replaced."""
    logs.configure("info", "text")
    logs.configure("info", "json")
    logs.event(logging.INFO, "hello", pid=1)
    (line,) = printed().splitlines()
    assert json.loads(line)["pid"] == 1
