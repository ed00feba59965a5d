"""The enqueuer for RQ of the how-to, as it stands there, on a real broker with RQ's own worker."""

import importlib
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("rq", reason="RQ is not installed: pip install rq to test the enqueuer of the how-to")

from redis import Redis

from fireforget import InvalidOption, Task, TaskIDConflict
from fireforget.testing import check_enqueuer

pytestmark = pytest.mark.filterwarnings("default")

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "write-an-enqueuer.md").read_text(encoding="utf-8")
SHOP = """
from fireforget import Registry, SkipRetry, current_job
registry = Registry(retry_delay=0)

@registry.task("greet")
def greet(name):
    return f"hello {name} from {current_job().queue}"

@registry.task("flaky", max_retry=2)
def flaky():
    if current_job().retry_count < 2:
        raise ValueError("not yet")
    return current_job().headers

@registry.task("skip")
def skip():
    raise SkipRetry("pointless")
"""


def module_of_the_page():
    return re.search(r"<!-- file: rq_engine.py -->\n```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[1]


def test_the_enqueuer_of_the_page_has_less_than_40_lines():
    """As small as it is said to be."""
    assert len([line for line in module_of_the_page().splitlines() if line.strip()]) < 40


@pytest.fixture
def engine(tmp_path, redis_port, monkeypatch):
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "rq_engine.py").write_text(module_of_the_page())
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("shop", "rq_engine"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    with Redis(port=redis_port) as redis:
        redis.flushall()
        yield importlib.import_module("rq_engine"), redis
    for name in ("shop", "rq_engine"):
        sys.modules.pop(name, None)


def test_it_keeps_what_enqueuers_promise(engine):
    """The page says so."""
    module, redis = engine
    assert len(check_enqueuer(lambda: module.RQEnqueuer(redis))) == 12
    with pytest.raises(InvalidOption, match="priority=1: RQ cannot keep this"):
        module.RQEnqueuer(redis).enqueue(Task("greet", {"name": "a"}), priority=1)


def test_rq_runs_the_handlers(engine, redis_port, run_program):
    """With the same retries and errors."""
    from rq.job import Job

    module, redis = engine
    enqueuer = module.RQEnqueuer(redis)
    jobs = {
        "greet": enqueuer.enqueue(Task("greet", {"name": "a"}), queue="critical", task_id="one").id,
        "skip": enqueuer.enqueue(Task("skip")).id,
        "flaky": enqueuer.enqueue(Task("flaky", max_retry=2), headers={"trace": "x"}).id,
    }
    with pytest.raises(TaskIDConflict):
        enqueuer.enqueue(Task("greet", {"name": "a"}), task_id="one")
    url = f"redis://127.0.0.1:{redis_port}"
    worker = run_program("rq", "-m", "rq.cli", "worker", "--burst", "--url", url, "critical", "default")
    assert worker.wait(30) == 0, worker.log.read_text()
    done = {type: Job.fetch(job_id, connection=redis) for type, job_id in jobs.items()}
    assert done["greet"].return_value() == "hello a from critical"
    assert done["skip"].get_status() == "failed"
    assert "SkipRetry: pointless" in done["skip"].latest_result().exc_string
    assert Job.fetch(f"{jobs['flaky']}-again-again", connection=redis).return_value() == {"trace": "x"}
