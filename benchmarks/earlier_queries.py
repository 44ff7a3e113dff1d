"""Readers of documents about queries: a second look, and questions of several parts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.earlier_values import Document, figure
from benchmarks.part import Column, Figure, Measure, Part, Plot, Series, Table

_ASKED = (
    ("reports", "r1", "report, R@1"),
    ("reports", "p10", "report, precision@10"),
    ("short sentences", "r1", "short sentence, R@1"),
    ("short sentences", "p10", "short sentence, precision@10"),
    ("hand-written sentences", "p10", "by hand, precision@10"),
    ("radiographs, for reports", "r1", "report for a radiograph, R@1"),
)
_PAIRS = {"presence": "there or not", "denial": "denied or not", "side": "left or right", "size": "small or large"}


def rerank(values: Document, taken: str) -> Part:
    """Read `results/rerank.json`."""
    ways, gain = values["ways"], values["gain"]
    looks = ("cosine", "second look")
    return Part(
        name="rerank",
        title="A second look",
        question="What does looking again, words against patches, bring and cost?",
        command="python -m benchmarks.rerank",
        taken=taken,
        tables=(
            Table(
                title=f"Retrieval among {values['phantoms']:,} phantoms",
                columns=(Column(name="way"), *(Column(name=told, unit="%", better="higher") for _, _, told in _ASKED)),
                rows=(
                    *((name, *(percent(one[asked][key]) for asked, key, _ in _ASKED)) for name, one in ways.items()),
                    ("gain of the second look, points", *(percent(gain[asked][key]) for asked, key, _ in _ASKED)),
                ),
                note=f"Macro over {values['finding_sets']} finding sets. Intervals: questions drawn again.",
            ),
            Table(
                title="Hard pairs: one phantom twice, with one thing changed",
                columns=(
                    Column(name="way"),
                    *(Column(name=told, unit="%", better="higher") for told in _PAIRS.values()),
                ),
                rows=(
                    *((name, *(percent(one["hard pairs"][key]) for key in _PAIRS)) for name, one in ways.items()),
                    ("gain of the second look, points", *(percent(gain["hard pairs"][key]) for key in _PAIRS)),
                ),
                note="Chance is 50 %.",
            ),
            Table(
                title="What a look costs, one core",
                columns=(Column(name="look"), Column(name="time", unit="ms", better="lower")),
                rows=tuple(values["milliseconds"].items()),
            ),
        ),
        plots=(
            Plot(
                title="Cosine and second look",
                kind="bar",
                x=Column(name="question"),
                y=Column(name="found", unit="%", better="higher"),
                x_names=tuple(told for _, _, told in _ASKED),
                series=tuple(
                    Series(name=look, points=_measures([ways[look][asked][key] for asked, key, _ in _ASKED]))
                    for look in looks
                ),
            ),
        ),
        figures={
            **{
                f"rerank.{asked}.{key}.{name}".replace(" ", "_").replace(",", ""): Figure(
                    measure=percent(ways[look][asked][key]), unit="%", better="higher"
                )
                for asked, key, _ in _ASKED
                for name, look in zip(("cosine", "second"), looks, strict=True)
            },
            **{
                f"rerank.{asked}.{key}.gain".replace(" ", "_").replace(",", ""): Figure(
                    measure=percent(gain[asked][key]),
                    unit="points",
                    better="higher",
                    headline="of R@1 that a second look gains where a report asks"
                    if asked == "reports" and key == "r1"
                    else "",
                )
                for asked, keys in gain.items()
                for key in keys
            },
            **_apart(ways),
            "rerank.kilobytes_per_image": figure(values["bytes_per_image"] / 1000, "kB", "lower"),
            "rerank.milliseconds.small": figure(min(values["milliseconds"].values()), "ms", "lower"),
            "rerank.milliseconds.large": figure(max(values["milliseconds"].values()), "ms", "lower"),
        },
    )


def _apart(ways: Document) -> dict[str, Figure]:
    """Return what the best patch alone loses, how far 8 bits move any figure, and who tells hard pairs apart, in points."""
    cosine, second, alone, fp32 = (
        ways[name] for name in ("cosine", "second look", "best patch alone", "patches in fp32")
    )
    lost = [100 * (cosine[asked][key][0] - alone[asked][key][0]) for asked, key, _ in _ASKED]
    every = [(asked, key) for asked, key, _ in _ASKED] + [("hard pairs", key) for key in _PAIRS]
    moved = max(abs(100 * (second[asked][key][0] - fp32[asked][key][0])) for asked, key in every)
    return {
        "rerank.best_patch_alone.loss.min": figure(min(lost), "points", ""),
        "rerank.best_patch_alone.loss.max": figure(max(lost), "points", ""),
        "rerank.eight_bits.largest_move": figure(moved, "points", "lower"),
        **{
            f"rerank.hard_pairs.{key}.{name}": Figure(
                measure=percent(way["hard pairs"][key]), unit="%", better="higher"
            )
            for key in _PAIRS
            for name, way in (("cosine", cosine), ("second", second))
        },
    }


def rerank_choice(values: Document, taken: str) -> Part:
    """Read `results/rerank_choice.json`."""
    shown = ("reports", "short sentences")
    series = {}
    for row in values["grid"]:
        series.setdefault(row["tau"], []).append((row["late_weight"], 100 * row["mean"], None, None))
    return Part(
        name="rerank-choice",
        title="How the second look was chosen",
        question="Which temperature and weight of the second look find most, on phantoms of other seeds?",
        command="python -m benchmarks.rerank --choose",
        taken=taken,
        tables=(
            Table(
                title=f"{values['phantoms']:,} phantoms of seeds from {values['first_seed']:,} on",
                columns=(
                    Column(name="temperature"),
                    Column(name="weight"),
                    *(
                        Column(name=f"{name}, {key}", unit="%", better="higher")
                        for name in shown
                        for key in ("R@1", "P@10")
                    ),
                    Column(name="mean of the four", unit="%", better="higher"),
                ),
                rows=tuple(
                    (
                        *(f"{row['tau']:g}", f"{row['late_weight']:g}"),
                        *(100 * row[name][key] for name in shown for key in ("r1", "p10")),
                        100 * row["mean"],
                    )
                    for row in values["grid"]
                ),
            ),
        ),
        plots=(
            Plot(
                title="Mean by weight",
                kind="line",
                x=Column(name="weight of the second look"),
                y=Column(name="mean of the four", unit="%", better="higher"),
                series=tuple(
                    Series(name=f"temperature {tau}", points=tuple(sorted(points)))
                    for tau, points in sorted(series.items())
                    if len(points) > 1
                ),
            ),
        ),
        figures={
            "rerank.choice.mean": figure(100 * max(row["mean"] for row in values["grid"]), "%", "higher"),
            "rerank.choice.spread_of_the_middle": figure(_spread(values["grid"]), "points", ""),
        },
    )


def _spread(grid: Sequence[Document]) -> float:
    """Return how far the means of the middle of the grid lie apart, temperatures of 0.07 to 0.14 and weights of 1 to 4."""
    middle = [100 * row["mean"] for row in grid if 0.07 <= row["tau"] <= 0.14 and 1 <= row["late_weight"] <= 4]
    return max(middle) - min(middle)


def combined(values: Document, taken: str) -> Part:
    """Read `results/combined.json`."""
    questions = values["questions"]
    shown = ("query", "query A B", "query --not")
    asked = {name: next(one["ways"][way] for way in shown if way in one["ways"]) for name, one in questions.items()}
    alone = {name: next(iter(one["ways"].values())) for name, one in questions.items()}
    return Part(
        name="combined",
        title="Questions of several parts",
        question="What do several sentences, --not, and radiographs with sentences find?",
        command="python -m benchmarks.combined",
        taken=taken,
        tables=tuple(
            Table(
                title=f"{name[0].upper()}{name[1:]}: {one['questions']:,} questions",
                columns=(
                    Column(name="way"),
                    Column(name="precision@10", unit="%", better="higher"),
                    Column(name="average precision", unit="%", better="higher"),
                ),
                rows=tuple((way, percent(found["p10"]), percent(found["ap"])) for way, found in one["ways"].items()),
            )
            for name, one in questions.items()
        ),
        plots=(
            Plot(
                title="Precision of the first ten",
                kind="bar",
                x=Column(name="question"),
                y=Column(name="precision@10", unit="%", better="higher"),
                x_names=tuple(questions),
                series=(
                    Series(name="its first part alone", points=_measures([one["p10"] for one in alone.values()])),
                    Series(name="mcr-infer query", points=_measures([one["p10"] for one in asked.values()])),
                ),
            ),
        ),
        figures={
            f"combined.{name}.{way}.{key}".replace(" ", "_").replace(",", ""): Figure(
                measure=percent(found[key]), unit="%", better="higher"
            )
            for name, one in questions.items()
            for way, found in one["ways"].items()
            for key in ("p10", "ap")
            if way in (*shown, "A + B")
        }
        | _weights(questions),
        notes=("m is the mean of all reports, o the empty text.",),
    )


def _weights(questions: Document) -> dict[str, Figure]:
    """Return how far the weights of what is not wanted lie apart at most, in points of precision among the first ten."""
    found = [
        [100 * ways[way]["p10"][0] for way in ways if way.startswith("(A - o) - ")]
        for ways in (one["ways"] for one in questions.values())
    ]
    spreads = [max(each) - min(each) for each in found if each]
    return {"combined.weights_of_not.spread": figure(max(spreads), "points", "")} if spreads else {}


def percent(values: Sequence[float]) -> Measure:
    """Return a share and its interval in percent."""
    value, low, high = (round(100 * one, 2) for one in values)
    return Measure(value=value, low=low, high=high)


def _measures(values: Sequence[Sequence[float]]) -> tuple[tuple[float, float, float, float], ...]:
    return tuple((float(place), 100 * value, 100 * low, 100 * high) for place, (value, low, high) in enumerate(values))


QUERIES: Mapping[str, Callable[[Any, str], Part]] = {
    "benchmarks/results/combined.json": combined,
    "benchmarks/results/rerank.json": rerank,
    "benchmarks/results/rerank_choice.json": rerank_choice,
}
