import csv
import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
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
    KINDS,
    LOBES,
    NODULE,
    PACEMAKER,
    PNEUMOTHORAX,
    RIB_FRACTURE,
    Finding,
    draw_finding,
    draw_findings,
)  # fmt: skip
from mcr_infer.phantom.language import Report, describe, write_report
from mcr_infer.reports import embed_text

COUNT = 5000

NAMED = {
    EFFUSION: r"effusion|hydrothorax|fluid|blunt|pleural collection|costophrenic",
    PNEUMOTHORAX: r"pneumothora|ptx|\bair\b|pleural line|collapsed|lung markings|lung edge",
    CARDIOMEGALY: r"cardiomegaly|heart|cardiac|cardiomediastinal|cardiothoracic",
    CONSOLIDATION: r"consolidat|pneumoni|infiltrat|airspace|air space|alveolar|opaci|infect|density|shadowing",
    ATELECTASIS: r"atelecta|volume|collaps|linear|bandlike|band|plate-like|streaky|discoid|airless",
    EDEMA: r"o?edema|congest|engorge|redistribution|failure|chf|overload|kerley|septal|perihilar|interstitial|vein|"
    r"venous|vessel|vasculature|decompensation|hila|wet|fluid|batwing|bat-wing|butterfly|cephali|airspace|lungs",
    NODULE: r"nodul|mass|lesion|tumou?r|neoplasm|cancer|carcinoma|spot|shadow|opacity|density",
    HYPERINFLATION: r"inflat|expan|lucen|emphysema|copd|obstructive|diaphragm|volumes|trapping|aeration|barrel",
    RIB_FRACTURE: r"\bribs?\b",
    PACEMAKER: r"pace|pacing|cardiac device|pulse generator|generator|ppm",
    CENTRAL_LINE: r"line|catheter|picc|cvc|cvl|central venous access",
    ENDOTRACHEAL_TUBE: r"tube|ett|intubat|ventilator",
}
"""Some word that names the kind, among its many."""

ONLY = {
    EFFUSION: r"effusion|hydrothorax|pleural fluid|pleural collection|blunt|meniscus",
    PNEUMOTHORAX: r"pneumothora|\bptx|pleural air|pleural line|collapsed lung|air in the pleural",
    CARDIOMEGALY: r"cardiomegaly|enlarge|(increased?|prominent|broad|wide) (heart|cardi)|dilated\.",
    CONSOLIDATION: r"(?<!no )consolidat|pneumonia|infiltrate",
    ATELECTASIS: r"atelecta|volume loss|loss of volume|lobar collapse",
    EDEMA: r"o?edema|congest|chf|heart failure|kerley|overload|cephali",
    NODULE: r"nodule|\bmass\b|masses|tumou?r|neoplasm|carcinoma|coin lesion",
    HYPERINFLATION: r"hyperinfl|hyperexp|overinfl|emphysem|copd|air trapping|\bflat",
    RIB_FRACTURE: r"fracture|broken",
    PACEMAKER: r"pacemaker|pacer|cardiac device",
    CENTRAL_LINE: r"central (venous |)(line|catheter)|picc|subclavian (line|catheter)",
    ENDOTRACHEAL_TUBE: r"endotracheal|\bett\b|intubated",
}
"""Words that nothing but the kind explains."""

DENIAL = re.compile(r"\b(no|not|without|negative for|none|absent|free of)\b")
NORMAL_CLAIMS = (
    (r"lungs( are| appear| look|) clear|lungs are clear|lung fields|clear lungs|clear chest|normal chest",
     {EFFUSION, PNEUMOTHORAX, CONSOLIDATION, ATELECTASIS, EDEMA, NODULE, HYPERINFLATION}),
    (r"heart (size |)(is |)(normal|within|unremarkable|not enlarged)|normal (heart|cardi)|silhouette (is |)(normal|un)",
     {CARDIOMEGALY}),
    (r"vascularity (is|remains) (normal|un|within)|vasculature (is |remains )(normal|un|within)|not congested", {EDEMA}),
    (r"lung volumes (are |)(normal|preserved|within)|normal lung volumes", {HYPERINFLATION, ATELECTASIS}),
    (r"costophrenic (angles|sulci) (are |)(sharp|clear|preserved)|(sharp|clear) costophrenic angles", {EFFUSION}),
    (r"pleural spaces (are |)(clear|un|normal)", {EFFUSION, PNEUMOTHORAX}),
    (r"(bones|structures|ribs|thorax|skeleton|cage) (are |is |)(intact|unremarkable|normal|within)", {RIB_FRACTURE}),
    (r"no acute (cardio|disease|abn|find|intra|chest|pulm|thor|process)|no active|"
     r"evidence of acute (cardio|intra|disease|proc|abn)",
     set(KINDS) - set(DEVICES)),
    (r"normal (chest|study|exam|frontal)|unremarkable (chest|study|front|radio)|negative chest|"
     r"no (significant |)abnormality( is| identified|$)|abnormality of|abnormal findings", set(KINDS)),
)  # fmt: skip
SIDES = {
    "left": r"\bleft\b|\bl[ul]l\b",
    "right": r"\bright\b|\br[uml]l\b",
    "bilateral": r"bilateral|both|bibas|both sides|left and right|right and left",
}
PLACES = {
    "upper lobe": r"upper|top|apical|apex|\b[rl]ul\b",
    "middle lobe": r"middle|\brml\b",
    "lower lobe": r"lower|bottom|basilar|basal|base|retrocardiac|infrahilar|hemidiaphragm|\b[rl]ll\b",
}


def rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def sentences(text: str) -> list[str]:
    """Lower-case sentences: a stop within a number ends none."""
    return [
        part for part in re.split(r"(?<=\D)\.(?:\s+|$)|(?<=\d)\.\s+(?=[A-Z])|\. ", text.lower()) if part.strip(" .")
    ]


@pytest.fixture(scope="module")
def written() -> list[tuple[tuple[Finding, ...], Report]]:
    drawn = [draw_findings(rng(1, seed)) for seed in range(COUNT)]
    return [(findings, write_report(findings, view="PA", rng=rng(2, i))) for i, findings in enumerate(drawn)]


def test_the_same_generator_state_gives_the_same_words():
    findings = draw_findings(rng(7))
    assert write_report(findings, view="AP", rng=rng(3)) == write_report(findings, view="AP", rng=rng(3))
    assert describe(findings, rng(3)) == describe(findings, rng(3))
    assert len({write_report(findings, view="AP", rng=rng(i)).text for i in range(50)}) == 50


def test_a_report_has_two_sections_that_the_reader_finds(written):
    for _, report in written[:200]:
        assert report.text == f"FINDINGS: {report.findings}\n\nIMPRESSION: {report.impression}"
        assert embed_text(report.text, use="findings") == report.findings
        assert embed_text(report.text, use="both").startswith(report.findings)


def test_text_is_clean(written):
    queries = [describe(findings, rng(4, i)) for i, (findings, _) in enumerate(written)]
    for text in [*(one.findings for _, one in written), *(one.impression for _, one in written), *queries]:
        assert not re.search(
            r"[(){}|+_]|\s{2}| [.,;:]|\.\.|,,|^\W|\ban? (an?|the)\b|\ba [aeio]|\bno no\b|\bis are\b", text
        ), text
        assert not re.search(r"\b(previous|prior|interval|unchanged|compared|new)\b", text, re.IGNORECASE), text
    for _, report in written:
        for section in (report.findings, report.impression):
            assert section.endswith(".")
            assert all(part[0].isupper() or part[0].isdigit() for part in section.split(". ")), section
    assert not any(text.endswith(".") for text in queries)


def test_length(written):
    findings = np.array([len(report.findings.split()) for _, report in written])
    impressions = np.array([len(report.impression.split()) for _, report in written])
    assert 24 <= findings.mean() <= 34
    assert findings.max() <= 70
    assert 6 <= impressions.mean() <= 14
    assert np.percentile(impressions, 99) <= 30


def test_every_finding_is_named_with_its_side_and_lobe(written):
    for findings, report in written:
        positive = [part for part in sentences(report.findings) if not DENIAL.search(part)]
        for finding in findings:
            side, place = SIDES.get(finding.side or "", ""), PLACES.get(finding.lobe or "", "")
            assert any(
                re.search(NAMED[finding.kind], part) and re.search(side, part) and re.search(place, part)
                for part in positive
            ), f"{finding.label}: {report.findings}"


def test_impressions_name_every_disease_with_its_side(written):
    for findings, report in written:
        for finding in findings:
            if finding.kind not in DEVICES or all(each.kind in DEVICES for each in findings):
                assert re.search(NAMED[finding.kind], report.impression.lower()), (
                    f"{finding.label}: {report.impression}"
                )
                assert re.search(SIDES.get(finding.side or "", ""), report.impression.lower()), report.impression


def test_queries_name_every_finding_with_its_side_and_mostly_its_lobe(written):
    named = placed = 0
    for i, (findings, _) in enumerate(written):
        query = describe(findings, rng(5, i)).lower()
        for finding in findings:
            assert re.search(NAMED[finding.kind], query), f"{finding.label}: {query}"
            assert re.search(SIDES.get(finding.side or "", ""), query), f"{finding.label}: {query}"
            named += finding.lobe is not None and bool(re.search(PLACES[finding.lobe], query))
            placed += finding.lobe is not None
    assert 0.75 * placed < named < 0.95 * placed


