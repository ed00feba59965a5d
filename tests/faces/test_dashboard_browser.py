"""The dashboard in a real browser, as a person uses it: every view, every action, keys, a phone, a queue full of script."""

import json
import re
import time
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from fireforget import Inspector, Registry, State, Task, current_job, dashboard, testing
from fireforget._claims import Claims
from fireforget._pool.board import Board
from tests.faces.browser import Browser

pytestmark = pytest.mark.skipif(Browser.find() is None, reason="needs Debian's chromium and chromium-driver")

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
ESCAPE, TAB, ENTER = "\ue00c", "\ue004", "\ue007"

registry = Registry()


@registry.task("fails", max_retry=0)
def fails(text):
    raise ValueError(text)


@registry.task("whole", retention=60)
def whole():
    return current_job().step("first step", lambda: {"stored": [1, 2]})


@registry.periodic("@daily")
@registry.task("daily")
def daily(): ...


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.fixture
def queue(open_queue):
    return open_queue(clock=time.time)


@pytest.fixture
def serve(queue):
    """Serve the queue; returns the address."""
    servers = []

    def serve(**settings):
        server = dashboard.Server(dashboard.application(queue, **settings))
        server.start()
        servers.append(server)
        return server.url

    yield serve
    for server in servers:
        server.close()


def drain(queue):
    testing.drain(queue, registry)


def told(browser, text):
    """Wait until the page has said what was done."""
    browser.wait(lambda: any(text in toast for toast in browser.texts(".toast")), f"the words {text!r}")


def test_every_view_shows_itself_and_an_empty_queue_says_so(browser, serve):
    """No view is blank, and none is wider than the window."""
    browser.open(serve())
    browser.wait_for_text("Nothing runs.")
    for page, said in (
        ("#/queues", "There is no queue yet."),
        ("#/jobs", "There is no job yet."),
        ("#/jobs?state=archived", "No job is archived."),
        ("#/jobs?type=x", "No job matches."),
        ("#/workers", "No worker is running."),
        ("#/schedules", "There is no schedule."),
        ("#/groups", "No group waits."),
        ("#/job?id=nobody", "no job 'nobody' is stored"),
        ("#/schedule?name=nobody", "there is no schedule 'nobody'"),
    ):
        browser.go(page)
        assert said in browser.text()
        assert browser.run("return document.documentElement.scrollWidth <= innerWidth"), page
    assert "No worker is running" in browser.text("#banner")


def test_it_is_live_without_reloading_and_says_how_old_it_is(browser, serve, queue):
    """A new job appears by itself; "Stop" stops it, and the age goes on."""
    browser.open(serve())
    browser.wait_for_text("There is no queue yet.")
    queue.enqueue(Task("t"), queue="fresh")
    browser.wait_for_text("fresh")
    assert browser.text("#age") in ("now", "1 s ago", "2 s ago", "3 s ago")
    browser.click("#hold")
    assert browser.text("#age") == "stopped"
    browser.click("#hold")
    browser.wait(lambda: browser.text("#age") == "now", "reading again")


def test_a_file_that_cannot_be_read_is_said_with_the_age_of_what_is_shown(browser, serve, queue, monkeypatch):
    """What was known stays on the page; when it can be read again, the words go."""
    import os

    queue.enqueue(Task("t"), queue="known")
    browser.open(serve())
    browser.wait_for_text("known")
    os.rename(queue.path, f"{queue.path}.away")
    browser.wait_for_text("deleted or replaced", "#banner")
    assert "old" in browser.text("#banner") and "known" in browser.text("main")
    os.rename(f"{queue.path}.away", queue.path)
    browser.click("#hold")
    browser.click("#hold")
    browser.wait(lambda: "replaced" not in browser.text("#banner"), "the file is there again")


