"""A scale of a plot: where a value lies, and which round values are written beside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Values from `low` to `high`, laid out from `start` to `end` in units of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"an axis from {self.low} to {self.high} has no length")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic axis cannot begin at {self.low}")

    def at(self, value: float) -> float:
        """Return the place of a value; one outside of the axis lies at its edge."""
        value = min(max(value, self.low), self.high)
        low, high, here = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (here - low) / (high - low)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round values within the axis, in order."""
        return _decades(self.low, self.high, most) if self.log else _steps(self.low, self.high, most)


def labels(values: Sequence[float]) -> list[str]:
    """Return numbers as text, each with as few decimals as say it; large ones in groups of three digits."""
    return [next(f"{v:,.{d}f}" for d in range(13) if d == 12 or abs(v - round(v, d)) <= 1e-6 * abs(v)) for v in values]


def linear_range(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    """Return round limits around values.

    They begin at zero where that is asked for or near, and where the values hardly differ, so that noise does not look like
    change.
    """
    low, high = min(values), max(values)
    if from_zero or 0 <= low < 0.7 * high or 0 <= low > 0.95 * high:
        low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 2, high + abs(high) / 2)
    step = _step(low, high, 6)
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def log_range(values: Sequence[float]) -> tuple[float, float]:
    """Return limits of 1, 2 or 5 times a power of ten around positive values."""
    low = max(mark for mark in _marks(min(values)) if mark <= min(values) * (1 + 1e-9))
    high = min(mark for mark in _marks(max(values)) if mark >= max(values) * (1 - 1e-9))
    return (low, high) if low < high else (low / 2, high * 2)


def _marks(value: float) -> list[float]:
    power = math.floor(math.log10(value))
    return [times * 10.0**exponent for exponent in (power - 1, power, power + 1) for times in (1, 2, 5)]


def _step(low: float, high: float, most: int) -> float:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= rough * (1 - 1e-9))


def _steps(low: float, high: float, most: int) -> list[float]:
    step = _step(low, high, most)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _decades(low: float, high: float, most: int) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for times in ((1, 2, 5), (1, 3), (1,)):
        found = [t * 10.0**power for power in range(first, last + 1) for t in times]
        found = [value for value in found if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found
    return found[:: math.ceil(len(found) / most)]
