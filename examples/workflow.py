"""A workflow: pages are fetched and counted, each pair by itself, and one report collects what came of them.

One page is not there the first time. The report runs all the same and says so. A second one insists on all pages: it is archived
with that page, and revived when somebody runs the page again.

    python -m examples.workflow
"""

import os
import sys
import tempfile

from fireforget import Inspector, Registry, SkipRetry, SqliteQueue, Task, TaskInfo, Worker, current_job

registry = Registry()


@registry.task("page:fetch")
def fetch(url: str, there: bool = True) -> str:
    """Return the text of a page."""
    if not there:
        raise SkipRetry(f"{url} is not there")
    return f"the text of {url}"


@registry.task("page:count")
def count() -> int:
    """Return the number of words in the text of the page that this job waits for."""
    return sum(len(text.split()) for text in current_job().results.values())


@registry.task("site:report", retention=60)
def report() -> str:
    """Say what the counts that this job waits for add up to."""
    job = current_job()
    return f"{sum(job.results.values())} words on {len(job.results)} pages, {len(job.failures)} failed"


def site(urls: dict[str, bool], name: str, **options: str) -> list[Task]:
    """Return the tasks of a whole workflow; the last one is its report."""
    pages = [fetch.task(url, there).with_options(task_id=name + url) for url, there in urls.items()]
    counts = [count.task().with_options(after=[page]) for page in pages]
    return [*pages, *counts, report.task().with_options(after=counts, task_id=name, **options)]


def main(path: str) -> None:
    """Store two workflows, run a worker until there is nothing to do, mend what failed, and run it again."""
    urls = {"/a": True, "/b": True, "/c": False}
    with SqliteQueue(path) as queue:
        queue.enqueue_many(site(urls, "lenient", after_failure="run"))
        queue.enqueue_many(site(urls, "strict"))
        work(queue)
        tell(queue.get("lenient"))
        tell(queue.get("strict"))
        inspector = Inspector(queue)
        for page in inspector.tasks("archived", type="page:fetch"):
            inspector.update(page.id, payload={"url": page.payload["url"]})
            inspector.run(page.id)
        work(queue)
        tell(queue.get("strict"))


def work(queue: SqliteQueue) -> None:
    """Run a worker until there is nothing to do."""
    worker = Worker(registry, queue, concurrency=1, burst=True)
    worker.start()
    worker.join()


def tell(info: TaskInfo) -> None:
    """Print what became of a report."""
    print(f"{info.id} is {info.state}: {info.result if info.state == 'completed' else info.last_error}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(os.path.join(folder, "jobs.db"))