def test_script_in_a_job_stays_text(browser, serve, queue):
    """In its type, queue, id, payload, error, traceback, headers, group and notes."""
    failed = queue.enqueue(fails.task(text=SCRIPT), queue=SCRIPT, task_id=f"id {SCRIPT}", headers={SCRIPT: SCRIPT})
    drain(queue)
    queue.enqueue(Task(SCRIPT, {SCRIPT: [SCRIPT]}), group=SCRIPT, queue="other")
    browser.open(serve())
    browser.wait_for_text("onerror")
    for page in (
        f"#/job?id={quote(failed.id)}",
        "#/queues",
        "#/jobs",
        "#/groups",
        f"#/jobs?queue={quote(SCRIPT)}",
        f"#/job?id={quote(SCRIPT)}",
    ):
        browser.go(page)
        assert "onerror" in browser.text("main"), page
        assert browser.run("return document.title !== 'taken' && !document.querySelector('main img, main script')"), page


def test_script_in_what_runs_and_what_recurs_stays_text(browser, serve, queue, sql):
    """In workers, their children and their deaths, progress, schedules, steps, dependencies, questions and words."""
    tricky = Registry()
    tricky.periodic("@daily")(tricky.task(f"often {SCRIPT}")(lambda: current_job().step(SCRIPT, lambda: SCRIPT)))
    testing.tick(queue, tricky)
    first = queue.enqueue(Task(f"often {SCRIPT}"), task_id=f"first {SCRIPT}", retention=60)
    testing.drain(queue, tricky)
    queue.enqueue(Task("t"), task_id=f"next {SCRIPT}", after=[queue.enqueue(Task("x"), task_id=f"needed {SCRIPT}").id])
    with running(queue, SCRIPT, name=f"host:1:{SCRIPT}"):
        sql("UPDATE fireforget_job SET progress = 0.5, progress_note = :note WHERE state = 3", {"note": SCRIPT})
        browser.open(serve())
        browser.wait_for_text("onerror")
        for page in (
            "#/workers",
            "#/jobs?state=active",
            "#/schedules",
            f"#/schedule?name={quote('often ' + SCRIPT)}",
            f"#/job?id={quote(first.id)}",
            f"#/job?id={quote('next ' + SCRIPT)}",
            f"#/job?id={quote('needed ' + SCRIPT)}",
        ):
            browser.go(page)
            assert "onerror" in browser.text("main"), page
            assert browser.run("return document.title !== 'taken' && !document.querySelector('main img, main script')"), page
    browser.go(f"#/job?id={quote(first.id)}")
    browser.click("#job-delete")
    browser.wait_for_text("onerror", "#dialog")
    browser.click("#dialog-yes")
    told(browser, "onerror")
    assert browser.run("return document.title !== 'taken' && !document.querySelector('dialog img, .toast img, .toast script')")


def test_jobs_are_found_by_filters_and_pages(browser, serve, queue):
    """Tabs, fields, next and back; the id field leads to a job."""
    infos = queue.enqueue_many([Task(f"kind:{n % 2}", {"n": n}) for n in range(120)])
    url = serve()
    browser.open(f"{url}#/jobs")
    browser.wait_for_text(infos[0].id)
    browser.click_text(".pages a", "Next")
    browser.wait_for_text(infos[50].id)
    browser.click_text(".pages a", "Next")
    browser.wait_for_text(infos[119].id)
    browser.click_text(".pages a", "Previous")
    browser.wait_for_text(infos[50].id)
    browser.click_text(".pages a", "First")
    browser.wait_for_text(infos[0].id)
    browser.type("#f-payload", "n=77")
    browser.press(ENTER)
    browser.wait(lambda: browser.texts("tbody .id") == [infos[77].id], "the one that matches")
    browser.click_text(".filters a", "Clear")
    browser.wait_for_text(infos[0].id)
    browser.type("#find-id", infos[7].id)
    browser.press(ENTER)
    browser.wait_for_text('"n": 7')