def test_nothing_is_denied_that_is_there_and_nothing_named_that_is_not(written):
    """Only of the side that has none may something be denied that the other has."""
    other = {"left": "right", "right": "left"}
    texts = [(findings, report.text.partition(":")[2].replace("IMPRESSION:", "")) for findings, report in written]
    texts += [(findings, describe(findings, rng(6, i))) for i, (findings, _) in enumerate(written)]
    for findings, text in texts:
        kinds = {finding.kind: finding for finding in findings}
        for part in sentences(text):
            # In a query the denial follows what is named.
            denial = DENIAL.search(part)
            named, denied = (part[: denial.start()], part[denial.start() :]) if denial else (part, "")
            if re.search(r": (none|absent)|is absent", part):
                named, denied = "", part
            for kind, words in ONLY.items():
                if kind not in kinds:
                    assert not re.search(words, named), f"{kind} named: {part} / {sorted(kinds)}"
                elif re.search(words, denied):
                    side = kinds[kind].side
                    assert side in other, f"{kind} denied: {part}"
                    assert re.search(rf"\b{other[side]}\b", part), part
                    assert not re.search(rf"\b{side}\b", part), part


def test_nothing_is_called_normal_that_is_not(written):
    for findings, report in written:
        kinds = {finding.kind for finding in findings}
        for part in sentences(report.findings + " " + report.impression):
            for claim, excluded in NORMAL_CLAIMS:
                if re.search(claim, part) and not re.search(r"otherwise|remainder|remaining", part):
                    assert not kinds & excluded, f"{part} / {sorted(kinds)}"


def test_a_side_is_never_mixed_up(written):
    """Where all findings are on one side, the other is mentioned only as clear (or as a part of the heart)."""
    other = {"left": "right", "right": "left"}
    seen = 0
    for findings, report in written:
        sides = {finding.side for finding in findings if finding.side}
        if len(sides) != 1 or "bilateral" in sides:
            continue
        wrong = other[sides.pop() or ""]
        for part in sentences(report.findings + " " + report.impression):
            rest = re.sub(r"right (heart|ventric|atri)", "", part)
            if re.search(rf"\b{wrong}\b", rest):
                seen += 1
                assert re.search(r"clear|sharp|preserved|normal|unremarkable|well aerated|\bno\b|free of", rest), part
    assert seen > 150


@pytest.mark.parametrize(
    ("kind", "size", "never"),
    [
        (EFFUSION, 0.1, r"large|massive|moderate|extensive"), (EFFUSION, 0.5, r"small|trace|tiny|massive|extensive"),
        (EFFUSION, 0.9, r"small|trace|tiny|moderate|blunt"), (PNEUMOTHORAX, 0.2, r"large|massive|moderate"),
        (PNEUMOTHORAX, 0.8, r"small|tiny|trace|moderate"), (CARDIOMEGALY, 0.1, r"severe|marked|moderate|gross"),
        (CARDIOMEGALY, 0.9, r"mild|slight|borderline|minimal"), (EDEMA, 0.1, r"severe|florid|moderate|alveolar edema"),
        (HYPERINFLATION, 0.9, r"mild|slight|moderate"), (RIB_FRACTURE, 0.1, r"several|multiple|markedly|fractures"),
        (RIB_FRACTURE, 0.9, r"nondisplaced|minimally|a single"), (ATELECTASIS, 0.1, r"marked|extensive|complete"),
    ],
)  # fmt: skip
def test_size_words_follow_the_size(kind, size, never):
    sized = 0
    for seed in range(300):
        drawn = draw_finding(kind, rng(8, seed))
        finding = Finding(kind=kind, side=drawn.side, lobe=drawn.lobe, size=size)
        report = write_report([finding], view="PA", rng=rng(9, seed))
        named = [part for part in sentences(report.findings + " " + report.impression) if not DENIAL.search(part)]
        assert not any(re.search(never, part) for part in named), report.text
        sized += bool(
            re.search(
                r"small|trace|tiny|large|massive|mild|slight|moderate|severe|marked|minor|subtle|displaced|mult",
                " ".join(named),
            )
        )
    assert sized > 20


@pytest.mark.parametrize("millimetres", [11.0, 24.0, 38.0, 57.0])
def test_a_nodule_is_measured_and_a_large_one_is_a_mass(millimetres):
    finding = Finding(kind=NODULE, side="left", lobe="upper lobe", size=0.5, millimetres=millimetres)
    told = 0
    for seed in range(200):
        text = write_report([finding], view="PA", rng=rng(seed)).text.lower()
        named = " ".join(part for part in sentences(text) if not DENIAL.search(part))
        assert not re.search("mass|tumou?r|neoplasm|carcinoma" if millimetres <= 30 else "nodule", named), text
        for value, unit in re.findall(r"(\d+(?:\.\d)?) (mm|cm)", text):
            assert abs(float(value) * (10 if unit == "cm" else 1) - millimetres) <= 0.51
            told += 1
    assert told > 60


