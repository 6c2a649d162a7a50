"""Energy per item on boards that measure their own power: the INA3221 sensors of a Jetson.

A rail is a channel of a sensor: its voltage in millivolts and its current in milliamperes, as the kernel's driver
gives them under ``/sys/bus/i2c/drivers/ina3221``; older kernels give the power in milliwatts.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tbps_infer.benchmarks.measure import Arm, Clock

__all__ = ["Energy", "Rail", "find_rails", "measure_energy"]

_DRIVERS = "sys/bus/i2c/drivers"
_WHOLE_BOARD = ("VDD_IN", "POM_5V_IN")
"""Rails that all others hang on: where one is there it is the board's power, and adding others counts twice."""

_INTERVAL_S = 0.02


@dataclass(frozen=True)
class Rail:
    """One rail's name, and the files whose product or value is its power."""

    name: str
    files: tuple[Path, ...]

    def watts(self) -> float:
        """The power now."""
        values = [int(file.read_text()) for file in self.files]
        return values[0] * 1e-3 if len(values) == 1 else values[0] * values[1] * 1e-6


@dataclass(frozen=True)
class Energy:
    """What a burst of runs took.

    Attributes:
        joules_per_item: Power of the rails, integrated over the burst by the trapezoidal rule.
        watts: Its mean.
        rails: Which ones were added up.
        runs: In the burst.
        readings: Of the sensors.
    """

    joules_per_item: float
    watts: float
    rails: tuple[str, ...]
    runs: int
    readings: int


def find_rails(root: Path = Path("/")) -> list[Rail]:
    """The rails whose powers add up to the board's; empty where there are no such sensors.

    Args:
        root: Where ``/sys`` is.
    """
    rails = sorted(_all_rails(root / _DRIVERS), key=lambda rail: rail.name)
    whole = [rail for rail in rails if rail.name in _WHOLE_BOARD]
    return whole[:1] or rails


def measure_energy(
    arm: Arm,
    rails: Sequence[Rail],
    clock: Clock,
    seconds: float,
    watch: Callable[..., threading.Thread] | None = None,
) -> Energy:
    """Run an arm again and again while a thread reads the sensors.

    Args:
        arm: Warmed up.
        rails: At least one.
        clock: Where time comes from.
        seconds: How long at least.
        watch: Makes the thread, as `threading.Thread` does.
    """
    readings: list[tuple[float, float]] = []
    stop = threading.Event()

    def read() -> None:
        readings.append((clock.now(), sum(rail.watts() for rail in rails)))

    def keep_reading() -> None:
        while not stop.wait(_INTERVAL_S):
            read()

    thread = (watch or threading.Thread)(target=keep_reading, daemon=True)
    read()
    thread.start()
    runs, started = 0, clock.now()
    while runs == 0 or clock.now() - started < seconds:
        arm.run()
        runs += 1
    ended = clock.now()
    stop.set()
    thread.join()
    read()
    pairs = itertools.pairwise(readings)
    joules = sum((after - before) * (first + second) / 2 for (before, first), (after, second) in pairs)
    watts = joules / (readings[-1][0] - readings[0][0])
    return Energy(
        watts * (ended - started) / (runs * arm.items), watts, tuple(r.name for r in rails), runs, len(readings)
    )


def _all_rails(drivers: Path) -> Iterator[Rail]:
    for label in drivers.glob("ina3221*/*/hwmon/hwmon*/in*_label"):
        number = label.name.removeprefix("in").removesuffix("_label")
        files = (label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input"))
        name = label.read_text().strip()
        if all(file.is_file() for file in files) and name not in ("", "NC"):
            yield Rail(name, files)
    for label in drivers.glob("ina3221x/*/iio:device*/rail_name_*"):
        power = label.with_name(f"in_power{label.name.rpartition('_')[2]}_input")
        if power.is_file():
            yield Rail(label.read_text().strip(), (power,))