def test_a_job_is_shown_with_its_steps_its_result_and_what_it_waits_for(browser, serve, queue):
    """And leads to what waits for it."""
    info = queue.enqueue(Task("whole"), headers={"trace": "4bf92f35"})
    needing = queue.enqueue(Task("t"), after=[info.id], process_in=3600)
    drain(queue)
    browser.open(f"{serve()}#/job?id={info.id}")
    browser.wait_for_text("first step")
    assert browser.text("main").count("stored") == 2 and "4bf92f35" in browser.text()
    assert [text for text in browser.texts("h2") if "ait" in text] == ["Waited for by"]
    browser.click_text("td a", needing.id)
    browser.wait_for_text("Waits for")
    assert browser.texts("td .badge") == ["completed"]


def test_a_page_of_jobs_is_chosen_and_let_go_at_once(browser, serve, queue):
    """And a deadline is given to all of them."""
    infos = queue.enqueue_many([Task("t", n) for n in range(3)], process_in=3600)
    browser.open(f"{serve()}#/jobs?state=scheduled")
    browser.click("[aria-label='Choose all on this page']")
    browser.wait_for_text("3 jobs chosen")
    browser.click_text(".bulk button", "Choose none")
    browser.wait_for_text("All that match")
    assert not browser.run("return document.querySelector('.choose:checked')")
    browser.click(f"[aria-label='Choose {infos[1].id}']")
    browser.click("#chosen-update")
    browser.type("#field-deadline", "2035-01-31T09:00:00+00:00")
    browser.click("#dialog-yes")
    told(browser, "was changed")
    assert [Inspector(queue).task(info.id).deadline is None for info in infos] == [True, False, True]


def test_one_job_is_run_changed_archived_cancelled_and_deleted(browser, serve, queue):
    """By its page; deleting asks first, and Escape is no."""
    info = queue.enqueue(Task("t", {"n": 1}), process_in=3600)
    browser.open(f"{serve()}#/job?id={info.id}")
    browser.click("#job-update")
    browser.type("#field-queue", "low", clear=True)
    browser.type("#field-priority", "7", clear=True)
    browser.type("#field-process_in", "2h")
    browser.type("#field-payload", '{"n": 12345678901234567890}', clear=True)
    browser.click("#dialog-yes")
    told(browser, "was changed and is scheduled")
    changed = queue.get(info.id)
    assert (changed.queue, changed.priority, changed.payload) == ("low", 7, {"n": 12345678901234567890})
    for action, state in (("run", "pending"), ("archive", "archived"), ("run", "pending"), ("cancel", "cancelled")):
        browser.click(f"#job-{action}")
        browser.wait(lambda: browser.text("h1 .badge") == state, "the page follows")  # noqa: B023 - asked at once
        told(browser, f"is {state}")
        assert queue.get(info.id).state == state
    browser.click("#job-delete")
    browser.wait_for_text("This cannot be undone", "#dialog")
    browser.press(ESCAPE)
    assert queue.get(info.id).state == "cancelled"
    browser.click("#job-delete")
    browser.click("#dialog-yes")
    told(browser, "is deleted")
    assert Inspector(queue).count() == 0


def test_a_mistake_is_told_and_changes_nothing(browser, serve, queue):
    """In the words of the command line."""
    info = queue.enqueue(Task("t"), process_in=3600)
    browser.open(f"{serve()}#/job?id={info.id}")
    browser.click("#job-update")
    browser.type("#field-process_in", "soon")
    browser.click("#dialog-yes")
    told(browser, "no duration")


ACTIONS = ("run", "archive", "cancel", "delete", "update")


