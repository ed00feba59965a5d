"""Makes the pictures of the dashboard in docs/images: a demo queue, a real worker, a real browser.

    python docs/make_screenshots.py [--jobs N] [--all FOLDER]

It needs Debian's `chromium` and `chromium-driver`. `--jobs` is how many jobs wait in the queue: try 0, 3 and 1,000,000 and look
at what becomes of the page. With `--all` all pages, on a phone too, are written to another folder.
"""

import argparse
import linecache
import logging
import math
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from contextlib import closing, nullcontext
from datetime import timedelta
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "faces")]

from browser import Browser  # noqa: E402 - found by the paths above

from fireforget import Registry, SkipRetry, SqliteQueue, Task, Worker, current_job, testing  # noqa: E402 - found by the paths above
from fireforget._history import Ended, History  # noqa: E402 - found by the paths above
from fireforget.dashboard import Server, application  # noqa: E402 - found by the paths above

KINDS = ("email:send", "image:resize", "webhook:post", "report:build")
registry = Registry(retry_delay=3600)


@registry.task("email:send", queue="critical", retention=86400)
def send_email(to: str, user_id: int) -> dict[str, str]:
    """Take a moment, as a mail server does."""
    time.sleep(random.uniform(0.005, 0.03))
    return {"to": to}


@registry.task("image:resize", max_retry=3)
def resize(path: str) -> None:
    """Fail, as some images do."""
    raise ValueError(f"cannot identify image file {path!r}")


@registry.task("webhook:post", queue="low", retention=600)
def post(url: str) -> int:
    """Answer at once."""
    return 204


@registry.periodic("0 3 * * *", timezone="Europe/Berlin")
@registry.task("report:daily", queue="low", timeout=600)
def report(year: int = 2026) -> None:
    """Say how far it is."""
    job = current_job()
    for month in range(1, 13):
        job.progress(month / 12, f"month {month} of 12")
        time.sleep(4)


@registry.task("report:build")
def build(year: int) -> None:
    """Refuse what cannot be."""
    raise SkipRetry(f"there is no data for the year {year}")


@registry.task("video:encode", max_retry=0)
def encode(path: str) -> None:
    """Die, as what takes too much memory does."""
    os.kill(os.getpid(), signal.SIGKILL)


@registry.aggregator("news:")
def aggregate(group: str, members: list[object]) -> Task:
    """Make one mail of many lines."""
    return Task("email:send", {"to": group, "user_id": 0})


def fill(queue: SqliteQueue, jobs: int) -> str:
    """Store jobs of all states, and return the id of one that has failed."""
    failed = queue.enqueue(Task("image:resize", {"path": "uploads/cat.png"}))
    for year in (1890, 1891, 1892)[: max(0, jobs)]:
        queue.enqueue(build.task(year=year))
    for number in range(min(jobs, 9)):
        queue.enqueue(Task("image:resize", {"path": f"uploads/{number}.png"}, max_retry=number % 3))
    for number in range(min(jobs, 40)):
        queue.enqueue(Task("webhook:post", {"url": f"https://example.com/hooks/{number}"}, queue="low", retention=86400))
    logging.disable(logging.CRITICAL)
    testing.drain(queue, registry)
    logging.disable(logging.NOTSET)
    remember(queue.path, jobs)
    first = queue.enqueue(Task("report:collect", {"year": 2026}), process_in=7200)
    queue.enqueue(Task("report:send", {"year": 2026}), after=[first.id])
    for number in range(min(jobs, 12)):
        queue.enqueue(Task("news:line", {"text": f"line {number}"}, group=f"news:reader-{number % 3}"))
    queue.enqueue(Task("image:resize", {"path": "uploads/<script>alert(1)</script>.png"}, process_in=timedelta(days=1)))
    for at in range(0, jobs, 10_000):
        many = [mail(number) for number in range(at, min(jobs, at + 10_000))]
        queue.enqueue_many(many)
    return failed.id