def single_findings() -> list[Finding]:
    return [draw_finding(kind, rng(10, i)) for i, kind in enumerate(KINDS)]


@pytest.mark.parametrize("finding", [pytest.param(one, id=one.label) for one in single_findings()])
def test_one_finding_is_said_in_many_ways(finding):
    reports = [write_report([finding], view="PA", rng=rng(11, seed)) for seed in range(2000)]
    assert len({report.impression for report in reports}) >= 100
    assert len({report.text for report in reports}) >= 1990
    assert len({describe([finding], rng(12, seed)) for seed in range(2000)}) >= 100


def test_a_normal_chest_is_said_in_many_ways():
    reports = [write_report((), view="PA", rng=rng(13, seed)) for seed in range(2000)]
    assert len({report.impression for report in reports}) >= 60
    assert len({report.findings for report in reports}) >= 1900
    assert sum("no acute cardiopulmonary abnormality" in report.impression.lower() for report in reports) > 40


def test_devices_alone_are_no_disease():
    seen = 0
    for seed, kind in itertools.product(range(50), DEVICES):
        finding = draw_finding(kind, rng(14, seed))
        impression = write_report([finding], view="AP", rng=rng(15, seed)).impression.lower()
        assert re.search(r"\bno\b.*\b(acute|active)\b", impression), impression
        assert re.search(NAMED[kind], impression), impression
        seen += 1
    assert seen == 150


def test_the_view_is_the_one_asked_for():
    for view, other in (("PA", "AP"), ("AP", "PA")):
        texts = [write_report((), view=view, rng=rng(16, seed)).findings for seed in range(400)]
        assert sum(f"{view} " in text for text in texts) > 8
        assert not any(re.search(rf"\b{other}\b", text) for text in texts)


def test_token_lengths(written):
    texts = [embed_text(report.text) for _, report in written[:3000]]
    tokenizer = ReportTokenizer(train_tokenizer(texts, 1500), 96)
    lengths = tokenizer.lengths(texts)
    assert lengths.mean() < 60
    assert np.percentile(lengths, 99) <= 96
    assert lengths.max() <= 128


# ---- Held-out paraphrases -------------------------------------------------------------------------------------------
# benchmarks/paraphrases.csv was written by hand, before the phrase tables and not from them: sentences that a radiologist
# could type, and the labels that a right answer has, as in truth.csv, separated by `;`. A label names kind, side and lobe
# as far as the sentence does, and is met by a finding that has all its words (`finding_labels_match`). `!` before a
# label: no finding has all its words. No label at all: a radiograph without findings.


def paraphrases() -> list[dict[str, str]]:
    path = Path(__file__).parents[1] / "benchmarks" / "paraphrases.csv"
    with path.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


def plain(text: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9 ]", " ", text.lower()).split())


def test_paraphrases_are_labelled_in_the_words_of_truth_csv():
    rows = paraphrases()
    assert len(rows) >= 120
    assert len({plain(row["text"]) for row in rows}) == len(rows)
    words = {label: set(label.split()) for kind in KINDS for label in possible_labels(kind)}
    for row in rows:
        for label in filter(None, row["findings"].split(";")):
            wanted = set(label.removeprefix("!").split())
            assert any(wanted <= has for has in words.values()), label
            assert any(set(kind.split()) <= wanted | {"pleural", "pulmonary", "lung", "rib"} for kind in KINDS), label
    assert {kind for kind in KINDS if any(kind in row["findings"] for row in rows)} == set(KINDS)


def possible_labels(kind: str) -> set[str]:
    labels = set()
    for side, lobe in itertools.product((None, "left", "right", "bilateral"), (None, *LOBES)):
        millimetres = 20.0 if kind == NODULE else None
        try:
            labels.add(Finding(kind=kind, side=side, lobe=lobe, size=0.5, millimetres=millimetres).label)
        except ValueError:
            continue
    return labels


def test_no_paraphrase_can_be_generated():
    generated = set()
    for seed in range(20_000):
        source = rng(17, seed)
        findings = draw_findings(source)
        report = write_report(findings, view="PA", rng=source)
        generated |= {plain(part) for part in (report.findings, report.impression, describe(findings, source))}
    everything = "\n".join(f" {text} " for text in generated)
    assert [row["text"] for row in paraphrases() if f" {plain(row['text'])} " in everything] == []
