"""Report language for phantoms: findings become the sentences in which radiologists write, in very many wordings.

    findings -> phrases with side, lobe and size -> sentences -> a section that also says what is absent or normal

The tables (`phrases`, `lung_phrases`, `normal_phrases`) hold the words; this file decides what may be said of a chest, so
that no sentence contradicts the findings. Names and sides are the patient's.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from mcr_infer.phantom import normal_phrases as normal
from mcr_infer.phantom.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CENTRAL_LINE,
    CONSOLIDATION,
    DEVICES,
    EDEMA,
    EFFUSION,
    ENDOTRACHEAL_TUBE,
    HYPERINFLATION,
    NODULE,
    PACEMAKER,
    PNEUMOTHORAX,
    RIB_FRACTURE,
    Finding,
)  # fmt: skip
from mcr_infer.phantom.phrases import (
    DEGREES,
    DEVICE_FRAMES,
    FRAMES,
    LARGE,
    LEAD,
    LOBE_WORDS,
    NO_LOBE,
    ON_SIDE,
    OPEN_FRAMES,
    PHRASES,
    SIZE_WORDS,
    SMALL,
)  # fmt: skip

_T = TypeVar("_T")

_IMPORTANCE = (
    PNEUMOTHORAX, CONSOLIDATION, EDEMA, EFFUSION, NODULE, CARDIOMEGALY, RIB_FRACTURE, ATELECTASIS, HYPERINFLATION,
    ENDOTRACHEAL_TUBE, CENTRAL_LINE, PACEMAKER,
)  # fmt: skip
"""The order in which an impression names findings."""

_REGIONS: Mapping[str, tuple[str, ...]] = {
    "devices": DEVICES,
    "lungs": (CONSOLIDATION, EDEMA, NODULE, ATELECTASIS, HYPERINFLATION),
    "pleura": (PNEUMOTHORAX, EFFUSION),
    "heart": (CARDIOMEGALY,),
    "bones": (RIB_FRACTURE,),
}
_REGION_OF = {kind: region for region, kinds in _REGIONS.items() for kind in kinds}
_ORDERS = (
    ("devices", "lungs", "pleura", "heart", "bones"),
    ("heart", "lungs", "pleura", "bones", "devices"),
    ("devices", "heart", "lungs", "pleura", "bones"),
    ("lungs", "pleura", "heart", "devices", "bones"),
)
_IN_ONE_LUNG = (CONSOLIDATION, ATELECTASIS, NODULE, EFFUSION, PNEUMOTHORAX)
_CLOUDED = frozenset((ATELECTASIS, EDEMA, EFFUSION, NODULE))

MASS_MM = 30.0
"""A nodule above 30 mm is a mass (Fleischner Society glossary)."""

SEVERAL_RIBS = 0.4
"""A rib fracture above this size breaks more than one rib."""

_CHOICE = re.compile(r"\(([^()]*)\)")
_AN = re.compile(r"\b([Aa])(?= (?:[aeioE]|IJ|up|un(?!i)|8|11 |18 ))")
_SPACED_STOP = re.compile(r"\s+([.,;:])")
_FILLER = re.compile(r"^(?:There (?:is|are) (?:an? )?|The |An? )| (?:is|are)(?= )")
_BRITISH = {"edema": "oedema", "Edema": "Oedema", "tumor": "tumour", "visualized": "visualised", "cephaliz": "cephalis"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The two sections of a report."""

    findings: str
    impression: str

    @property
    def text(self) -> str:
        """The report as a file would hold it."""
        return f"FINDINGS: {self.findings}\n\nIMPRESSION: {self.impression}"


def write_report(findings: Sequence[Finding], *, view: str, rng: np.random.Generator) -> Report:
    """Write a report of what the findings are; `view` is PA or AP. The same generator state gives the same report."""
    writer = _Writer(findings, rng)
    return Report(findings=writer.findings_section(view), impression=writer.impression())


def describe(findings: Sequence[Finding], rng: np.random.Generator) -> str:
    """Name all findings in one short sentence, as one would search for them; a normal chest is called normal."""
    return _Writer(findings, rng).description()


