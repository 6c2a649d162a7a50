"""A clock for tests of what measures and waits."""

from __future__ import annotations

__all__ = ["FakeClock"]


class FakeClock:
    """Stands still but for arms and pauses."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept = 0.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        self.slept += seconds
