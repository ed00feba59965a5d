"""RQ's application: a function that does nothing."""


def noop(n: int = 0) -> None:
    """Do nothing."""