def test_chosen_jobs_are_changed_together(browser, serve, queue):
    """Those with a mark, and no others."""
    inspector = Inspector(queue)
    infos = queue.enqueue_many([Task("t", n) for n in range(12)], process_in=3600)
    browser.open(f"{serve()}#/jobs?state=scheduled")
    for number, action in enumerate(ACTIONS):
        chosen = infos[2 * number : 2 * number + 2]
        for info in chosen:
            browser.click(f"[aria-label='Choose {info.id}']")
        browser.wait_for_text("2 jobs chosen")
        browser.click(f"#chosen-{action}")
        if action == "update":
            browser.type("#field-priority", "3")
        if action != "run":
            browser.click("#dialog-yes")
        browser.wait(lambda: "chosen" not in browser.text("main"), "the marks are gone")
        left = infos[2 * number + 2 :] if action != "update" else infos[8:]
        assert [job.id for job in inspector.tasks("scheduled")] == [info.id for info in left], action
    assert [job.priority for job in inspector.tasks("scheduled")] == [3, 3, 0, 0]


def test_all_that_match_are_changed_after_a_question_with_their_number(browser, serve, queue):
    """Also those on other pages; the first answer offered is no."""
    inspector = Inspector(queue)
    queue.enqueue_many([Task(f"{action}:a", n) for action in ACTIONS for n in range(60)], process_in=3600)
    browser.open(serve())
    browser.wait_for_text("Nothing runs.")
    for action in ACTIONS:
        browser.go(f"#/jobs?state=scheduled&type={action}%3A")
        browser.click(f"#all-{action}")
        browser.wait_for_text("60 jobs", "#dialog")
        if action == "delete":
            assert browser.run("return document.activeElement.textContent") == "Keep everything as it is"
            browser.press(ENTER)
            browser.wait(lambda: not browser.run("return document.querySelector('dialog').open"), "the question is gone")
            assert inspector.count(type="delete:") == 60
            browser.wait(lambda: browser.run("return !document.getElementById('all-delete').disabled"), "the button again")
            browser.click(f"#all-{action}")
        elif action == "update":
            browser.type("#field-queue", "low")
        browser.click("#dialog-yes")
        told(browser, "60 jobs")
        mine = {"queue": "default", "type": f"{action}:a"}
        browser.wait(lambda: inspector.count("scheduled", **mine) == 0, "all are changed")  # noqa: B023
    assert inspector.counts() == {
        **dict.fromkeys(State, 0),
        State.PENDING: 60,
        State.ARCHIVED: 60,
        State.CANCELLED: 60,
        State.SCHEDULED: 60,
    }


def test_queues_are_paused_resumed_and_deleted(browser, serve, queue):
    """With its jobs only after a question that names their number."""
    queue.enqueue_many([Task("t")] * 3, queue="low")
    browser.open(f"{serve()}#/queues")
    browser.click("[aria-label='Pause low']")
    told(browser, "low is paused")
    assert Inspector(queue).queue_stats("low").paused
    browser.click("[aria-label='Resume low']")
    told(browser, "low goes on")
    browser.click("[aria-label='Delete low']")
    browser.wait_for_text("3 jobs in it are gone", "#dialog")
    browser.click("#dialog-yes")
    told(browser, "low is deleted, with 3 jobs")
    browser.wait_for_text("There is no queue yet.")


def test_schedules_are_paused_resumed_and_deleted(browser, serve, queue):
    """On their page, with the next ticks and the last."""
    testing.tick(queue, registry)
    browser.open(f"{serve()}#/schedules")
    browser.click_text("tbody th a", "daily")
    browser.wait_for_text("It has not ticked yet.")
    assert len(browser.texts(".times li")) == 10
    browser.click("[aria-label='Pause daily']")
    told(browser, "daily is paused")
    browser.click("[aria-label='Resume daily']")
    told(browser, "daily goes on")
    browser.click("[aria-label='Delete daily']")
    browser.click("#dialog-yes")
    told(browser, "daily is deleted")
    browser.wait_for_text("There is no schedule.")


