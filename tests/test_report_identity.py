"""Which row a report is: two studies never share one, the same report never has two, and nothing is replaced in silence."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_pipeline import count
from test_pseudonymous_runs import opened
from test_pseudonyms import KEYS, SECRET

from mcr_infer import Bundle, Index, TextEncoder
from mcr_infer.index import Row
from mcr_infer.index.audit import audit
from mcr_infer.pipeline.deidentification import DeidentificationPolicy
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.pipeline.report_run import embed_reports
from mcr_infer.reports import read_reports
from tiny import tiny_bundle

NORMAL, EFFUSION, EDEMA = "Normal chest.", "Left effusion.", "Pulmonary edema."
PLAIN = DeidentificationPolicy()
Run = Callable[..., list[Outcome]]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> TextEncoder:
    return TextEncoder(bundle)


@pytest.fixture
def run(bundle: Bundle, encoder: TextEncoder, tmp_path: Path) -> Run:
    """Embed a table or folder into one index and return the outcomes."""

    def embed(
        path: Path, *, naming: DeidentificationPolicy = PLAIN, batch_size: int = 2, keep_text: bool = False
    ) -> list[Outcome]:
        options = {"batch_size": batch_size, "keep_text": keep_text, "naming": naming}
        with opened(bundle, tmp_path / "index", naming) as index:
            records = read_reports(path, patients=naming.patients)
            outcomes = list(embed_reports(records, index=index, encoder=encoder, **options))
            index.save_snapshots()
        assert all(check.ok for check in audit(tmp_path / "index"))
        return outcomes

    return embed


def write(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join((header, *rows)) + "\n")
    return path


def rows_of(tmp_path: Path) -> list[Row]:
    with Index.open(tmp_path / "index") as index:
        return [index.get("report", id) for id in index.ids("report")]


def studies(tmp_path: Path) -> Counter[str | None]:
    return Counter(row.study_uid for row in rows_of(tmp_path))


def paths(tmp_path: Path) -> set[str]:
    return {str(row.path).rpartition("/")[2] for row in rows_of(tmp_path)}


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
def test_equal_words_of_two_studies_are_two_rows(naming: DeidentificationPolicy, run: Run, tmp_path: Path):
    table = write(tmp_path / "r.csv", "study_uid,report", f"1.2.1,{NORMAL}", f"1.2.2,{NORMAL}", f"1.2.3,{EFFUSION}")
    assert count(run(table, naming=naming)) == {"embedded": 3}
    assert count(run(table, naming=naming)) == {"unchanged": 3}
    told = [SECRET.study_key(f"1.2.{n}") if naming.pseudonymous else f"1.2.{n}" for n in (1, 2, 3)]
    assert studies(tmp_path) == Counter(told)


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
def test_one_name_in_two_folders_is_two_rows(naming: DeidentificationPolicy, run: Run, tmp_path: Path):
    for site, text in (("a", EFFUSION), ("b", EDEMA), ("c", EFFUSION)):
        (tmp_path / site).mkdir()
        (tmp_path / site / "1.txt").write_text(text)
        assert count(run(tmp_path / site, naming=naming)) == {"embedded": 1}
    for site in ("a", "b", "c"):
        assert count(run(tmp_path / site, naming=naming)) == {"unchanged": 1}
    assert len(rows_of(tmp_path)) == 3
    (tmp_path / "a" / "1.txt").write_text(NORMAL)
    assert count(run(tmp_path / "a", naming=naming)) == {"embedded": 1}
    assert len(rows_of(tmp_path)) == 3


@pytest.mark.parametrize("name", ["r.csv", "1.txt"])
def test_spelling_and_working_folder_make_no_second_row(name: str, run: Run, tmp_path: Path, monkeypatch):
    place = tmp_path / "data"
    write(place / name, "report", NORMAL, NORMAL) if name == "r.csv" else write(place / name, NORMAL)
    (tmp_path / "link").symlink_to(place, target_is_directory=True)
    source = name if name == "r.csv" else ""
    embedded = count(run(place / source))["embedded"]
    stored = {row.id: row.path for row in rows_of(tmp_path)}
    for folder, spelling in (
        (place, source or "."),
        (tmp_path, f"data/../data/{source}"),
        (Path("/tmp"), f"{tmp_path}/link/{source}"),
    ):
        monkeypatch.chdir(folder)
        assert count(run(Path(spelling))) == {"unchanged": embedded}
    assert {row.id: row.path for row in rows_of(tmp_path)} == stored


@pytest.mark.parametrize("given", ["id,", ""], ids=["with an id", "without"])
@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
@pytest.mark.parametrize("fact", ["study_uid", "patient_id"])
def test_a_changed_fact_updates_its_row(
    fact: str, naming: DeidentificationPolicy, given: str, run: Run, tmp_path: Path
):
    def table(value: str) -> Path:
        ids = ("a,", "b,") if given else ("", "")
        header = f"{given}study_uid,patient_id,report"
        other = f"1.2,{value}" if fact == "patient_id" else f"{value},P1"
        return write(tmp_path / "r.csv", header, f"{ids[0]}1.1,P1,{NORMAL}", f"{ids[1]}{other},{EFFUSION}")

    naming = naming if naming.secret or fact == "study_uid" else DeidentificationPolicy(secret=SECRET)
    assert count(run(table("7"), naming=naming)) == {"embedded": 2}
    vectors = {row.content_digest: row.vector for row in rows_of(tmp_path)}
    assert count(run(table("8"), naming=naming)) == {"updated": 1, "unchanged": 1}
    rows = rows_of(tmp_path)
    assert len(rows) == 2
    assert all(np.array_equal(row.vector, vectors[row.content_digest]) for row in rows)
    new = {"study_uid": SECRET.study_key("8") if naming.pseudonymous else "8", "patient_id": SECRET.patient_key("8")}[
        fact
    ]
    assert new in {row.study_uid if fact == "study_uid" else row.patient_key for row in rows}
    assert count(run(table("8"), naming=naming)) == {"unchanged": 2}


def test_a_changed_path_updates_its_row(run: Run, tmp_path: Path):
    for name, expected in (("a.txt", "embedded"), ("b.txt", "updated"), ("b.txt", "unchanged")):
        (tmp_path / name).touch()
        assert count(run(write(tmp_path / "r.csv", "id,path,report", f"1,{tmp_path / name},{NORMAL}"))) == {expected: 1}
        assert paths(tmp_path) == {name}


def test_rows_that_move_in_a_table_stay_themselves(run: Run, tmp_path: Path):
    rows = [f"1.2.{n},{text}" for n, text in enumerate((NORMAL, NORMAL, EFFUSION, NORMAL))]
    run(write(tmp_path / "r.csv", "study_uid,report", *rows))
    ids = {row.study_uid: row.id for row in rows_of(tmp_path)}
    assert count(run(write(tmp_path / "r.csv", "study_uid,report", f"1.3,{NORMAL}", *rows))) == {
        "embedded": 1,
        "updated": 4,
    }
    assert ids.items() < {row.study_uid: row.id for row in rows_of(tmp_path)}.items()
    assert paths(tmp_path) == {f"r.csv:{n}" for n in range(2, 7)}
    # Those of the table that are gone stay in the index.
    assert count(run(write(tmp_path / "r.csv", "study_uid,report", *rows[2:]))) == {"updated": 2}
    assert len(rows_of(tmp_path)) == 5


def test_another_table_in_its_place_replaces_nothing(run: Run, tmp_path: Path):
    for day in (1, 2, 3):
        table = write(tmp_path / "today.csv", "study_uid,report", f"1.{day}.1,{NORMAL}", f"1.{day}.2,{NORMAL}")
        assert count(run(table)) == {"embedded": 2}
    assert studies(tmp_path) == Counter(f"1.{day}.{n}" for day in (1, 2, 3) for n in (1, 2))


def test_a_study_that_is_told_later_updates_the_row(run: Run, tmp_path: Path):
    run(write(tmp_path / "r.csv", "report", NORMAL, NORMAL, EFFUSION))
    table = write(tmp_path / "r.csv", "report,study_uid", f"{NORMAL},1.1", f"{NORMAL},1.2", f"{EFFUSION},1.3")
    assert count(run(table)) == {"updated": 3}
    assert studies(tmp_path) == Counter(["1.1", "1.2", "1.3"])


def test_rows_that_nothing_tells_apart_are_all_kept(run: Run, tmp_path: Path):
    table = write(tmp_path / "r.csv", "report", NORMAL, EFFUSION, NORMAL)
    other = write(tmp_path / "s.csv", "report", NORMAL)
    assert count(run(table)) == {"embedded": 3}
    assert count(run(other)) == {"embedded": 1}
    assert count(run(table)) == {"unchanged": 3}
    assert paths(tmp_path) == {"r.csv:2", "r.csv:3", "r.csv:4", "s.csv:2"}


def test_an_id_that_stands_twice_is_a_conflict(run: Run, tmp_path: Path):
    rows = (f"a,1.1,{NORMAL}", f"a,1.1,{EFFUSION}", f"a,1.2,{NORMAL}", f"a,,{NORMAL}", f"a,1.1,{NORMAL}")
    outcomes = run(write(tmp_path / "r.csv", "id,study_uid,report", *rows))
    assert count(outcomes) == {"embedded": 1, "id_conflict": 3, "duplicate": 1}
    assert [outcome.error.rpartition(" ")[2] for outcome in outcomes if outcome.error] == ["text", "study", "study"]


def repeated_in_a_table(place: Path) -> Path:
    rows = (f"a,1.1,{NORMAL}", f"b,1.1,{EDEMA}", f"a,1.1,{NORMAL}", f",1.3,{EFFUSION}", f",1.3,{EFFUSION}")
    return write(place / "r.csv", "id,study_uid,report", *rows, f"a,1.1,{NORMAL}")


def repeated_in_json_lines(place: Path) -> Path:
    rows = [{"id": id, "text": text} for id, text in (("a", NORMAL), ("a", NORMAL), ("b", EDEMA), ("c", NORMAL))]
    rows += [{"study_id": 7, "text": EFFUSION}, {"study_id": "7", "text": EFFUSION}, {"id": "b", "text": EDEMA}]
    return write(place / "r.jsonl", *map(json.dumps, rows))


def repeated_in_a_folder(place: Path) -> Path:
    for name, text in (("a", NORMAL), ("b", EDEMA), ("c", NORMAL)):
        write(place / "reports" / f"{name}.txt", text)
    for link in ("d", "e", "f"):
        (place / "reports" / f"{link}.txt").symlink_to("b.txt")
    return place / "reports"


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
@pytest.mark.parametrize("repeated", [repeated_in_a_table, repeated_in_json_lines, repeated_in_a_folder])
def test_a_repeated_report_is_a_duplicate(
    repeated: Callable[[Path], Path], naming: DeidentificationPolicy, run: Run, tmp_path: Path
):
    reports = repeated(tmp_path)
    distinct = 4 if repeated is repeated_in_json_lines else 3
    assert count(run(reports, naming=naming)) == {"embedded": distinct, "duplicate": 3}
    assert count(run(reports, naming=naming)) == {"unchanged": distinct, "duplicate": 3}
    assert len(rows_of(tmp_path)) == distinct


def test_a_duplicate_of_an_updated_report_is_counted(run: Run, tmp_path: Path):
    run(write(tmp_path / "r.csv", "id,report", f"a,{NORMAL}", f"b,{EDEMA}"))
    rows = (f"a,1.1,{NORMAL}", f"a,1.1,{NORMAL}", f"b,,{EFFUSION}", f"b,,{EFFUSION}", f"b,,{EDEMA}")
    outcomes = run(write(tmp_path / "r.csv", "id,study_uid,report", *rows))
    assert count(outcomes) == {"updated": 1, "embedded": 1, "duplicate": 2, "id_conflict": 1}


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
def test_an_id_of_another_table_is_a_conflict(naming: DeidentificationPolicy, run: Run, tmp_path: Path):
    run(
        write(tmp_path / "a.csv", "id,study_uid,report", f"1,1.1,{NORMAL}", f"2,1.2,{EDEMA}", f"3,,{EDEMA}"),
        naming=naming,
    )
    other = write(tmp_path / "b.csv", "id,study_uid,report", f"1,2.1,{NORMAL}", f"2,1.2,{EFFUSION}", f"3,,{EFFUSION}")
    # Equal studies say that the words were corrected; another study, or other words alone, that it is another report.
    assert count(run(other, naming=naming)) == {"id_conflict": 2, "embedded": 1}
    (tmp_path / "a.csv").unlink()
    # Without paths nobody can know that the other table is gone.
    expected = {"id_conflict": 2} if naming.pseudonymous else {"embedded": 1, "updated": 1}
    assert count(run(other, naming=naming)) == {"unchanged": 1, **expected}
    if not naming.pseudonymous:
        assert {row.id: row.study_uid for row in rows_of(tmp_path)} == {"1": "2.1", "2": "1.2", "3": None}


def test_an_empty_cell_takes_nothing_back(run: Run, tmp_path: Path):
    run(write(tmp_path / "r.csv", "id,study_uid,report", f"a,1.1,{NORMAL}"))
    assert count(run(write(tmp_path / "r.csv", "id,report", f"a,{NORMAL}"))) == {"unchanged": 1}
    assert count(run(write(tmp_path / "r.csv", "id,report", f"a,{EFFUSION}"))) == {"embedded": 1}
    assert studies(tmp_path) == {"1.1": 1}


def test_text_that_is_asked_for_is_added(run: Run, tmp_path: Path):
    table = write(tmp_path / "r.csv", "id,report", f"a,{NORMAL}")
    for keep_text, expected in ((False, "embedded"), (True, "updated"), (True, "unchanged"), (False, "unchanged")):
        assert count(run(table, keep_text=keep_text)) == {expected: 1}
    assert rows_of(tmp_path)[0].text == NORMAL


def former_id(text: str, patient: str = "") -> str:
    return "sha256:" + hashlib.sha256((text + patient).encode()).hexdigest()[:32]


@pytest.fixture
def earlier(bundle: Bundle, encoder: TextEncoder, tmp_path: Path):
    """Make an index as earlier versions did: ids by words alone or by relative names, no memory of places."""

    def make(*rows: tuple[str, str, str | None, str | None], naming: DeidentificationPolicy = PLAIN) -> None:
        keys = naming.secret if naming.pseudonymous else None
        with opened(bundle, tmp_path / "index", naming) as index:
            for id, text, path, study in rows:
                digest = hashlib.sha256(text.encode()).hexdigest()
                row = Row(
                    id=keys.report_key(id) if keys else id,
                    kind="report",
                    path=None if keys else path,
                    study_uid=keys.study_key(study) if keys and study else study,
                    vector=encoder.encode([text])[0],
                    content_digest=naming.content(digest),
                )
                index.add([row])

    return make


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
@pytest.mark.parametrize("moved", [False, True])
def test_rows_of_earlier_versions_are_not_doubled(
    moved: bool, naming: DeidentificationPolicy, run: Run, earlier, tmp_path: Path
):
    table = write(tmp_path / "r.csv", "study_uid,report", f"1.1,{NORMAL}", f"1.2,{NORMAL}", f"1.3,{EFFUSION}")
    told = "/gone/r.csv" if moved else table
    earlier(
        (former_id(NORMAL), NORMAL, f"{told}:2", "1.1"),
        (former_id(EFFUSION), EFFUSION, f"{told}:4", "1.3"),
        naming=naming,
    )
    assert count(run(table, naming=naming)) == {"updated": 2, "embedded": 1}
    assert len(rows_of(tmp_path)) == 3
    assert count(run(table, naming=naming)) == {"unchanged": 3}


@pytest.mark.parametrize("naming", [PLAIN, KEYS], ids=["plain", "pseudonymous"])
def test_files_of_earlier_versions_are_not_doubled(naming: DeidentificationPolicy, run: Run, earlier, tmp_path: Path):
    site = tmp_path / "a"
    (site / "deep").mkdir(parents=True)
    (site / "deep" / "1.txt").write_text(NORMAL)
    (site / "2.txt").write_text(EDEMA)
    earlier(("deep/1", NORMAL, f"{site}/deep/1.txt", None), ("2", EFFUSION, f"{site}/2.txt", None), naming=naming)
    outcomes = run(site, naming=naming)
    if naming.pseudonymous:  # which of two folders had this name, nobody can know
        assert count(outcomes) == {"updated": 1, "id_conflict": 1}
        assert f"--id {SECRET.report_key('2')}" in str(outcomes)
    else:
        assert count(outcomes) == {"updated": 1, "embedded": 1}
    assert len(rows_of(tmp_path)) == 2


def test_a_row_of_another_folder_is_left_to_it(run: Run, earlier, tmp_path: Path):
    for site, text in (("a", NORMAL), ("b", EFFUSION)):
        (tmp_path / site).mkdir()
        (tmp_path / site / "1.txt").write_text(text)
    # The second folder had replaced the row of the first one.
    earlier(("1", EFFUSION, f"{tmp_path}/b/1.txt", None))
    assert count(run(tmp_path / "a")) == {"embedded": 1}
    assert count(run(tmp_path / "b")) == {"updated": 1}
    assert len(rows_of(tmp_path)) == 2


def test_files_that_are_not_utf8_by_name_are_embedded(run: Run, tmp_path: Path):
    folder = tmp_path / "odd"
    folder.mkdir()
    names = (b"m\xe9.txt", b"\xff\xfe.txt", "gr\u00f6\u00dfe.txt".encode(), b"a\n\x1b[31m.txt")
    for name in names:
        (folder / os.fsdecode(name)).write_text(EDEMA)
    assert count(run(folder)) == {"embedded": 4}
    assert count(run(folder)) == {"unchanged": 4}
    assert {os.fsencode(Path(row.path).name) for row in rows_of(tmp_path)} == set(names)
    json.dumps([row.id for row in rows_of(tmp_path)]).encode("ascii")
