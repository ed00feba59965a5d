"""Dramatiq's application on Redis; its default middleware, without the metrics server."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(port=int(os.environ["BENCH_REDIS_PORT"]))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(n: int = 0) -> None:
    """Do nothing."""
