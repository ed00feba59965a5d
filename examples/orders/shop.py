"""Places orders and pays them: `python -m examples.orders.shop --db shop.db`.

An order that is refused takes its job with it; a payment has its order shipped, by a trigger.
"""

import argparse
import sqlite3
from contextlib import closing, contextmanager

from examples.orders.jobs import confirm, connect, create_tables
from fireforget import SqliteQueue


class Refused(Exception):
    """The shop does not take this order."""


@contextmanager
def transaction(connection: sqlite3.Connection):
    """Begin with the write lock, commit at the end, roll back when the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def place_order(connection: sqlite3.Connection, queue: SqliteQueue, email: str) -> int:
    """Store an order and the job that confirms it, both or neither; return the order's number."""
    with transaction(connection):
        number = connection.execute("INSERT INTO orders (email) VALUES (?)", (email,)).lastrowid
        queue.enqueue(confirm.task(order_id=number, email=email), task_id=f"confirm-{number}", connection=connection)
        if "@" not in email:
            raise Refused(f"{email} is no address")
    return number


def pay(connection: sqlite3.Connection, number: int) -> None:
    """Write down that an order is paid. Shipping it is not this function's business, nor of any other program that does it."""
    with transaction(connection):
        connection.execute("UPDATE orders SET paid = 1 WHERE id = ?", (number,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--db", default="shop.db")
    path = parser.parse_args().db
    with SqliteQueue(path) as queue, closing(connect(queue.path)) as connection:
        create_tables(path)
        for email in ("ada@example.com", "nobody", "bob@example.com"):
            try:
                print(f"order {place_order(connection, queue, email)} of {email}")
            except Refused as refusal:
                print(f"refused: {refusal}")
        pay(connection, 1)


if __name__ == "__main__":
    main()