class _Writer:
    """Writes about one set of findings, with one manner for a whole report."""

    def __init__(self, findings: Sequence[Finding], rng: np.random.Generator) -> None:
        self._findings = sorted(findings, key=lambda finding: _IMPORTANCE.index(finding.kind))
        self._kinds = frozenset(finding.kind for finding in findings)
        self._random = rng.random
        self._telegraphic = self._chance(0.22)
        self._british = self._chance(0.06)
        self._denied: set[str] = set()

    def findings_section(self, view: str) -> str:
        """Write what is seen, region by region or positive findings first, and fill up with what is not there."""
        told = [(_REGION_OF[finding.kind], self._statement(finding, sized=0.6)) for finding in self._findings]
        fillers = self._fillers()
        wanted = 14 + 25 * self._random()
        words = sum(len(text.split()) for _, text in told)
        while fillers and words < wanted:
            told.append(fillers.pop())
            words += len(told[-1][1].split())
        if self._chance(0.6):
            order = self._pick(_ORDERS)
            told.sort(key=lambda item: order.index(item[0]))
        sentences = [text for _, text in told]
        if self._chance(0.10):
            sentences.insert(
                0, self._expand(f"(Frontal|Single frontal|{view}|Single {view}) (view|radiograph) of the chest.")
            )
        return self._join(sentences)

    def impression(self) -> str:
        """Conclude: the findings by importance, or that there is nothing; devices do not count as disease."""
        disease = [finding for finding in self._findings if finding.kind not in DEVICES]
        devices = [finding for finding in self._findings if finding.kind in DEVICES]
        if not disease:
            table = (*normal.NO_ACUTE, *normal.NORMAL_CHEST) if not devices else normal.NO_ACUTE
            sentences = [self._expand(self._pick(table)) + "."] + [self._statement(each, sized=0.0) for each in devices]
            return self._join(sentences if self._chance(0.5) else sentences[::-1])
        shown = disease + [each for each in devices if self._chance(0.75)]
        if len(shown) > 1 and self._chance(0.1):
            shown.insert(0, shown.pop(int(self._random() * len(shown))))
        if len(shown) > 1 and self._chance(0.45):
            sentences = [self._list_findings([self._name(each, sized=0.45) for each in shown]) + "."]
        else:
            sentences = [self._conclusion(each) for each in shown]
        numbered = len(sentences) > 1 and self._chance(0.3)
        if not numbered:
            sentences += self._afterthought(disease[0])
        return self._join(sentences, numbered=numbered)

    def description(self) -> str:
        """Write a query: mostly noun phrases, now and then a clause or what is not there."""
        if not self._findings:
            table = (*normal.NO_ACUTE, *normal.NORMAL_CHEST)
            text = self._expand(self._pick(table)) if self._chance(0.85) else self._denial(2) or ""
            return self._query(text)
        told = list(self._findings)
        if self._chance(0.35):
            told.sort(key=lambda _: self._random())
        if self._chance(0.2):
            joint = self._pick(("; ", ", ", ", and ", " and "))
            return self._query(joint.join(_lower(self._statement(each, sized=0.3).rstrip(".")) for each in told))
        text = self._list_findings([self._name(each, sized=0.25) for each in told])
        if self._chance(0.15):
            text = f"{self._expand(LEAD)} {_lower(text)}"
        if self._chance(0.12) and (absent := self._absent(1)):
            text += self._pick((f", no {absent}", f" without {absent}", f" but no {absent}", f" with no {absent}"))
        return self._query(text)

    # ---- Positive findings ------------------------------------------------------------------------------------------

    def _statement(self, finding: Finding, *, sized: float) -> str:
        """Assert a finding in a sentence; its size is told with the chance `sized`."""
        nouns, sentences = _phrases_of(finding)
        if self._random() * (len(nouns) + len(sentences)) < len(sentences):
            return self._fill(self._pick(sentences), finding, sized)
        return self._frame(self._fill(self._pick(nouns), finding, sized), device=finding.kind in DEVICES)

    def _conclusion(self, finding: Finding) -> str:
        """State a finding as impressions do: mostly without a verb."""
        if self._chance(0.25):
            return self._statement(finding, sized=0.45)
        return self._bare(self._name(finding, sized=0.45)) + "."

    def _name(self, finding: Finding, *, sized: float) -> str:
        """Name a finding, now and then without its lobe: a noun phrase, mostly with its article."""
        nouns, _ = _phrases_of(finding, lobeless=self._chance(0.2))
        return self._fill(self._pick(nouns), finding, sized).removeprefix("+").lstrip()

    def _frame(self, noun: str, *, device: bool) -> str:
        """Put a noun phrase into a sentence."""
        verb = "are" if noun.startswith("+") else "is"
        noun = noun.removeprefix("+").lstrip()
        frames = OPEN_FRAMES if "," in noun or " with " in noun else DEVICE_FRAMES if device else FRAMES
        return self._expand(self._pick(frames).format(np=noun, bare=self._bare(noun), be=verb))

    def _bare(self, noun: str) -> str:
        """Leave out the article, as telegraphic writing does."""
        return noun[noun.index(" ") + 1 :] if noun.startswith(("a ", "an ")) else noun

    def _list_findings(self, nouns: list[str]) -> str:
        """Join noun phrases in one line, each mostly without its article."""
        nouns = [self._bare(noun) if self._chance(0.85) else noun for noun in nouns]
        if len(nouns) == 1:
            return nouns[0]
        if len(nouns) == 2:
            return self._pick(
                (" and ", " and ", " with ", " with ", ", ", " plus ", " as well as ", "; ", " in addition to ")
            ).join(nouns)
        first = self._pick((", ", ", ", " with "))
        return (
            nouns[0]
            + first
            + ", ".join(nouns[1:-1])
            + self._pick((" and ", ", and ", ", ", " as well as "))
            + nouns[-1]
        )

    def _fill(self, phrase: str, finding: Finding, sized: float) -> str:
        """Fill the slots that are drawn anew each time, then the choices."""
        if "{size}" in phrase or "{degree}" in phrase:
            band = _band(finding.size)
            size = f"({SIZE_WORDS[finding.kind][band]})" if self._chance(sized) else ""
            phrase = phrase.replace("{size}", size).replace("{degree}", f"({DEGREES[band]})")
        if finding.millimetres is not None and ("{mm}" in phrase or "{measure}" in phrase):
            measure = f"({finding.millimetres:.0f} mm|{finding.millimetres / 10:.1f} cm)"
            phrase = phrase.replace("{mm}", measure if self._chance(0.5) else "").replace("{measure}", measure)
        if "{carina}" in phrase:
            phrase = phrase.replace("{carina}", f"{2.0 + 0.5 * int(7 * self._random()):g} cm")
        return self._expand(phrase)

    # ---- What is absent and what is normal --------------------------------------------------------------------------

    def _fillers(self) -> list[tuple[str, str]]:
        """Statements that hold of this chest beside its findings, with their regions; the last are the first to use."""
        fillers = []
        for region, statements in _normal_statements(self._kinds).items():
            fillers += [(region, self._expand(self._pick(statements)))] if statements else []
        clear = self._clear_side()
        if clear and self._chance(0.5):
            fillers.append(("lungs", self._expand(self._pick(normal.CLEAR_SIDE).replace("{clear}", clear))))
        fluid = next((finding for finding in self._findings if finding.kind == EFFUSION), None)
        if fluid and fluid.side != "bilateral" and self._chance(0.35):
            other = "left" if fluid.side == "right" else "right"
            fillers.append(("pleura", self._expand(self._pick(normal.NO_FLUID_ON).replace("{clear}", other))))
        fillers.sort(key=lambda _: self._random())
        for size in (3, 2):
            if (self._chance(0.8) or size == 3) and (denial := self._denial(1 + int(size * self._random()))):
                fillers.append(("pleura", denial))
        lungs = [finding.kind for finding in self._findings if _REGION_OF[finding.kind] in ("lungs", "pleura")]
        if len(lungs) == 1 and lungs[0] in (CONSOLIDATION, NODULE, ATELECTASIS) and self._chance(0.25):
            fillers.append(("lungs", self._expand(self._pick(normal.OTHERWISE))))
        return fillers

    def _clear_side(self) -> str | None:
        """Return the side of a lung without findings where the other has some; None where there is no such lung."""
        if self._kinds & {EDEMA, HYPERINFLATION}:
            return None
        sides = {finding.side for finding in self._findings if finding.kind in _IN_ONE_LUNG}
        return {"left": "right", "right": "left"}.get(str(sides.pop())) if len(sides) == 1 else None

    def _denial(self, count: int) -> str | None:
        """Deny up to `count` kinds in a sentence; None where none is left."""
        absent = self._absent(count)
        if not absent:
            return None
        verb = "are" if absent.endswith(normal.PLURALS) else "is"
        return self._expand(self._pick(normal.NEGATION_FRAMES).format(list=absent, be=verb))

    def _absent(self, count: int) -> str:
        """List up to `count` kinds that are absent and not yet denied: `A, B or C`; empty where there are none."""
        nouns: list[str] = []
        for _ in range(count):
            kinds = _deniable(self._kinds, frozenset(self._denied))
            if not kinds:
                break
            kind = self._pick(kinds)
            self._denied.add(kind)
            options = normal.NEGATED[kind]
            if kind == CONSOLIDATION and not self._kinds & _CLOUDED:
                options += normal.ANY_OPACITY
            nouns.append(self._pick(options))
        if len(nouns) < 3:
            return " or ".join(nouns)
        return ", ".join(nouns[:-1]) + self._pick((" or ", ", or ")) + nouns[-1]

    def _afterthought(self, finding: Finding) -> list[str]:
        """Advise or deny, now and then, after the conclusion."""
        advice = normal.FOLLOW_UP.get(finding.kind, ())
        if advice and self._chance(0.12):
            return [self._expand(self._pick(advice))]
        denial = self._denial(1) if self._chance(0.12) else None
        return [denial] if denial else []

    # ---- Words ------------------------------------------------------------------------------------------------------

    def _chance(self, probability: float) -> bool:
        return self._random() < probability

    def _pick(self, options: Sequence[_T]) -> _T:
        return options[int(self._random() * len(options))]

    def _expand(self, text: str) -> str:
        """Resolve choices, innermost first, and mend spaces."""
        while "(" in text:
            text = _CHOICE.sub(lambda match: self._pick(match[1].split("|")), text)
        return _SPACED_STOP.sub(r"\1", " ".join(text.split()))

    def _join(self, sentences: Iterable[str], *, numbered: bool = False) -> str:
        """Make running text of sentences."""
        done = [self._polish(_FILLER.sub("", text, count=2) if self._telegraphic else text) for text in sentences]
        if numbered:
            done = [f"{number}. {text}" for number, text in enumerate(done, start=1)]
        return " ".join(done)

    def _query(self, text: str) -> str:
        return _lower(self._polish(text.rstrip(".")))

    def _polish(self, text: str) -> str:
        text = _AN.sub(r"\1n", text)
        if self._british:
            for american, british in _BRITISH.items():
                text = text.replace(american, british)
        return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """Begin with a small letter, unless the first word is an abbreviation."""
    return text[:1].lower() + text[1:] if not text[1:2].isupper() else text


