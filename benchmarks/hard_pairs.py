"""Hard pairs: one phantom twice, in the same body under the same exposure, with one thing changed, and sentences about it.

presence    a finding is there or is not; the sentence names it
denial      the same pictures; the sentence denies it
side        left or right
size        small or large, as the sentence says
"""

from dataclasses import dataclass, replace

import numpy as np

from mcr_infer import phantom
from mcr_infer.phantom.findings import KINDS, NODULE, Finding, draw_finding
from mcr_infer.phantom.language import describe
from mcr_infer.phantom.phrases import SIZE_WORDS

SIZES, MILLIMETRES = (0.15, 0.85), (12.0, 45.0)
"""Small and large; of a nodule the diameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HardPair:
    """A sentence, the picture that it fits and the one that it does not fit."""

    change: str
    kind: str
    body: int
    text: int
    right: int
    wrong: int


def hard_pairs(first: int, bodies: int) -> tuple[list[phantom.Phantom], list[str], list[HardPair]]:
    """Make the phantoms, sentences and pairs: each kind of finding in `bodies` bodies, changed in every way it can be."""
    made: list[phantom.Phantom] = []
    texts: list[str] = []
    pairs: list[HardPair] = []

    def show(seed: int, *findings: Finding) -> int:
        made.append(phantom.make(seed, 256, findings=findings))
        return len(made) - 1

    def ask(change: str, seed: int, kind: str, text: str, right: int, wrong: int) -> None:
        texts.append(text)
        pairs.append(HardPair(change=change, kind=kind, body=seed, text=len(texts) - 1, right=right, wrong=wrong))

    for number, kind in enumerate(KINDS):
        for seed in range(first + 1000 * number, first + 1000 * number + bodies):
            drawn = draw_finding(kind, np.random.default_rng([seed, 3]))
            sided = drawn.side is not None
            if sided:
                drawn = draw_finding(kind, np.random.default_rng([seed, 3]), side="left")

            def named(finding: Finding, seed: int = seed) -> str:
                return describe([finding], np.random.default_rng([seed, 4]))

            there, absent = show(seed, drawn), show(seed)
            ask("presence", seed, kind, named(drawn), there, absent)
            ask("denial", seed, kind, f"no {kind}", absent, there)
            ask("denial", seed, kind, f"no evidence of {kind}", absent, there)
            if sided:
                other = replace(drawn, side="right")
                mirrored = show(seed, other)
                ask("side", seed, kind, named(drawn), there, mirrored)
                ask("side", seed, kind, named(other), mirrored, there)
            if kind in SIZE_WORDS:
                places = [
                    show(seed, replace(drawn, size=size, millimetres=mm if kind == NODULE else None))
                    for size, mm in zip(SIZES, MILLIMETRES, strict=True)
                ]
                for place, opposite, band in ((*places, 0), (*places[::-1], 2)):
                    word = SIZE_WORDS[kind][band].split("|")[0].strip("()")
                    label = drawn.label.replace("nodule", "mass") if band else drawn.label
                    ask("size", seed, kind, f"{word} {label}", place, opposite)
    return made, texts, pairs
