import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import invoke, json_lines
from mcr_infer.index import Index, parse_filter
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import TextEncoder
from mcr_infer.inference.long_text import DEFAULT, OVERLAP, STRATEGIES, LongText, fit, strategy_like, windows
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.reports import select_text
from tiny import MAX_TOKENS, tiny_bundle

NORMAL = "The heart is normal in size. The lungs are clear. No pleural effusion is seen. "
ENDS = ("Large left pneumothorax.", "No acute abnormality.", "Small right effusion.")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def tokenizer(bundle: Bundle) -> ReportTokenizer:
    return bundle.tokenizer()


@pytest.mark.parametrize("extra", [1, 2, 5, 17, 18, 100, 1000])
def test_windows_cover_every_token_and_overlap(tokenizer: ReportTokenizer, extra: int):
    ids = [2, *range(100, 100 + MAX_TOKENS - 2 + extra), 3]
    pieces = windows(ids, tokenizer)
    assert all(len(piece) == MAX_TOKENS and piece[0] == 0 and piece[-1] == len(ids) - 1 for piece in pieces)
    assert {place for piece in pieces for place in piece} == set(range(len(ids)))
    for one, following in pairwise(pieces):
        assert one == sorted(one)
        assert len(set(one[1:-1]) & set(following[1:-1])) >= OVERLAP * (MAX_TOKENS - 2) - 1


def test_a_text_that_fits_is_one_piece_for_every_strategy(tokenizer: ReportTokenizer):
    for strategy in STRATEGIES:
        (fitted,) = fit(["left effusion"], tokenizer, strategy)
        assert fitted.strategy is None
        assert [list(piece) for piece in fitted.pieces] == tokenizer.token_ids(["left effusion"])


@pytest.mark.parametrize("layout", ["{body}{end}", "FINDINGS: {body}\nIMPRESSION: {end}", "FINDINGS: {body}{end}"])
def test_the_end_of_a_long_report_counts(bundle: Bundle, layout: str):
    texts = [select_text(layout.format(body=NORMAL * 8, end=end)) for end in ENDS]
    vectors = TextEncoder(bundle).encode(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(3), abs=1e-6)
    assert all(np.abs(vectors[one] - vectors[other]).max() > 1e-3 for one, other in ((0, 1), (0, 2), (1, 2)))
    cut = TextEncoder(bundle, long_text="truncate")
    assert [text.strategy for text in cut.fit(texts)] == ["truncate"] * 3
    assert np.ptp(cut.encode(texts), axis=0).max() < 1e-6


def test_the_impression_comes_first_and_stays_whole(tokenizer: ReportTokenizer):
    selected = select_text(f"FINDINGS: {NORMAL * 8}\nIMPRESSION: {ENDS[0]}")
    assert selected.conclusion == ENDS[0]
    assert selected.conclusion_first == f"{ENDS[0]} {NORMAL * 8}".strip()
    (fitted,) = fit([selected], tokenizer, "impression-first")
    ((*begin, _),) = tokenizer.token_ids([ENDS[0]])
    assert fitted.strategy == "impression-first"
    assert len(fitted.pieces) == 1
    assert list(fitted.pieces[0][: len(begin)]) == begin
    assert len(fitted.pieces[0]) == MAX_TOKENS


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pieces_are_tokens_of_the_fitted_text(tokenizer: ReportTokenizer, strategy: LongText):
    reports = (f"FINDINGS: {NORMAL * 8}\nIMPRESSION: {ENDS[0]}", NORMAL * 8, ENDS[1])
    for fitted in fit([select_text(report) for report in reports], tokenizer, strategy):
        (ids,) = tokenizer.token_ids([fitted.text])
        assert fitted.pieces == tuple(tuple(ids[place] for place in piece) for piece in fitted.places)


@pytest.mark.parametrize("report", [f"IMPRESSION: {NORMAL * 8}", f"FINDINGS: {NORMAL * 8}", NORMAL * 8])
def test_windows_where_no_impression_can_come_first(tokenizer: ReportTokenizer, report: str):
    (fitted,) = fit([select_text(report)], tokenizer, "impression-first")
    assert fitted.strategy == "windows"
    assert len(fitted.pieces) > 1


