"""What a type checker says of an application: right calls pass, wrong ones are found where they are written.

A handler's `task(...)` has the handler's own parameters (`ParamSpec`), so that a checker knows what a payload may be.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

APPLICATION = '''\
"""An application, with mistakes; each is marked with the code of the error that it must give."""

from fireforget import Enqueuer, Registry, SqliteQueue, Task, TaskInfo, chain, current_job, fire_and_forget

registry = Registry()


@registry.task("email:send", queue="critical", max_retry=5)
def send_email(to: str, subject: str = "hello") -> int:
    return len(to + subject)


@registry.task("page:fetch")
async def fetch(url: str, *, tries: int = 3) -> bytes:
    return url.encode() * tries


def right(queue: SqliteQueue) -> None:
    length: int = send_email("a@example.com")
    task: Task = send_email.task("a@example.com", subject="hi")
    info: TaskInfo = queue.enqueue(task, queue="low", process_in=60)
    many: list[TaskInfo] = queue.enqueue_many([fetch.task("/", tries=2)] * length)
    fire_and_forget(queue, send_email.task(to="b@example.com"))
    chain(queue, [task, fetch.task("/")])
    anything: Enqueuer = queue
    print(anything.enqueue(task).id, info.state == "pending", many, current_job().id)


def wrong(queue: SqliteQueue) -> None:
    send_email.task(5)  # error: arg-type
    send_email.task()  # error: call-arg
    send_email.task("a@example.com", subjet="hi")  # error: call-arg
    send_email.task("a@example.com", "hi", "there")  # error: call-arg
    fetch.task("/", 2)  # error: call-arg
    fetch.task("/", tries="2")  # error: arg-type
    send_email(to=b"a@example.com")  # error: arg-type
    text: str = send_email("a@example.com")  # error: assignment
    queue.enqueue("email:send")  # error: arg-type
    queue.enqueue(send_email)  # error: arg-type
    queue.enqueue_many(send_email.task("a@example.com"))  # error: arg-type
    fire_and_forget(queue, "email:send")  # error: arg-type
    info: int = queue.enqueue(send_email.task("a@example.com"))  # error: assignment
    info.id = "other"  # error: attr-defined
    SqliteQueue("jobs.db", durability="ful")  # error: arg-type
    print(text, info)


class Half:
    """Has another `enqueue` than an enqueuer."""

    def enqueue(self, task: Task) -> None: ...


half: Enqueuer = Half()  # error: assignment
'''


def test_the_package_is_checked_strictly_and_nothing_is_left_out() -> None:
    """All of it, by `mypy` without arguments; the one exception is a package without types."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] is True and settings["packages"] == ["fireforget"]
    assert settings["overrides"] == [{"module": "celery.*", "ignore_missing_imports": True}]


@pytest.mark.skipif(importlib.util.find_spec("mypy") is None, reason="no mypy here")
def test_a_checker_finds_the_mistakes_of_an_application_and_nothing_else(tmp_path: Path) -> None:
    """Line by line."""
    (tmp_path / "application.py").write_text(APPLICATION)
    command = [sys.executable, "-m", "mypy", "--config-file", ROOT / "pyproject.toml", "--no-error-summary", "--no-pretty"]
    cache = ["--cache-dir", ROOT / ".mypy_cache"]  # that of `make types`: what it has read once it need not read again
    done = subprocess.run(
        [*command, *cache, tmp_path / "application.py"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    found = {(int(line), code) for line, code in re.findall(r"application\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.M)}
    marked = {
        (number, mark[1])
        for number, line in enumerate(APPLICATION.splitlines(), 1)
        if (mark := re.search(r"# error: ([\w-]+)$", line))
    }
    assert found == marked, done.stdout + done.stderr
    assert "application.py" not in re.sub(r"application\.py:\d+: (error|note): ", "", done.stdout)


REASONS = re.compile(r"#\s*(noqa: [A-Z]+\d+(?:, [A-Z]+\d+)*|type: ignore\[[\w-]+\])(?P<why>.*)$")


@pytest.mark.parametrize("path", sorted((ROOT / "fireforget").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_whatever_is_not_checked_has_its_reason_beside_it(path: Path) -> None:
    """In the package no check is switched off for a file, nor without a word on the line, or on the one before."""
    before = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if "# noqa" in line or "type: ignore" in line:
            found = REASONS.search(line)
            assert found and (re.search(r"\w{2}", found["why"]) or "# " in before), f"{path.name}:{number}: {line.strip()}"
        before = line
