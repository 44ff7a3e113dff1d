"""Quoted tables about queries: a second look and questions of several parts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quoted_rows import Rows, results, table

_GAIN = "gain of the second look"
_SECOND = (
    "cosine",
    "second look",
    "patches in fp32",
    "late interaction alone",
    "cosine + best patch",
    "best patch alone",
)
_ASKED = (
    ("reports", "r1"),
    ("reports", "p10"),
    ("short sentences", "r1"),
    ("short sentences", "p10"),
    ("hand-written sentences", "p10"),
    ("radiographs, for reports", "r1"),
)
_PAIRS = {"presence": "there or not", "denial": "denied or not", "side": "left or right", "size": "small or large"}
_APART = (
    *("the first sentence alone", "one sentence, A, no B", "A + 0.5 of the sentence no B", "A - 0.5 B", "A - 1.0 B"),
    *("(A - m) - 0.5 (B - m)", "A - what is above the mean of B", "the tenth nearest to B last"),
)
_TOGETHER = ("A + B", "(A - m) + (B - m)", "the lowest of both cosines", "sentences joined by a stop", "one sentence")
_BESIDE = (
    *("the radiograph alone", "plain sum, weight 1.0", "from the empty text, weight 0.5", "query"),
    "from the empty text, weight 1.5",
)


def rerank_summary(root: Path) -> list[str]:
    """What a second look brings, in short."""
    found = results(root, "rerank")
    told = (
        ("a report", "R@1", "reports", "r1"),
        ("", "precision@10", "reports", "p10"),
        ("a short sentence of the generator", "R@1", "short sentences", "r1"),
        ("", "precision@10", "short sentences", "p10"),
        ("a sentence written by hand", "precision@10", "hand-written sentences", "p10"),
        ("hard pairs: left or right", "right", "hard pairs", "side"),
        *((_PAIRS[key], "right", "hard pairs", key) for key in ("denial", "presence", "size")),
    )
    rows: Rows = []
    for name, figure, asked, key in told:
        both = (f"{100 * found['ways'][way][asked][key][0]:.1f}" for way in ("cosine", "second look"))
        rows.append([name, figure, *both, _gain(found["gain"][asked][key])])
    return table(["asked with", "figure", "cosine %", "second look %", "gain [95 %]"], rows)


def rerank_ways(root: Path) -> list[str]:
    """Ways to look again, by what asks."""
    found = results(root, "rerank")
    rows = [[way, *(f"{100 * found['ways'][way][asked][key][0]:.1f}" for asked, key in _ASKED)] for way in _SECOND]
    rows.append([_GAIN, *(_gain(found["gain"][asked][key]) for asked, key in _ASKED)])
    head = ["", "reports, R@1 %", "P@10 %", "short sentences, R@1 %", "P@10 %", "by hand, P@10 %"]
    return table([*head, "reports for radiographs, R@1 %"], rows)


def rerank_pairs(root: Path) -> list[str]:
    """Hard pairs, by way."""
    found = results(root, "rerank")
    rows = [[way, *(f"{100 * found['ways'][way]['hard pairs'][key][0]:.1f}" for key in _PAIRS)] for way in _SECOND]
    rows.append([_GAIN, *(_gain(found["gain"]["hard pairs"][key]) for key in _PAIRS)])
    return table(["right of hard pairs, %", *_PAIRS.values()], rows)


def combined_apart(root: Path) -> list[str]:
    """A sentence and not another, of kinds and of descriptions."""
    last = {"query --not": "`query A --not B`", "query --not --rerank": "the same with `--rerank`"}
    rows = _ways(root, ("A, not B", "described A, not B"), {**{way: way for way in _APART}, **last})
    return table(["A, not B", *_heads("kinds, P@10 %", "described, P@10 %")], rows)


def combined_together(root: Path) -> list[str]:
    """Two sentences at once, of kinds and of descriptions."""
    last = {"query A B": "`query A B`", "query A B --rerank": "the same with `--rerank`"}
    rows = _ways(root, ("A and B", "described A and B"), {**{way: way for way in _TOGETHER}, **last})
    return table(["A and B", *_heads("kinds, P@10 %", "described, P@10 %")], rows)


def combined_images(root: Path) -> list[str]:
    """A radiograph with a sentence."""
    rows = _ways(root, ("image of A, and B", "image of A and B, not B"), {way: way for way in _BESIDE})
    return table(["beside a radiograph", *_heads("of A, and B: P@10 %", "of A and B, not B: P@10 %")], rows)


QUERY_TABLES: Mapping[str, Callable[[Path], list[str]]] = {
    "rerank-summary": rerank_summary,
    "rerank-ways": rerank_ways,
    "rerank-pairs": rerank_pairs,
    "combined-apart": combined_apart,
    "combined-together": combined_together,
    "combined-images": combined_images,
}


def _heads(first: str, second: str) -> list[str]:
    return [first, "average precision %", second, "average precision %"]


def _ways(root: Path, asked: Sequence[str], names: Mapping[str, str]) -> Rows:
    questions: Any = results(root, "combined")["questions"]
    return [
        [told, *(_interval(questions[each]["ways"][way][key]) for each in asked for key in ("p10", "ap"))]
        for way, told in names.items()
    ]


def _interval(values: Sequence[float]) -> str:
    value, low, high = (100 * one for one in values)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _gain(values: Sequence[float]) -> str:
    return ("" if values[0] < 0 else "+") + _interval(values)
