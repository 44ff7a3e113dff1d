"""What a phantom can show: the findings, their sides and sizes, and the mixture in which they are drawn.

The vocabulary is the one of `truth.csv`: lower case, `[side] [lobe] kind` as far as each applies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EFFUSION = "pleural effusion"
PNEUMOTHORAX = "pneumothorax"
CARDIOMEGALY = "cardiomegaly"
CONSOLIDATION = "consolidation"
ATELECTASIS = "atelectasis"
EDEMA = "pulmonary edema"
NODULE = "lung nodule"
HYPERINFLATION = "hyperinflation"
RIB_FRACTURE = "rib fracture"
PACEMAKER = "pacemaker"
CENTRAL_LINE = "central line"
ENDOTRACHEAL_TUBE = "endotracheal tube"

KINDS = (
    EFFUSION, PNEUMOTHORAX, CARDIOMEGALY, CONSOLIDATION, ATELECTASIS, EDEMA, NODULE, HYPERINFLATION, RIB_FRACTURE,
    PACEMAKER, CENTRAL_LINE, ENDOTRACHEAL_TUBE,
)  # fmt: skip
DEVICES = (PACEMAKER, CENTRAL_LINE, ENDOTRACHEAL_TUBE)

LOBES = ("upper lobe", "middle lobe", "lower lobe")
"""The left lung has no middle lobe: a finding of the left side is never there."""

_SIDES: dict[str, tuple[tuple[str, float], ...]] = {
    EFFUSION: (("left", 0.34), ("right", 0.33), ("bilateral", 0.33)),
    PNEUMOTHORAX: (("left", 0.5), ("right", 0.5)),
    CONSOLIDATION: (("left", 0.42), ("right", 0.58)),
    ATELECTASIS: (("left", 0.36), ("right", 0.36), ("bilateral", 0.28)),
    NODULE: (("left", 0.45), ("right", 0.55)),
    RIB_FRACTURE: (("left", 0.5), ("right", 0.5)),
    PACEMAKER: (("left", 0.7), ("right", 0.3)),
    CENTRAL_LINE: (("right", 0.6), ("left", 0.4)),
}
_WITH_LOBE = (CONSOLIDATION, ATELECTASIS, NODULE)

_WEIGHTS = (0.17, 0.12, 0.12, 0.12, 0.08, 0.10, 0.09, 0.06, 0.05, 0.07, 0.07, 0.06)
"""How often each kind of KINDS is drawn, before exclusions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One finding with its side, lobe and size.

    `size` is 0 (barely visible) to 1 (gross). `millimetres` is the diameter of a nodule or mass and None otherwise.
    A bilateral atelectasis is bibasal: it has no lobe. Sides are the patient's.
    """

    kind: str
    side: str | None = None
    lobe: str | None = None
    size: float
    millimetres: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"unknown finding {self.kind!r}; known: {', '.join(KINDS)}")
        sides = {side for side, _ in _SIDES.get(self.kind, ())}
        if (self.side is None) != (not sides) or (sides and self.side not in sides):
            raise ValueError(f"{self.kind} cannot have side {self.side!r}; it takes {sorted(sides) or 'none'}")
        wants_lobe = self.kind in _WITH_LOBE and self.side != "bilateral"
        if wants_lobe != (self.lobe in LOBES) or (self.side == "left" and self.lobe == "middle lobe"):
            raise ValueError(f"{self.side or ''} {self.kind} cannot have lobe {self.lobe!r}")
        if not 0.0 <= self.size <= 1.0:
            raise ValueError(f"size of {self.kind} must lie in [0, 1], got {self.size}")

    @property
    def label(self) -> str:
        """The finding in the words of truth.csv, such as `right upper lobe consolidation`."""
        return " ".join(word for word in (self.side, self.lobe, self.kind) if word)


_HEART_FAILURE = (
    ((CARDIOMEGALY, EDEMA), 0.35),
    ((CARDIOMEGALY, EDEMA, EFFUSION), 0.35),
    ((CARDIOMEGALY, EFFUSION), 0.20),
    ((EDEMA, EFFUSION), 0.10),
)
_TRAUMA = (((RIB_FRACTURE, PNEUMOTHORAX), 0.6), ((RIB_FRACTURE, PNEUMOTHORAX, EFFUSION), 0.2), ((PNEUMOTHORAX,), 0.2))


def draw_finding(kind: str, rng: np.random.Generator, *, side: str | None = None) -> Finding:
    """Draw side (unless given), lobe and size of one finding of a kind."""
    lobe = millimetres = None
    if kind in _SIDES and side is None:
        names, weights = zip(*_SIDES[kind], strict=True)
        side = str(rng.choice(names, p=weights))
    if kind in _WITH_LOBE and side != "bilateral":
        lobe = str(rng.choice(LOBES if side == "right" else (LOBES[0], LOBES[2])))
    size = float(rng.uniform(0.0, 1.0))
    if kind == NODULE:
        # Log-uniform from 10 to 60 mm: above 30 mm a nodule is called a mass (Fleischner Society glossary).
        millimetres = float(10.0 * (60.0 / 10.0) ** size)
    return Finding(kind=kind, side=side, lobe=lobe, size=size, millimetres=millimetres)


def draw_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw the findings of one phantom: a fifth are normal, the others show 1 to 3 different kinds.

    Some come as patients' do: heart failure (large heart, edema, effusions, mostly on both sides) and chest trauma
    (fractured ribs with a pneumothorax of the same side). The rest are drawn independently.
    """
    pattern = rng.random()
    if pattern < 0.20:
        return ()
    if pattern < 0.38:
        side = "bilateral" if rng.random() < 0.8 else None
        return tuple(
            draw_finding(kind, rng, side=side if kind == EFFUSION else None) for kind in _pick(_HEART_FAILURE, rng)
        )
    if pattern < 0.46:
        side = str(rng.choice(("left", "right")))
        return tuple(draw_finding(kind, rng, side=side) for kind in _pick(_TRAUMA, rng))
    return _independent_findings(rng)


def _pick(table: Sequence[tuple[tuple[str, ...], float]], rng: np.random.Generator) -> tuple[str, ...]:
    return table[int(rng.choice(len(table), p=[weight for _, weight in table]))][0]


def _independent_findings(rng: np.random.Generator) -> tuple[Finding, ...]:
    """Draw 1 to 3 findings of different kinds; hyperinflation excludes what hides it (edema, effusion, cardiomegaly)."""
    count = int(rng.choice((1, 2, 3), p=(0.45, 0.35, 0.20)))
    kinds: list[str] = []
    weights = np.array(_WEIGHTS)
    while len(kinds) < count:
        kind = str(rng.choice(KINDS, p=weights / weights.sum()))
        kinds.append(kind)
        excluded = {kind}
        if kind == HYPERINFLATION:
            excluded |= {EDEMA, EFFUSION, CARDIOMEGALY}
        elif kind in (EDEMA, EFFUSION, CARDIOMEGALY):
            excluded.add(HYPERINFLATION)
        weights = np.where([name in excluded for name in KINDS], 0.0, weights)
    return tuple(draw_finding(kind, rng) for kind in kinds)


def finding_set(findings: Sequence[Finding]) -> str:
    """Join labels as truth.csv does: sorted, separated by `;`, empty for a normal phantom."""
    return ";".join(sorted(finding.label for finding in findings))
