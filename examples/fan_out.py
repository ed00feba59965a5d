"""One event, three handlers: each has its own task, queue and retries, and what one raises is no concern of the others.

python -m examples.fan_out
"""

import argparse
import tempfile
from pathlib import Path

from fireforget import Registry, SqliteQueue, Worker, current_job, fan_out

registry = Registry(retry_delay=0)


@registry.subscribe("user:created", queue="critical", max_retry=5)
def send_welcome(user_id: int, address: str) -> None:
    print(f"welcome: to {address}", flush=True)


@registry.subscribe("user:created", name="search", queue="low")
def add_to_index(user_id: int, address: str) -> None:
    if current_job().retry_count == 0:
        raise ConnectionError("the index is being rebuilt")
    print(f"search: user {user_id} at the second try", flush=True)


@registry.subscribe("user:created")
@registry.subscribe("user:deleted")
def clear_cache(user_id: int, address: str = "") -> None:
    print(f"cache: user {user_id} after {current_job().type.split(':')[2]}", flush=True)


def sign_up(queue: SqliteQueue, user_id: int, address: str) -> None:
    """Tell whoever has subscribed; this code does not know who that is."""
    stored = fan_out(queue, "user:created", {"user_id": user_id, "address": address}, task_id=f"signup-{user_id}")
    print(f"told {len(stored)} handlers", flush=True)


def main() -> None:
    """Announce two events and run what follows from them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--db", type=Path, help="the database (default: a temporary one)")
    given = parser.parse_args().db
    with tempfile.TemporaryDirectory() as folder, SqliteQueue(given or Path(folder) / "jobs.db") as queue:
        sign_up(queue, 7, "ada@example.com")
        fan_out(queue, "user:deleted", {"user_id": 3})
        Worker(registry, queue, concurrency=1, burst=True).run()


if __name__ == "__main__":
    main()