@contextmanager
def running(queue, type, name="host:1:abc"):
    """Have a worker with two children, of which one runs a job of this type and the other nothing; gives the job."""
    info = queue.enqueue(Task(type))
    claims, board = Claims(queue._database, lambda _: True, ["default"], time.time), Board.create(queue.path, slots=2, threads=1)
    try:
        claims.register(name, board.path, {"default": 3}, 2, 1)
        with claims.transaction():
            number = claims.claim("default", [type], 1)[0][0]
        for child in range(2):
            board.slot(child).clear()
            board.slot(child).occupy(2**22 + child)
        cell = board.slot(0).cells[0]
        board.words[cell.index_at], board.words[cell.number_at] = 1, number
        board.doubles[cell.began_at] = time.monotonic() - 42
        board.note_death(77, 3)
        yield info
    finally:
        board.remove()
        claims.close()


IN_ITS_CELL = """
const bar = document.querySelector('[role=progressbar]');
const [inner, outer] = [bar, bar.closest('td, dd')].map((e) => e.getBoundingClientRect());
return inner.width > 20 && inner.left >= outer.left && inner.right <= outer.right && bar.getAttribute('aria-valuenow');
"""


def test_what_runs_is_shown_with_its_progress_and_can_be_cancelled(browser, serve, queue, sql):
    """On the overview, among the jobs, with the child of the worker that runs it, and on its own page."""
    with running(queue, "t") as info:
        sql("UPDATE fireforget_job SET progress = 0.4, progress_note = :note", {"note": "page 4 of 10 " + "and more " * 12})
        browser.open(serve())
        browser.wait_for_text("page 4 of 10")
        for page in ("#/", "#/jobs?state=active", "#/jobs", "#/workers", f"#/job?id={info.id}"):
            browser.go(page)
            assert "page 4 of 10" in browser.text()
            assert browser.run(IN_ITS_CELL) == "40", page
        browser.click("#job-cancel")
        browser.click("#dialog-yes")
        told(browser, "asked to end")


def test_a_worker_is_shown_with_its_children_what_they_run_and_their_deaths(browser, serve, queue):
    """For how long, with how much memory; what no child has begun is folded away."""
    with running(queue, "t") as info:
        browser.open(f"{serve()}#/workers")
        browser.wait_for_text("4194304")
        busy, idle = browser.texts(".card > .scroll tbody tr")
        assert info.id in busy and re.search(r"\b4[2-9] s", busy) and "idle" in idle  # a browser takes its time
        assert "Children that died" in browser.text() and "77, exit code 3" in browser.text()
        assert "Taken, and not begun yet: 0" in browser.text()


def test_only_the_token_opens_it(browser, serve, queue):
    """Typed once, kept in a cookie that no script can read; forgotten by "Sign out"."""
    queue.enqueue(Task("t"), queue="guarded")
    url = serve(token="open sesame")
    browser.open(url)
    browser.type("#token", "wrong")
    browser.click("#sign-in")
    told(browser, "this is not the token")
    browser.type("#token", "open sesame")
    browser.press(ENTER)
    browser.wait_for_text("guarded")
    assert "sesame" not in browser.run("return document.cookie + JSON.stringify(localStorage)")
    browser.open(f"{url}#/queues")
    browser.wait_for_text("guarded")
    browser.click_text("#status button", "Sign out")
    browser.element("#token")


def test_a_read_only_dashboard_offers_nothing_to_change(browser, serve, queue):
    """And says that it only shows."""
    info = queue.enqueue(Task("t"))
    browser.open(serve(read_only=True))
    browser.wait_for_text("Nothing runs.")
    for page in ("#/queues", "#/jobs?state=pending", f"#/job?id={info.id}"):
        browser.go(page)
        assert browser.texts("main button") in ([], ["Filter"])
    assert "read only" in browser.text("header").lower()


