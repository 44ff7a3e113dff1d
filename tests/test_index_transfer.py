"""Vectors travel: an export comes back row for row, vectors made elsewhere come in, and what does not belong is refused."""

import builtins
import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_index_store import DIM, FINGERPRINT, facts_of, opened, row, unit

from conftest import invoke, json_lines, words
from mcr_infer.cli import session
from mcr_infer.errors import BundleError, EmbeddingIndexError, QueryError
from mcr_infer.index import KINDS, Index, Row, parse_filter, search
from mcr_infer.pipeline.transfer.exporting import export
from mcr_infer.pipeline.transfer.formats import Columns
from mcr_infer.pipeline.transfer.importing import open_source
from tiny import tiny_bundle

LATIN_1 = b"archive/M\xfcller.dcm".decode("utf-8", "surrogateescape")
FULL = {
    "study_uid": "1.9.4",
    "series_uid": "1.8.4",
    "patient_key": "ab" * 32,
    "precision": "int8",
    "patch_budget": 0.5,
    "content_digest": "0f" * 32,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows with everything that a row may have, and with nothing."""
    with opened(tmp_path / "index") as index:
        index.add(
            [
                row(
                    1,
                    metadata={"view": "PA", "study_year": 2019, "mirrored": False, "spacing": 0.143, "note": None},
                    **FULL,
                ),
                row(
                    2,
                    path=LATIN_1,
                    metadata={"view": "AP", "study_year": 2020, "spacing": 1, "odd": "x\udc80", "big": 1 << 70},
                ),
                row(3, path=None, metadata={"view": "PA", "odd": 3}),
                row(
                    4,
                    kind="report",
                    id="r-4",
                    path="reports.csv:5",
                    text="No pneumothorax. Größe unverändert.",
                    text_strategy="impression-first",
                ),
            ]
        )
    return tmp_path / "index"


def rows_of(folder: Path) -> list[tuple[object, ...]]:
    with Index.open(folder) as index:
        return [facts_of(index.get(kind, id)) for kind in KINDS for id in index.ids(kind)]


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_an_export_comes_back_row_for_row(folder: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    told = invoke("export", "--index", folder, "--out", out, "--keep-text", "--json")
    assert json_lines(told.stdout) == [{"out": str(out), "rows": {"image": 3, "report": 1}, "texts_left_out": 0}]
    (summary,) = json_lines(invoke("import", out, "--index", tmp_path / "back", "--json").stdout)
    assert (summary["imported"], summary["unchanged"], summary["failed"]) == (4, 0, 0)
    assert rows_of(tmp_path / "back") == rows_of(folder)
    with Index.open(folder) as one, Index.open(tmp_path / "back") as other:
        assert replace(other.identity, index_id=one.identity.index_id) == one.identity
        assert other.identity.index_id != one.identity.index_id
    (summary,) = json_lines(invoke("import", out, "--index", tmp_path / "back", "--json").stdout)
    assert (summary["imported"], summary["unchanged"]) == (0, 4)
    with pytest.raises(AssertionError, match="is there already: remove it"):
        invoke("export", "--index", folder, "--out", out)
    files = [out, *out.iterdir()] if out.is_dir() else [out]
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    assert not list(tmp_path.glob(".*.part"))


def test_a_table_says_what_a_row_is_in_typed_columns(folder: Path, tmp_path: Path) -> None:
    invoke("export", "--index", folder, "--out", tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("vector").type.list_size == DIM
    assert table.schema.field("vector").type.value_type == pa.float32()
    types = {
        name.removeprefix("meta_"): str(table.schema.field(name).type) for name in table.column_names if "meta_" in name
    }
    assert types == {
        "big": "string", "mirrored": "bool", "note": "string", "odd": "string", "spacing": "double", "study_year": "int64",
        "view": "string",
    }  # fmt: skip
    records = table.to_pylist()
    assert [record["id"] for record in records] == ["1.2.1", "1.2.2", "1.2.3", "r-4"]
    assert {name: records[0][name] for name in FULL} == FULL
    assert (records[0]["path"], records[0]["path_bytes"]) == ("study/1.dcm", None)
    assert (records[1]["path"], records[1]["path_bytes"]) == (None, b"archive/M\xfcller.dcm")
    assert (records[0]["meta_study_year"], records[0]["meta_mirrored"], records[1]["meta_spacing"]) == (
        2019,
        False,
        1.0,
    )
    assert (records[1]["meta_odd"], records[2]["meta_odd"], records[1]["meta_big"]) == ("x?", "3", str(1 << 70))
    assert json.loads(records[1]["metadata"])["odd"] == "x\udc80"
    assert np.array_equal(np.array(records[2]["vector"], dtype=np.float32), unit(3))
    described = json.loads(table.schema.metadata[b"mcr_infer"])
    assert (described["fingerprint"], described["embedding_dim"], described["bundle"]) == (FINGERPRINT, DIM, "phantom")
    assert described["rows"] == {"image": 3, "report": 1}


def test_texts_stay_behind_and_are_not_lost_by_coming_back(folder: Path, tmp_path: Path) -> None:
    done = invoke("export", "--index", folder, "--out", tmp_path / "out.parquet")
    assert "the text of 1 rows was not exported; --keep-text" in done.stderr
    assert b"pneumothorax" not in (tmp_path / "out.parquet").read_bytes()
    before = rows_of(folder)
    (summary,) = json_lines(invoke("import", tmp_path / "out.parquet", "--index", folder, "--json").stdout)
    assert summary["unchanged"] == 4
    assert rows_of(folder) == before


def test_an_export_of_what_matches(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("export", "--index", folder, "--out", out, "--where", "view=PA and study_year>=2019")
    assert np.array_equal(np.load(out / "vectors.npy"), unit(1)[None])
    assert [record["id"] for record in json_lines((out / "rows.jsonl").read_text())] == ["1.2.1"]
    with Index.open(folder) as index:
        with pytest.raises(QueryError, match=r"nothing of index .* is to be exported"):
            export(index, tmp_path / "none", format="npy", where=parse_filter("view=LATERAL"))
        with pytest.raises(EmbeddingIndexError, match=r"the folder .* of --out is not there"):
            export(index, tmp_path / "no" / "out", format="npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "out"]


def test_an_export_says_whose_vectors_it_holds(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    invoke("export", "--index", folder, "--out", out)
    done = invoke("import", out, "--index", tmp_path / "back", "--name", "other", code=2)
    assert "says itself whose vectors it holds ('phantom'): leave out --name" in words(done.stderr)
    bundle = tiny_bundle(tmp_path / "bundle")
    done = invoke("import", out, "--index", tmp_path / "back", "--bundle", bundle.path, code=1)
    assert "they cannot be compared" in done.stderr
    assert not (tmp_path / "back").exists()
    with Index.open_or_create(
        tmp_path / "tiny", fingerprint=bundle.fingerprint, embedding_dim=8, bundle="tiny", bundle_path="/gone"
    ) as index:
        index.add([row(1, vector=unit(1, dim=8))])
    invoke("export", "--index", tmp_path / "tiny", "--out", tmp_path / "moved")
    invoke("import", tmp_path / "moved", "--index", tmp_path / "back", "--bundle", bundle.path)
    with Index.open(tmp_path / "back") as index:
        assert (index.bundle, index.bundle_path) == ("tiny", str(bundle.path))


def test_rows_without_keys_do_not_come_to_rows_with_keys(tmp_path: Path) -> None:
    with Index.open_or_create(
        tmp_path / "index",
        fingerprint=FINGERPRINT,
        embedding_dim=DIM,
        bundle="m",
        bundle_path="none",
        secret_check="aa",
    ) as index:
        index.add([row(1, patient_key="ab" * 32)])
    vectors = pa.array([unit(1).tolist()], pa.list_(pa.float32(), DIM))
    file = table_of(tmp_path / "v.parquet", ["a"], vectors)
    done = invoke("import", file, "--index", tmp_path / "index", *FOREIGN[2:], code=2)
    assert "only exports of such an index come in" in words(done.stderr)
    invoke("export", "--index", tmp_path / "index", "--out", tmp_path / "out")
    assert "1 unchanged" in invoke("import", tmp_path / "out", "--index", tmp_path / "index").stdout


def test_another_vector_of_one_id_does_not_take_over_its_text(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([row(1, kind="report", text="No effusion.")])
        other = row(1, kind="report", vector=unit(2))
    with opened(tmp_path / "other") as index:
        index.add([other])
    invoke("export", "--index", tmp_path / "other", "--out", tmp_path / "out")
    invoke("import", tmp_path / "out", "--index", tmp_path / "index", "--on-conflict", "replace")
    with Index.open(tmp_path / "index") as index:
        assert facts_of(index.get("report", "1.2.1")) == facts_of(other)


def test_a_full_disk_leaves_no_export(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with Index.open(folder) as index:
        for name, format in (("out", "npy"), ("out.parquet", "parquet")):
            with pytest.raises(EmbeddingIndexError, match=r"cannot be written \(No space left on device\)"):
                export(index, folder.parent / name, format=format)  # type: ignore[arg-type]
    assert [path.name for path in folder.parent.iterdir()] == ["index"]


def test_without_pyarrow_parquet_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def importing(name: str, *rest: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    with Index.open(folder) as index:
        with pytest.raises(EmbeddingIndexError, match=r"pip install 'mcr-infer\[parquet\]', or use --format npy"):
            export(index, folder.parent / "out.parquet", format="parquet")
        export(index, folder.parent / "out", format="npy")


def table_of(path: Path, ids: list[Any], vectors: pa.Array, **more: list[Any]) -> Path:
    pq.write_table(pa.table({"name": ids, "embedding": vectors, **more}), path)
    return path


FOREIGN = ("--name", "my-clip", "--id-column", "name", "--vector-column", "embedding")


def test_each_vector_that_does_not_belong_is_refused_by_name(tmp_path: Path) -> None:
    good = [unit(n).tolist() for n in range(3)]
    long = (2 * unit(7)).tolist()
    ids = ["a", "b", "", None, "b", "nan", "long", "short", "none", "zero", "c"]
    vectors = [
        good[0], good[1], good[0], good[0], good[2], [float("nan"), *good[0][1:]], long, good[0][:5], None, [0.0] * DIM,
        good[2],
    ]  # fmt: skip
    file = table_of(tmp_path / "v.parquet", ids, pa.array(vectors, pa.list_(pa.float64())))
    done = invoke("import", file, "--index", tmp_path / "index", *FOREIGN, "--dim", str(DIM), "--json", code=3)
    (summary,) = json_lines(done.stdout)
    assert (summary["imported"], summary["failed"]) == (3, 8)
    assert [(one["path"].rpartition(":")[2], one["reason"]) for one in summary["failures"]] == [
        ("row 3", "no_id"), ("row 4", "no_id"), ("row 5", "double_id"), ("row 6", "not_finite"), ("row 7", "not_unit"),
        ("row 8", "dimension"), ("row 9", "dimension"), ("row 10", "not_unit"),
    ]  # fmt: skip
    errors = [one["error"] for one in summary["failures"]]
    assert errors[3] == "1 of 32 values of the vector of 'nan' are not finite"
    assert errors[4] == "the vector of 'long' has length 2, expected 1; --normalise divides by it"
    assert errors[5] == "the vector of 'short' has 5 dimensions, the index takes 32"
    with Index.open(tmp_path / "index") as index:
        assert index.ids("image") == ["a", "b", "c"]
        assert index.provenance("image") == {("unknown", 1.0)}
    done = invoke("import", file, "--index", tmp_path / "index", *FOREIGN, "--dim", str(DIM), "--normalise", code=3)
    assert "1 vectors imported, 3 unchanged, 7 failed" in done.stdout
    with Index.open(tmp_path / "index") as index:
        assert np.allclose(index.vector("image", "long"), unit(7), atol=1e-7)


def import_pair(tmp_path: Path, ids: list[str], seeds: list[int], *options: str, code: int) -> dict[str, Any]:
    vectors = pa.array([unit(n).tolist() for n in seeds], pa.list_(pa.float64()))
    file = table_of(tmp_path / f"{'-'.join(map(str, seeds))}.parquet", ids, vectors)
    place = ("--index", tmp_path / "index", *FOREIGN, "--dim", str(DIM), "--json")
    (summary,) = json_lines(invoke("import", file, *place, *options, code=code).stdout)
    return summary


def vectors_in(tmp_path: Path) -> dict[str, int]:
    """Say by which seed each row was made."""
    with Index.open(tmp_path / "index") as index:
        found = {id: index.vector("image", id) for id in index.ids("image")}
    return {id: next(n for n in range(9) if np.allclose(unit(n), vector, atol=1e-6)) for id, vector in found.items()}


@pytest.mark.parametrize("runs", [1, 2])
def test_one_id_of_two_contents_is_a_conflict(tmp_path: Path, runs: int) -> None:
    ids, seeds = ["a", "b", "a"], [0, 1, 2]
    given = [(ids, seeds)] if runs == 1 else [(ids[:2], seeds[:2]), (ids[2:], seeds[2:])]
    for number, (some, of) in enumerate(given, start=1):
        summary = import_pair(tmp_path, some, of, code=3 if number == runs else 0)
    ((failure),) = summary["failures"]
    assert failure["reason"] == ("double_id" if runs == 1 else "id_conflict")
    assert "--on-conflict skip" in failure["error"]
    assert vectors_in(tmp_path) == {"a": 0, "b": 1}
    summary = import_pair(tmp_path, ["a", "c"], [2, 3], "--on-conflict", "skip", code=0)
    assert (summary["imported"], summary["left_out"]) == (1, {"id_conflict": 1})
    assert vectors_in(tmp_path) == {"a": 0, "b": 1, "c": 3}
    summary = import_pair(tmp_path, ["a", "a"], [2, 4], "--on-conflict", "replace", code=0)
    assert (summary["imported"], summary["failed"]) == (2, 0)
    assert vectors_in(tmp_path) == {"a": 4, "b": 1, "c": 3}


def test_the_same_row_twice_is_no_conflict(tmp_path: Path) -> None:
    summary = import_pair(tmp_path, ["a", "a"], [0, 0], code=0)
    assert (summary["imported"], summary["unchanged"]) == (1, 1)


def test_an_index_of_a_model_without_a_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate([unit(n) for n in range(5)])), DIM)
    facts = {"view": ["PA", "AP", None, "PA", "PA"], "study_uid": ["1.9.1"] * 5, "patient_name": ["DOE^JOHN"] * 5}
    file = table_of(tmp_path / "v.parquet", list(range(5)), vectors, **facts)
    invoke("import", file, "--index", folder, *FOREIGN, "--metadata", "view", "--kind", "report")
    with Index.open(folder) as index:
        assert index.fingerprint == hashlib.sha256(b"mcr-infer model without a bundle: my-clip").hexdigest()
        assert (index.bundle, index.embedding_dim, index.count("report")) == ("my-clip", DIM, 5)
        hits = search(index, unit(4), kind="report", k=2, where="view=PA", fingerprint=index.fingerprint)[0]
        assert (hits[0].id, hits[0].study_uid, dict(hits[0].metadata)) == ("4", "1.9.1", {"view": "PA"})
        with pytest.raises(BundleError, match=r"the model 'my-clip', which is not a bundle: there is no text tower"):
            session.bundle_of(index, None)
    assert b"DOE" not in b"".join(path.read_bytes() for path in folder.iterdir())
    assert "there is no text tower" in invoke("query", "effusion", "--index", folder, code=1).stderr
    invoke("import", file, "--index", folder, *FOREIGN)  # as images, too
    (hit,) = json_lines(invoke("query", "--like", "4", "-k", "1", "--index", folder, "--json").stdout)
    with Index.open(folder) as index:
        (first,) = search(index, unit(4), k=1, exclude={"4"}, fingerprint=index.fingerprint)[0]
    assert (hit["id"], hit["score"]) == (first.id, round(first.score, 6))
    assert "no text tower" in invoke("query", "--like", "4", "--not", "effusion", "--index", folder, code=1).stderr
    assert json_lines(invoke("info", "--index", folder, "--json").stdout)[0]["bundle"] == "my-clip"
    invoke("import", file, "--index", folder, *FOREIGN[2:], "--kind", "report")  # the index says whose they are
    done = invoke("import", file, "--index", folder, "--name", "other", *FOREIGN[2:], code=1)
    assert "they cannot be compared" in done.stderr
    fingerprint = "cd" * 32
    invoke("import", file, "--index", tmp_path / "two", *FOREIGN, "--fingerprint", fingerprint)
    with Index.open(tmp_path / "two") as index:
        assert index.fingerprint == fingerprint


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl"])
def test_npy_of_others_with_ids_beside_it(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    np.save(folder / "v.npy", np.stack([unit(n) for n in range(3)]).astype(np.float64))
    ids = ["a", 'b,"1"', "ü"]
    with (folder / f"ids{ending}").open("w", encoding="utf-8", newline="") as file:
        if ending == ".csv":
            csv.writer(file).writerows([["view", "id"], *(["PA", id] for id in ids)])
        else:
            file.writelines((json.dumps({"id": id, "view": "PA"}) if ending == ".jsonl" else id) + "\n" for id in ids)
    invoke(
        "import",
        folder,
        "--index",
        tmp_path / "index",
        "--name",
        "m",
        *(("--metadata", "view") if ending != ".txt" else ()),
    )
    with Index.open(tmp_path / "index") as index:
        assert index.ids("image") == sorted(ids)
        assert np.array_equal(index.vector("image", "ü"), unit(2))
        assert ending == ".txt" or dict(index.get("image", "a").metadata) == {"view": "PA"}  # type: ignore[union-attr]
    np.save(folder / "v.npy", np.stack([unit(n) for n in range(2)]))
    assert (
        "names 3 rows, v.npy has 2"
        in invoke("import", folder, "--index", tmp_path / "index", "--name", "m", code=1).stderr
    )
    np.save(folder / "w.npy", np.zeros(2))
    assert (
        "must hold one file of .npy"
        in invoke("import", folder, "--index", tmp_path / "index", "--name", "m", code=1).stderr
    )


def damaged_sources(folder: Path, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    with Index.open(folder) as index:
        export(index, tmp_path / "ours", format="npy")
        export(index, tmp_path / "ours.parquet", format="parquet")
    for name in ("vectors.npy", "rows.jsonl"):
        content = (tmp_path / "ours" / name).read_bytes()
        (tmp_path / "ours" / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
        yield tmp_path / "ours", f"{name} does not match its digest in export.json"
        (tmp_path / "ours" / name).write_bytes(content)
    (tmp_path / "ours" / "export.json").write_text('{"format": "mcr-infer vectors", "version": 2}')
    yield tmp_path / "ours", "has version 2 of its format, this mcr-infer reads up to 1"
    (tmp_path / "ours" / "export.json").write_text('{"format": "mcr-infer vectors"}')
    yield tmp_path / "ours", "export.json is damaged"
    content = (tmp_path / "ours.parquet").read_bytes()
    at = content.index(unit(1).tobytes()[:16])
    (tmp_path / "ours.parquet").write_bytes(content[:at] + b"\xff" + content[at + 1 :])
    yield tmp_path / "ours.parquet", "cannot be read as Parquet"
    (tmp_path / "ours.parquet").write_bytes(content[: len(content) // 2])
    yield tmp_path / "ours.parquet", "cannot be read as Parquet"
    yield tmp_path / "nothing", "is not there"
    (tmp_path / "text").write_text("PAR")
    yield tmp_path / "text", "is no Parquet file"


def test_damaged_exports_are_one_clear_error(folder: Path, tmp_path: Path) -> None:
    for path, said in damaged_sources(folder, tmp_path):
        assert said in invoke("import", path, "--index", tmp_path / "back", code=1).stderr, said


def test_what_is_no_table_of_vectors(tmp_path: Path) -> None:
    file = table_of(tmp_path / "v.parquet", ["a"], pa.array([[1, 2]]))
    with pytest.raises(EmbeddingIndexError, match=r"has no column 'id': it has name, embedding\. .* --id-column"):
        open_source(file, Columns())
    with pytest.raises(EmbeddingIndexError, match=r"column 'embedding' must be a list of floats, got list<"):
        open_source(file, Columns(id="name", vector="embedding"))
    invoke("import", file, "--index", tmp_path / "index", code=1)
    vectors = pa.array([unit(1).tolist()])
    file = table_of(tmp_path / "w.parquet", ["a"], vectors)
    done = invoke("import", file, "--index", tmp_path / "index", *FOREIGN[2:], code=2)
    assert "does not say whose vectors it holds: name the --bundle" in words(done.stderr)
    assert "--dim" in invoke("import", file, "--index", tmp_path / "index", *FOREIGN, code=2).stderr
    assert not (tmp_path / "index").exists()


def test_rows_are_valid_when_they_come_back(tmp_path: Path) -> None:
    with opened(tmp_path / "index") as index:
        index.add([Row(id="a", kind="image", path=None, vector=unit(1))])
        export(index, tmp_path / "out", format="npy")
    line = (tmp_path / "out" / "rows.jsonl").read_text().replace('"patch_budget": 1.0', '"patch_budget": 7.0')
    (tmp_path / "out" / "rows.jsonl").write_text(line)
    described = json.loads((tmp_path / "out" / "export.json").read_text())
    described["digests"]["rows.jsonl"] = hashlib.sha256(line.encode()).hexdigest()
    (tmp_path / "out" / "export.json").write_text(json.dumps(described))
    (summary,) = json_lines(invoke("import", tmp_path / "out", "--index", tmp_path / "back", "--json", code=3).stdout)
    assert [one["error"] for one in summary["failures"]] == ["image 'a': patch_budget must lie in (0, 1], got 7.0"]
