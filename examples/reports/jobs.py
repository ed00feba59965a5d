"""The whole application: `python -m fireforget.worker examples.reports.jobs:registry`.

Sales are rows of a table in the queue's own file. Every night the day before is summed up, and each minute a sale comes in, so
that there is something to see. A report may be made again without harm: it replaces the one of the same day.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta

from fireforget import Registry, current_job

ZONE = "Europe/Berlin"
registry = Registry()


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """Open the application's tables, in one transaction."""
    path = os.environ.get("FIREFORGET_DB", "fireforget.db")
    with closing(sqlite3.connect(path, timeout=5)) as connection, connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sale (job TEXT PRIMARY KEY, day TEXT NOT NULL, cents INTEGER NOT NULL)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS report (day TEXT PRIMARY KEY, sales INTEGER NOT NULL, cents INTEGER NOT NULL)"
        )
        yield connection


def day_of(tick: datetime) -> dict[str, str]:
    """Return the day of a tick, as the shop's clock shows it."""
    return {"day": tick.date().isoformat()}


def day_before(tick: datetime) -> dict[str, str]:
    """Return the day before a tick. Computed at the tick: a day that stood in the schedule would be the same every night."""
    return {"day": (tick - timedelta(days=1)).date().isoformat()}


@registry.periodic("* * * * *", timezone=ZONE, payload=day_of, missed="skip")
@registry.task("sale:record", max_retry=3)
def record_sale(day: str, cents: int = 1999) -> None:
    """Note a sale, once for each job: a job may run again."""
    with database() as connection:
        connection.execute("INSERT OR IGNORE INTO sale VALUES (?, ?, ?)", (current_job().id, day, cents))


@registry.periodic("0 3 * * *", timezone=ZONE, payload=day_before, missed="catch_up")
@registry.task("report:daily", queue="low", max_retry=3, timeout=60, retention=timedelta(days=7))
def daily_report(day: str) -> dict[str, object]:
    """Sum up one day. A night without a worker is caught up: each day has its report."""
    with database() as connection:
        sales, cents = connection.execute("SELECT count(*), coalesce(sum(cents), 0) FROM sale WHERE day = ?", (day,)).fetchone()
        connection.execute("INSERT OR REPLACE INTO report VALUES (?, ?, ?)", (day, sales, cents))
    return {"day": day, "sales": sales, "cents": cents}


@registry.periodic("@weekly", timezone=ZONE)
def forget_old_sales(keep_days: int = 400) -> int:
    """Delete what nobody asks for any more; late or twice makes no difference, so a missed one is run once."""
    oldest = (datetime.now().astimezone() - timedelta(days=keep_days)).date().isoformat()
    with database() as connection:
        return connection.execute("DELETE FROM sale WHERE day < ?", (oldest,)).rowcount
