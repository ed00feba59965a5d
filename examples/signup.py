"""A job of steps: a sign-up that makes an account, charges a card and sends a welcome.

Each step's result is stored. When the mail server is down, the retry sends the mail, and does not charge the card again.

    python -m examples.signup
"""

import os
import sys
import tempfile

from fireforget import Inspector, Registry, SqliteQueue, Worker, current_job

registry = Registry(retry_delay=0)


@registry.task("user:signup", retention=60)
def sign_up(email: str) -> str:
    """Run the three steps; a retry goes on after the last one that is stored."""
    job = current_job()
    account = job.step("account", make_account, email)
    receipt = job.step("charge", charge, account, cents=900)
    job.step("welcome", send_welcome, email, receipt)
    return account


def make_account(email: str) -> str:
    """Make an account, and return its number."""
    print(f"made an account for {email}", flush=True)
    return "A-1"


def charge(account: str, cents: int) -> str:
    """Charge a card."""
    print(f"charged {cents} cents to {account}", flush=True)
    return "R-1"


def send_welcome(email: str, receipt: str) -> None:
    """Send a mail; in the first run the server is down."""
    if current_job().retry_count == 0:
        raise ConnectionError("the mail server is down")
    print(f"sent a welcome to {email}, with receipt {receipt}", flush=True)


def main(path: str) -> None:
    """Run one sign-up, and print what is stored of it."""
    with SqliteQueue(path) as queue, Worker(registry, queue, concurrency=1):
        done = queue.wait(queue.enqueue(sign_up.task("ada@example.com")).id, timeout=30)
        steps = ", ".join(step.name for step in Inspector(queue).steps(done.id))
    print(f"{done.result} is signed up after {done.retry_count} retry; steps: {steps}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1] if len(sys.argv) > 1 else os.path.join(folder, "signup.db"))