def _band(size: float) -> int:
    """Return 0 for small, 1 for moderate, 2 for large."""
    return int(size >= SMALL) + int(size >= LARGE)


def _phrases_of(finding: Finding, *, lobeless: bool = False) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the noun phrases and the sentences that hold of a finding."""
    special = ""
    if finding.kind == NODULE:
        special = "mass" if (finding.millimetres or 0.0) > MASS_MM else "nodule"
    elif finding.kind == RIB_FRACTURE:
        special = "several" if finding.size > SEVERAL_RIBS else "single"
    lobe = "" if lobeless else finding.lobe or ""
    return _phrases(finding.kind, finding.side or "", lobe, _band(finding.size), special)


@cache
def _phrases(kind: str, side: str, lobe: str, band: int, special: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    size = ("small", "moderate", "large")[band]
    sides = "bilateral" if side == "bilateral" else "one side"
    holding = ("always", side, lobe, f"{side} {lobe}", sides, size, f"{size} {sides}", special)
    adjective, adverbial = LOBE_WORDS.get(lobe, NO_LOBE)
    initial = side[:1].upper()
    slots = {
        "side": side, "sided": f"({side}|{side}|{side}-sided)", "on": ON_SIDE, "lobe": adjective, "in": adverbial,
        "lobe_name": f"{side} {lobe}", "UL": f"{initial}UL", "LL": f"{initial}LL",
        "size": "{size}", "degree": "{degree}", "mm": "{mm}", "measure": "{measure}", "carina": "{carina}",
    }  # fmt: skip
    # Twice, because the phrases of lobes and sides have slots of their own.
    phrases = [
        phrase for key in holding for phrase in PHRASES[kind].get(key, ()) if lobe or "{lobe_name}" not in phrase
    ]
    found = [phrase.format_map(slots).format_map(slots) for phrase in phrases]
    return tuple(p for p in found if not p.endswith(".")), tuple(p for p in found if p.endswith("."))


@cache
def _normal_statements(kinds: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Return the normal statements of each region that these kinds allow."""
    return {
        region: tuple(text for forbidding, texts in table if not kinds.intersection(forbidding) for text in texts)
        for region, table in normal.NORMAL.items()
    }


@cache
def _deniable(present: frozenset[str], denied: frozenset[str]) -> tuple[str, ...]:
    """Return the kinds that may still be denied, each as often as it should come up.

    A lung that a pneumothorax has collapsed has lost volume: atelectasis is not denied beside it.
    """
    hidden = {ATELECTASIS} if PNEUMOTHORAX in present else set()
    return tuple(
        kind
        for kind, weight in normal.NEGATION_WEIGHTS.items()
        if kind not in present | denied | hidden
        for _ in range(weight)
    )