def test_the_vector_of_windows_is_their_mean(bundle: Bundle, tokenizer: ReportTokenizer):
    encoder = TextEncoder(bundle, long_text="windows")
    long = NORMAL * 4 + ENDS[0]
    mixed = encoder.encode([ENDS[0], long, ENDS[1]])
    (fitted,) = encoder.fit([long])
    pieces = encoder.encode_fitted([dataclasses.replace(fitted, pieces=(piece,)) for piece in fitted.pieces])
    mean = pieces.astype(np.float64).sum(axis=0)
    assert mixed[1] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    assert mixed[[0, 2]] == pytest.approx(encoder.encode([ENDS[0], ENDS[1]]), abs=1e-6)


def test_mapped_words_of_windows_point_where_the_vector_does(bundle: Bundle):
    encoder = TextEncoder(bundle, long_text="windows")
    texts = [NORMAL * 6 + ENDS[0], ENDS[1]]
    vectors, locals = encoder.encode_with_locals(texts)
    for vector, local in zip(vectors, locals, strict=True):
        pooled = local.weights @ local.vectors
        assert local.weights.sum() == pytest.approx(1.0, abs=1e-5)
        assert pooled / np.linalg.norm(pooled) == pytest.approx(vector, abs=1e-5)


LONG = f"FINDINGS: {NORMAL * 8}\nIMPRESSION: {{}}"


def embed(tmp_path: Path, *options: str) -> dict[str, Any]:
    place = ("--index", tmp_path / "index", "--json")
    (summary,) = json_lines(invoke("embed-reports", tmp_path / "reports.jsonl", *place, *options).stdout)
    return summary


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    rows = [{"id": str(number), "report": LONG.format(end)} for number, end in enumerate(ENDS)]
    rows += [{"id": "short", "report": "No effusion."}, {"id": "none", "report": NORMAL * 8 + "Large pneumothorax."}]
    (tmp_path / "reports.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_each_row_records_what_was_done_with_its_text(reports: Path):
    summary = embed(reports)
    assert summary["long_texts"] == {"impression-first": 3, "windows": 1}
    with Index.open(reports / "index") as index:
        found = {id: index.get("report", id) for id in index.ids("report")}
        assert {id: row and row.text_strategy for id, row in found.items()} == {
            "0": "impression-first", "1": "impression-first", "2": "impression-first", "none": "windows", "short": None,
        }  # fmt: skip
        vectors = [index.vector("report", str(number)) for number in range(3)]
        assert vectors[0] @ vectors[1] < 0.99
        assert index.text_strategies("report") == {"impression-first", "windows"}
        chosen = parse_filter("text_strategy=windows")
        assert [index.rows([label])[label].id for label in index.select("report", chosen).tolist()] == ["none"]


def test_another_strategy_embeds_the_long_ones_again(reports: Path):
    assert embed(reports)["embedded"] == 5
    again = embed(reports)
    assert (again["embedded"], again["unchanged"], again["long_texts"]["windows"]) == (0, 5, 1)
    changed = embed(reports, "--long-text", "truncate")
    assert (changed["embedded"], changed["unchanged"], changed["long_texts"]) == (4, 1, {"truncate": 4})
    with Index.open(reports / "index") as index:
        assert index.vector("report", "0") @ index.vector("report", "1") == pytest.approx(1.0, abs=1e-6)


def test_a_query_follows_the_rows(reports: Path):
    text, place = f"{NORMAL * 8}Large left pneumothorax.", ("--index", reports / "index", "--kind", "report", "--json")
    embed(reports, "--long-text", "truncate")
    done = invoke("query", text, *place)
    assert "more than the 96 tokens that the text tower takes: embedded by truncate" in done.stderr
    assert json_lines(done.stdout)[0]["score"] == pytest.approx(1.0, abs=1e-5)
    embed(reports, "--long-text", "windows")
    assert "embedded by windows" in invoke("query", text, *place).stderr
    assert "tokens" not in invoke("query", "left pneumothorax", *place).stderr


def test_the_limit_is_told(reports: Path):
    embed(reports)
    (told,) = json_lines(invoke("info", "--index", reports / "index", "--json").stdout)
    assert told["max_tokens"] == 96


def test_a_query_takes_the_strategy_on_which_rows_agree():
    assert strategy_like({"truncate"}) == "truncate"
    assert strategy_like({"windows", "truncate"}) == strategy_like(()) == DEFAULT
    assert strategy_like({"of a newer release"}) == DEFAULT