def test_it_is_used_with_keys_alone(browser, serve, queue):
    """Numbers lead to the views, the slash to the field; focus goes where one looks, and nothing takes it away."""
    info = queue.enqueue(Task("t"), process_in=60)
    browser.open(serve())
    browser.wait_for_text("Queues")
    browser.press("3")
    browser.wait_for_text(info.id)
    browser.wait(lambda: browser.run("return document.activeElement.id") == "main", "the focus is on the view")
    browser.press("/")
    assert browser.run("return document.activeElement.id") == "find-id"
    browser.type("#find-id", info.id)
    browser.press(ENTER)
    browser.element("#job-run")
    browser.run("document.getElementById('job-archive').focus()")
    seen = browser.run("return document.querySelectorAll('dl.facts dd').length")
    Inspector(queue).update(info.id, priority=9)
    browser.wait_for_text("9")
    assert seen and browser.run("return document.activeElement.id") == "job-archive"
    browser.press(ENTER)
    told(browser, "is archived")


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, serve, queue, sql):
    """Wide tables move inside their own frame; of a row of links the current one is in sight."""
    failed = queue.enqueue(fails.task(text="x" * 3000), task_id="y" * 400)
    drain(queue)
    testing.tick(queue, registry)
    queue.enqueue(Task("z" * 400), queue="q" * 300, group="g" * 300)
    sql("UPDATE fireforget_job SET headers = :headers", {"headers": json.dumps({"h" * 60: "v" * 300})})
    pages = (
        "#/queues",
        "#/workers",
        "#/jobs",
        "#/jobs?state=archived",
        f"#/job?id={failed.id}",
        "#/schedules",
        "#/groups",
        "#/schedule?name=daily",
        "#/",
    )
    try:
        browser.resize(390, 800)
        browser.open(serve())
        browser.wait_for_text("Nothing runs.")
        for page in pages:
            browser.go(page)
            assert browser.run("return document.documentElement.scrollWidth - innerWidth") <= 0, page
        browser.go("#/jobs?state=completed")
        assert browser.run("return document.querySelector('.tabs [aria-current]').getBoundingClientRect().right <= innerWidth")
    finally:
        browser.resize(1280, 900)


NAMELESS = """
const words = (e) => (e.getAttribute('aria-label') || e.innerText || e.title || '').trim();
const isNamed = (e) => words(e) || e.labels?.length || e.alt !== undefined;
const isNameless = (e) => e.tagName === 'TABLE' ? !e.caption : e.tagName === 'svg' ? !e.getAttribute('aria-label') : !isNamed(e);
const all = document.querySelectorAll('button, a[href], input, select, svg, img, table');
return [...all].filter(isNameless).map((e) => e.outerHTML);
"""
FAINT = """
const channel = (v) => v <= 10 ? v / 255 / 12.92 : ((v / 255 + .055) / 1.055) ** 2.4;
const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number).map(channel);
const light = (colour) => { const [r, g, b] = numbers(colour); return .2126 * r + .7152 * g + .0722 * b };
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (colour.startsWith('rgb(')) return colour;
  }
};
const ratio = (e) => {
  const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x);
  return (a + .05) / (b + .05);
};
const isText = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
return [...document.querySelectorAll('main *, header *')]
  .filter((e) => isText(e) && e.offsetParent && getComputedStyle(e).clipPath === 'none' && !e.disabled && ratio(e) < 4.5)
  .map((e) => `${e.className} ${e.textContent} ${getComputedStyle(e).color} on ${ground(e)}`);
"""


def test_everything_has_a_name_for_those_who_do_not_see_it(browser, serve, queue):
    """Buttons, links, fields, pictures and tables; and text stands out from its ground, in light and in dark."""
    queue.enqueue(fails.task(text="no"))
    drain(queue)
    queue.enqueue_many([Task("t", n) for n in range(3)])
    testing.tick(queue, registry)
    browser.open(serve())
    browser.wait_for_text("Nothing runs.")
    for theme in ("Light", "Dark"):
        browser.click("#theme")
        assert browser.text("#theme") == theme
        for page in ("#/jobs", "#/schedules", "#/workers", "#/"):
            browser.go(page)
            assert browser.run(NAMELESS) == [], page
            assert browser.run(FAINT) == [], (theme, page)
            assert browser.run("return document.querySelectorAll('h1, main, nav').length") >= 3
