"""Numbers of earlier documents, most of which have no interval, as figures and points."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.part import Better, Figure, Measure

Document = Mapping[str, Any]


def bars(values: Sequence[float]) -> tuple[tuple[float, float, None, None], ...]:
    """Return the points of bars, one a group, in order."""
    return tuple((float(place), value, None, None) for place, value in enumerate(values))


def span(middle: float, values: Sequence[float]) -> Measure:
    """Return a median with the least and the greatest of its few rounds."""
    return Measure(value=middle, low=min(values), high=max(values))


def figure(value: float, unit: str, better: Better, headline: str = "") -> Figure:
    """Return a figure that was taken once."""
    return Figure(measure=Measure(value=value), unit=unit, better=better, headline=headline)
