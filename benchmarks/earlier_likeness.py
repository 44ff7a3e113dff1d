"""Reader of the document about what search in vectors is measured with: are the drawn vectors like embeddings?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.earlier_values import Document
from benchmarks.part import Column, Figure, Measure, Part, Plot, Series, Table


def likeness(values: Document, taken: str) -> Part:
    """Read `results/recall_likeness.json`: what the vectors of the recall benchmark have in common with embeddings."""
    ways = {"embeddings": "embeddings", "drawn": "drawn", "normal_residuals": "with normal residuals"}

    def about(pair: Sequence[float]) -> Measure:
        value, error = pair
        return Measure(value=value, low=round(value - 2 * error, 4), high=round(value + 2 * error, 4))

    return Part(
        name="likeness",
        title="What search in vectors is measured with",
        question="Are the vectors that are searched like embeddings, and no easier to search?",
        command="python -m benchmarks.likeness",
        taken=taken,
        tables=(
            Table(
                title=f"{values['rounds']} rounds at equal counts",
                columns=(Column(name="figure"), *(Column(name=told) for told in ways.values())),
                rows=tuple((name, *(about(values[way][name]) for way in ways)) for name in values["embeddings"]),
                note="Intervals are twice the standard error of the rounds.",
            ),
        ),
        plots=(_likeness_plot(values, ways),),
        figures={
            f"likeness.{name}".replace(": ", ".").replace(", ", "_").replace(" ", "_"): Figure(
                measure=about(pair), unit=""
            )
            for name, pair in values["drawn"].items()
        },
    )


def _likeness_plot(values: Document, ways: Mapping[str, str]) -> Plot:
    """Draw the recall of sentences in graphs over the embeddings and over what is drawn to be like them."""
    start = "text: recall at "
    breadths = [name for name in values["embeddings"] if name.startswith(start)]

    def point(name: str, pair: Sequence[float]) -> tuple[float, float, float, float]:
        value, error = (100 * one for one in pair)
        return float(name.removeprefix(start)), value, value - 2 * error, value + 2 * error

    return Plot(
        title="Sentences: recall of a graph by breadth",
        kind="line",
        x=Column(name="breadth", unit="candidates"),
        y=Column(name="recall", unit="%", better="higher"),
        log_x=True,
        series=tuple(
            Series(name=told, points=tuple(point(name, values[way][name]) for name in breadths))
            for way, told in ways.items()
        ),
        note="Bars are twice the standard error of the rounds.",
    )


LIKENESS: Mapping[str, Callable[[Any, str], Part]] = {"benchmarks/results/recall_likeness.json": likeness}
