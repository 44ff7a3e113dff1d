"""What a benchmark says, in one shape for the report, for comparisons and for figures that are quoted.

    run(options) -> Part (question, tables, plots, figures) -> results.json -> report.html, report.md

Every number carries its unit, and its interval where it was taken more than once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

SCHEMA_VERSION = 1
"""Of results.json; one with another version is not compared."""

Better = Literal["higher", "lower", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What all parts are told."""

    quick: bool = False
    """A shorter run, for a look; its intervals are wider."""

    seed: int = 0
    work: Path = Path()
    """A folder for what a part makes on its way, such as models of random weights; kept between runs."""

    bundle: Path | None = None
    """None is the bundle that ships."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """The median of several rounds, and an interval for it; of a single one there is no interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table or an axis of a plot."""

    name: str
    unit: str = ""
    better: Better = ""

    @property
    def title(self) -> str:
        """Name and unit."""
        return f"{self.name}, {self.unit}" if self.unit else self.name


Cell = str | int | float | Measure | None
"""None is what was not measured; a text says why not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under columns."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.rows}
        if widths - {len(self.columns)}:
            raise ValueError(f"table {self.title!r} has {len(self.columns)} columns and rows of {sorted(widths)} cells")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a plot, or the bars of one colour: x, y, and the interval of y where there is one."""

    name: str
    points: tuple[tuple[float, float, float | None, float | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A picture of numbers."""

    title: str
    kind: Literal["line", "bar"]
    x: Column
    y: Column
    series: tuple[Series, ...]
    x_names: tuple[str, ...] = ()
    """What stands under groups of bars; x of their points counts them from 0."""

    log_x: bool = False
    log_y: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number with a name that stays, to be compared and quoted."""

    measure: Measure
    unit: str
    better: Better = ""
    headline: str = ""
    """What it is in a few words, for the summary of the report; empty is not in the summary."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The answer to one question."""

    name: str
    title: str
    question: str
    command: str
    """That makes this part alone."""

    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    """By dotted names, `latency.text.p50`."""

    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    """What makes its numbers doubtful: a noisy machine, a part that failed."""

    pace_ms: float = 0.0
    """What a fixed piece of work took meanwhile, the median: how fast the machine itself was. 0 where nobody looked."""

    seconds: float = 0.0
    """How long it took."""

    taken: str = ""
    """When and on what it was taken, where that is not the machine card of the report."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Part":
        """Read what `to_dict` returned. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        plain = dict(values)
        plain["tables"] = tuple(_table(one) for one in values["tables"])
        plain["plots"] = tuple(_plot(one) for one in values["plots"])
        plain["figures"] = {
            name: Figure(**{**one, "measure": Measure(**one["measure"])}) for name, one in values["figures"].items()
        }
        plain["notes"], plain["flags"] = tuple(values["notes"]), tuple(values["flags"])
        return cls(**plain)


def _table(values: Mapping[str, Any]) -> Table:
    rows = tuple(tuple(Measure(**cell) if isinstance(cell, dict) else cell for cell in row) for row in values["rows"])
    return Table(title=values["title"], columns=_columns(values["columns"]), rows=rows, note=values["note"])


def _plot(values: Mapping[str, Any]) -> Plot:
    series = tuple(
        Series(name=one["name"], points=tuple((x, y, low, high) for x, y, low, high in one["points"]))
        for one in values["series"]
    )
    x, y = _columns([values["x"], values["y"]])
    plain = {**values, "x": x, "y": y, "series": series, "x_names": tuple(values["x_names"])}
    return Plot(**plain)


def _columns(values: Sequence[Mapping[str, Any]]) -> tuple[Column, ...]:
    return tuple(Column(**one) for one in values)