def remember(path: str, jobs: int) -> None:
    """Store what a month of work would have left in the history."""
    now, writer = time.time(), History()
    with closing(sqlite3.connect(path)) as connection, connection:
        for minutes_ago in [*range(30 * 1440, 1440, -60), *range(1440, 0, -1)] if jobs else ():
            at = now - 60 * minutes_ago
            busy = (1.2 + math.sin(at / 86400 * 6.28)) * (1 if int(at // 86400) % 7 < 5 else 0.3)
            ended = round(busy * random.uniform(70, 130) * (60 if minutes_ago > 1440 else 1))
            failed = sum(random.random() < 0.02 for _ in range(ended))
            run, wait = ended * random.uniform(4, 6) * busy, ended * random.uniform(0.8, 1.6) * busy**3
            writer.add(connection, [Ended("critical", "email:send", ended, failed, failed, 0, ended, run)], at)
            writer.add(connection, [Ended("critical", "", waited=ended, wait_seconds=wait)], at)


def mail(number: int) -> Task:
    """Return one of many tasks."""
    options = {"process_in": 60 + number % 86400} if number % 7 == 0 else {}
    return Task("email:send", {"to": f"user{number}@example.com", "user_id": number}, queue="critical", **options)


def pages(failed: str) -> dict[str, str]:
    """Return the pages that are shown, by the names of their pictures."""
    return {
        "overview": "#/?span=day",
        "queues": "#/queues",
        "jobs": "#/jobs",
        "archived": "#/jobs?state=archived",
        "job": f"#/job?id={failed}",
        "workers": "#/workers",
        "schedules": "#/schedules",
        "groups": "#/groups",
    }


def as_of_an_application() -> None:
    """Have tracebacks name the file of an application, not the place of this script."""
    linecache.cache["shop/jobs.py"] = (
        1,
        None,
        Path(__file__).read_text(encoding="utf-8").splitlines(keepends=True),
        "shop/jobs.py",
    )
    for function in (resize, build):
        function.function.__code__ = function.function.__code__.replace(co_filename="shop/jobs.py")


IN_DOCS = ("overview", "job", "workers", "dark")


def main() -> None:
    """Make them."""
    as_of_an_application()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=12_000)
    parser.add_argument("--all", type=Path, metavar="FOLDER")
    parser.add_argument("--seconds", type=float, default=30, help="how long the plots have to grow")
    arguments = parser.parse_args()
    if Browser.find() is None:
        raise SystemExit("there is no chromium with its chromedriver: apt-get install chromium chromium-driver")
    folder_of_pictures = arguments.all or ROOT / "docs" / "images"
    folder_of_pictures.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, SqliteQueue(Path(folder) / "shop.db", durability="normal") as queue:
        failed = fill(queue, arguments.jobs)
        for _ in range(min(arguments.jobs, 2)):
            queue.enqueue(report.task())
        if arguments.jobs:
            queue.enqueue(Task("video:encode", {"path": "uploads/holiday.mov"}))
        worker = Worker(registry, queue, concurrency=4) if arguments.jobs else nullcontext()
        with worker, Server(application(queue)) as server, Browser(1280, 860) as browser:
            browser.open(server.url)
            time.sleep(arguments.seconds)
            take(browser, server.url, pages(failed), folder_of_pictures, whole=arguments.all is not None)


def take(browser: Browser, url: str, shown: dict[str, str], folder: Path, *, whole: bool) -> None:
    """Save a picture of each page; of some in dark colours and on a phone too."""
    for name, page in shown.items():
        if whole or name in IN_DOCS:
            save(browser, url + page, folder / f"dashboard-{name}.png")
    browser.run("localStorage.setItem('fireforget-theme', 'dark')")
    save(browser, f"{url}#/?span=day", folder / "dashboard-dark.png")
    browser.run("localStorage.removeItem('fireforget-theme')")
    browser.resize(375, 900)
    for name in shown if whole else ():
        save(browser, url + shown[name], folder / f"dashboard-phone-{name}.png")


def save(browser: Browser, url: str, path: Path) -> None:
    """Save a picture of a page once it shows something."""
    browser.open(url)
    browser.wait(lambda: browser.run("return document.querySelector('main .view') !== null"), url)
    time.sleep(2.5)  # rates are known from the second reading on
    browser.screenshot(path)
    wide = browser.run("return document.documentElement.scrollWidth - innerWidth")
    print(f"{path.name}: {'fits' if wide <= 0 else f'{wide} pixels too wide'}")


if __name__ == "__main__":
    main()
