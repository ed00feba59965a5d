"""What a worker does for the shop: it confirms orders and ships what is paid."""

import sqlite3
from contextlib import closing

from fireforget import Registry, current_job

registry = Registry()


@registry.task("order:confirm", retention=3600)
def confirm(order_id: int, email: str) -> str:
    return f"{email}: order {order_id} has come in"


@registry.task("order:ship", retention=3600)
def ship(order_id: int) -> str:
    return f"order {order_id} is on its way, says job {current_job().id}"


def connect(path: str) -> sqlite3.Connection:
    """Open the shop's file as a program beside a queue should; transactions begin where they are written."""
    connection = sqlite3.connect(path, timeout=5, isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # workers and producers do that, one at a time
    return connection


def create_tables(path: str) -> None:
    """Make the shop's table, and the trigger that has paid orders shipped, whoever writes that they are paid."""
    with closing(connect(path)) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS orders (id INTEGER PRIMARY KEY, email TEXT NOT NULL, paid INTEGER)")
        connection.execute(
            """
            CREATE TRIGGER IF NOT EXISTS order_paid AFTER UPDATE OF paid ON orders
            WHEN NEW.paid AND NOT coalesce(OLD.paid, 0)
            BEGIN
                INSERT INTO fireforget_enqueue (type, payload, task_id, retention)
                VALUES ('order:ship', '{"order_id":' || NEW.id || '}', 'ship-' || NEW.id, 3600);
            END
            """
        )
