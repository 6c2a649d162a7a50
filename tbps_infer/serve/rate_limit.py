"""How often an address may ask: a bucket of tokens that fills over time."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimit"]

_MOST_CLIENTS = 10_000


class RateLimit:
    """A token bucket per client.

    Args:
        rate: Requests per second over time; 0 lets all pass.
        burst: Requests at once.
        clock: Seconds, for tests.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = float(max(1, burst))
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def wait_s(self, client: str, *, take: bool = True) -> float:
        """Take a token, or only look for one: 0.0 when there was one, else the seconds until there is."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        with self._lock:
            tokens, since = self._buckets.pop(client, (self._burst, now))
            tokens = min(self._burst, tokens + (now - since) * self._rate)
            granted = tokens >= 1
            self._buckets[client] = (tokens - 1 if granted and take else tokens, now)
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - tokens) / self._rate
