"""Reader of the model card of the bundle that ships: retrieval and findings, as `mcr-infer evaluate` printed them."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.part import Column, Figure, Measure, Part, Plot, Series, Table
from mcr_infer.phantom.findings import KINDS

CARD = "mcr_infer/bundles/phantom/MODEL_CARD.md"

QUOTED = ("diagonal", "finding sets")
"""Protocols that are shown; the others say the same where every phantom is a patient and every report another."""

_FIGURE = re.compile(r"(?P<value>\d+(?:\.\d+)?)(?: \[(?P<low>[\d.]+), (?P<high>[\d.]+)\])?(?: \((?P<chance>[\d.]+)\))?")
_GOOD = 0.96
"""AUROC from which a kind of finding is called found."""


def card(text: str, taken: str) -> Part:
    """Read the model card; raises `KeyError` where it lacks a table."""
    retrieval, findings = table_of(text, "protocol"), table_of(text, "finding")
    kinds = [row for row in findings[1:] if row[0] in KINDS]
    auroc = {row[0]: _measure(row[3]) for row in kinds}
    return Part(
        name="card",
        title="The bundle that ships",
        question="How well does the bundle that ships retrieve among 1,000 phantoms that it never saw?",
        command="mcr-infer demo heldout --count 1000 --seed 100000 && mcr-infer evaluate heldout/truth.csv",
        taken=taken,
        tables=(
            Table(
                title="Retrieval",
                columns=(
                    Column(name="protocol"),
                    Column(name="direction"),
                    *(Column(name=f"R@{k}", unit="%", better="higher") for k in (1, 5, 10)),
                    *(Column(name=f"R@{k} by chance", unit="%") for k in (1, 10)),
                ),
                rows=tuple(
                    (row[0], row[1], *map(_measure, row[3:6]), _chance(row[3]), _chance(row[5]))
                    for row in shown(retrieval)
                ),
                note="Ties count against the model; intervals of 95 % are bootstrapped by patient.",
            ),
            Table(
                title="Findings",
                columns=(
                    Column(name="asked for"),
                    Column(name="share that shows it", unit="%"),
                    Column(name="AUROC", better="higher"),
                    Column(name="precision@10", unit="%", better="higher"),
                    Column(name="average precision", unit="%", better="higher"),
                ),
                rows=tuple((row[0], *map(_measure, (row[2], row[3], row[6], row[7]))) for row in findings[1:]),
            ),
        ),
        plots=(
            Plot(
                title="AUROC by finding",
                kind="bar",
                x=Column(name="finding"),
                y=Column(name="AUROC", better="higher"),
                x_names=tuple(auroc),
                series=(
                    Series(
                        name="AUROC",
                        points=tuple(
                            (float(place), one.value, one.low, one.high) for place, one in enumerate(auroc.values())
                        ),
                    ),
                ),
            ),
        ),
        figures={
            **_retrieval_figures(retrieval),
            **{_name("card.auroc", kind): Figure(measure=one, unit="", better="higher") for kind, one in auroc.items()},
            "card.kinds": Figure(measure=Measure(value=len(auroc)), unit="kinds"),
            "card.kinds_found": Figure(
                measure=Measure(value=sum(one.value >= _GOOD for one in auroc.values())), unit="kinds", better="higher"
            ),
            "card.kinds_found.least_auroc": Figure(measure=Measure(value=_GOOD), unit=""),
        },
    )


def shown(retrieval: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return the rows of the protocols that are shown."""
    return [list(row) for row in retrieval[1:] if row[0].startswith(QUOTED)]


def table_of(text: str, first: str) -> list[list[str]]:
    """Return the table of a Markdown text whose first head is `first`: its heads and its rows. Raises `KeyError`."""
    found: list[list[str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if found and not cells:
            return found
        if cells and (found or cells[0] == first) and not line.startswith("|---"):
            found.append(cells)
    if not found:
        raise KeyError(first)
    return found


def _retrieval_figures(retrieval: Sequence[Sequence[str]]) -> dict[str, Figure]:
    figures = {}
    for row in shown(retrieval):
        protocol, way = row[0].partition(" (")[0], row[1].replace("→", "to")
        for k, cell in zip((1, 5, 10), row[3:6], strict=True):
            headline = f"of 1,000 unseen phantoms: a match of the same findings comes first, {row[1]}"
            figures[_name("card", protocol, way, f"r{k}")] = Figure(
                measure=_measure(cell), unit="%", better="higher",
                headline=headline if (protocol, k) == ("finding sets", 1) else "",
            )  # fmt: skip
    return figures


def _measure(cell: str) -> Measure:
    found = _FIGURE.match(cell)
    if found is None:
        raise KeyError(cell)
    ends = found["low"], found["high"]
    low, high = (None, None) if None in ends else map(float, ends)
    return Measure(value=float(found["value"]), low=low, high=high)


def _chance(cell: str) -> float | None:
    found = _FIGURE.match(cell)
    return None if found is None or found["chance"] is None else float(found["chance"])


def _name(*parts: str) -> str:
    return ".".join(part.replace(" ", "_") for part in parts)


CARDS: Mapping[str, Callable[[Any, str], Part]] = {CARD: card}
