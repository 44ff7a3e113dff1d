"""Keeping an index: what is deleted is gone, from the disk too; what lies beside the store can be made again and tuned."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_index_store import DIM, FINGERPRINT, opened, row, stamp, unit

from conftest import invoke, json_lines, words
from mcr_infer.errors import EmbeddingIndexError, QueryError
from mcr_infer.index import Index, parse_filter, search
from mcr_infer.index import columns as facts_module
from mcr_infer.index.index import create
from mcr_infer.index.manifest import Identity
from mcr_infer.index.row_selection import Among, compact, plan_deletion, unreachable
from mcr_infer.index.tuning import BREADTHS, queries_of_other_kind, tune
from mcr_infer.inference.bundle import Bundle
from mcr_infer.pseudonyms import SiteSecret
from mcr_infer.retrieval.tuning_queries import tuning_queries

COUNT = 1_200


def nearest_ten(index: Index, query: NDArray[np.float32]) -> list[tuple[str, float]]:
    hits = search(index, query, k=10, ef_search=COUNT, fingerprint=index.fingerprint)[0]
    return [(hit.id, hit.score) for hit in hits]


def filled(folder: Path, count: int = COUNT, **options: object) -> Index:
    """An index of images, two a study and four a patient, and a report for each study."""
    index = opened(folder, **options)
    index.add(
        [
            row(
                n, study_uid=f"1.9.{n // 2}", patient_key=f"{n // 4:064x}", content_digest=f"{n:064x}",
                metadata={"view": "PA" if n % 3 else "LATERAL", "study_year": 2010 + n % 10, "note": f"only-{n}"},
            )
            for n in range(count)
        ],
        files=[(stamp(n), f"1.2.{n}") for n in range(count)],
        locals={("image", f"1.2.{n}"): f"patches-of-{n}".encode() for n in range(20)},
    )  # fmt: skip
    index.add(
        [
            row(
                n, kind="report", id=f"report-{n}", study_uid=f"1.9.{n}", patient_key=f"{n // 2:064x}", path=None,
                vector=unit(100_000 + n), text=f"text-{n}",
            )
            for n in range(count // 2)
        ]
    )  # fmt: skip
    index.save_snapshots()
    return index


def on_disk(folder: Path, *needles: bytes) -> list[tuple[str, bytes]]:
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    return [(name, needle) for name, content in contents.items() for needle in needles if needle in content]


def traces(numbers: Iterable[int]) -> list[bytes]:
    """What an image leaves: its vector, path, fact, and locals. Ids are parts of each other, and are looked at by `ids`."""
    return [trace for n in numbers for trace in (unit(n).tobytes(), f"study/{n}.dcm".encode(), f'only-{n}"'.encode())]


@pytest.mark.parametrize(
    ("options", "images", "reports"),
    [
        (("--study", "1.9.7"), ["1.2.14", "1.2.15"], ["report-7"]),
        (("--study", "1.9.7", "--kind", "image"), ["1.2.14", "1.2.15"], []),
        (("--patient-key", f"{5:064x}"), ["1.2.20", "1.2.21", "1.2.22", "1.2.23"], ["report-10", "report-11"]),
        (("--id", "1.2.3", "--id", "1.2.9", "--id", "1.2"), ["1.2.3", "1.2.9"], []),
        (("--id", "report-3", "--kind", "report"), [], ["report-3"]),
        (("--where", "view=LATERAL and study_year=2013 and id!=1.2.33"), ["1.2.3", "1.2.63"], []),
    ],
)
def test_delete_by_id_study_patient_and_filter(
    tmp_path: Path, options: tuple[str, ...], images: list[str], reports: list[str]
) -> None:
    folder = tmp_path / "index"
    filled(folder, 80).close()
    done = invoke("delete", "--index", folder, *options, "--yes", "--json")
    (told,) = json_lines(done.stdout)
    assert told["deleted"].get("image", 0) == len(images)
    assert told["deleted"].get("report", 0) == len(reports)
    assert all(id in done.stderr for id in (*images, *reports))
    with Index.open(folder) as index:
        assert set(index.ids("image")) == {f"1.2.{n}" for n in range(80)} - set(images)
        assert set(index.ids("report")) == {f"report-{n}" for n in range(40)} - set(reports)
        for n in range(80):
            assert (index.known_file(stamp(n), kind="image") is None) == (f"1.2.{n}" in images)


def test_what_is_deleted_is_gone_from_the_disk(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    filled(folder, exact_limit=2 * COUNT).close()
    gone = [n for n in range(COUNT) if n % 10 == 3]
    lost = [*traces(gone), b"patches-of-3", b"patches-of-13"]
    names = {name for name, _ in on_disk(folder, *lost)}
    assert {"store.sqlite", *(path.name for path in folder.glob("*-image-*.bin"))} <= names
    invoke("delete", "--index", folder, "--where", "study_year=2013", "--yes")
    assert on_disk(folder, *lost) == []
    assert on_disk(folder, *traces([4])) != []
    assert (folder / "store.sqlite-wal").exists() is False
    with Index.open(folder) as index:
        assert index.count("image") == COUNT - len(gone)
        hits = search(index, unit(13), k=COUNT, fingerprint=index.fingerprint)[0]
        assert not {hit.id for hit in hits} & {f"1.2.{n}" for n in gone}


def test_a_graph_keeps_unreachable_vectors_until_it_is_purged(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with filled(folder, 300, exact_limit=100) as index:
        index.delete_rows(plan_deletion(index, parse_filter("id in (1.2.3, 1.2.4)"), ["image"]).labels)
        index.save_snapshots()
        assert unreachable(index, "image") == 2
        graph = next(folder.glob("graph-image-*"))
        assert unit(3).tobytes() in graph.read_bytes()
        before = [(hit.id, hit.score) for hit in search(index, unit(3), k=20, fingerprint=index.fingerprint)[0]]
        index.save_snapshots(purge=True)
        assert unreachable(index, "image") == 0
        assert not graph.exists()
        assert {name for name, _ in on_disk(folder, unit(3).tobytes())} <= {"store.sqlite", "store.sqlite-wal"}
        assert index.erase()
        assert on_disk(folder, unit(3).tobytes()) == []
        assert [(hit.id, hit.score) for hit in search(index, unit(3), k=20, fingerprint=index.fingerprint)[0]] == before
        assert "1.2.3" not in dict(before)


def test_nothing_goes_without_a_yes(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    filled(folder, 20).close()
    done = invoke("delete", "--index", folder, "--study", "1.9.2", code=2)
    assert "there is no terminal to ask on" in words(done.stderr)
    done = invoke("delete", "--index", folder, "--study", "1.9.2", "--dry-run")
    assert "2 images and 1 report" in done.stdout
    assert "nothing was deleted: --dry-run" in done.stdout
    for answer, left in ((b"n\n", 20), (b"y\n", 18)):
        command = [sys.executable, "-m", "mcr_infer", "delete", "--index", str(folder), "--study", "1.9.2"]
        terminal, end = pty.openpty()
        with subprocess.Popen(command, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            os.close(end)
            os.write(terminal, answer)
            _, errors = process.communicate(timeout=600)
        os.close(terminal)
        assert b"This cannot be undone" in errors
        with Index.open(folder) as index:
            assert index.count("image") == left
    done = invoke("delete", "--index", folder, "--study", "1.9.2", "--json")
    assert json_lines(done.stdout)[0]["deleted"] == {"image": 0, "report": 0}
    assert "nothing matched" in done.stderr
    for wrong in ((), ("--id", "1", "--study", "2")):
        assert "say what to delete by one of" in invoke("delete", "--index", folder, *wrong, code=2).stderr
    done = invoke("delete", "--index", folder, "--where", "veiw=PA", "--kind", "both", code=1)
    assert "no row has 'veiw'; view?" in done.stderr


@pytest.mark.parametrize("pseudonymous", [False, True])
def test_a_patient_and_uids_by_the_site_secret(tmp_path: Path, pseudonymous: bool) -> None:
    folder, file = tmp_path / "index", tmp_path / "site-secret"
    file.write_bytes(bytes(range(40)))
    file.chmod(0o600)
    secret = SiteSecret.read(file)
    create(
        folder,
        Identity(
            index_id="1", fingerprint=FINGERPRINT, embedding_dim=DIM, bundle="phantom", bundle_path="shipped",
            pseudonymous=pseudonymous, secret_check=secret.check(),
        ),
    )  # fmt: skip

    def name(uid: str, key: Callable[[str], str]) -> str:
        return key(uid) if pseudonymous else uid

    with Index.open(folder, writable=True) as index:
        index.add(
            [
                row(
                    n, id=name(f"1.2.{n}", secret.image_key), study_uid=name(f"1.9.{n // 2}", secret.study_key), path=None,
                    patient_key=secret.patient_key(f"PAT{n // 4}", "ward"),
                )
                for n in range(20)
            ]
        )  # fmt: skip
    given = ("--index", folder, "--yes", "--json", "--site-secret", file)
    assert json_lines(invoke("delete", "--id", "1.2.0", "--id", "1.2.1", *given).stdout)[0]["deleted"] == {"image": 2}
    told = json_lines(invoke("delete", "--study", "1.9.1", *given).stdout)[0]["deleted"]
    assert told == {"image": 2, "report": 0}
    done = invoke("delete", "--patient", "PAT2", *given)  # of another issuer
    assert json_lines(done.stdout)[0]["deleted"] == {"image": 0, "report": 0}
    done = invoke("delete", "--patient", "-", "--issuer", "ward", *given, input="PAT2\n")
    assert json_lines(done.stdout)[0]["deleted"] == {"image": 4, "report": 0}
    assert "PAT2" not in done.stdout + done.stderr
    assert "needs --site-secret" in words(invoke("delete", "--patient", "PAT2", "--index", folder, code=2).stderr)
    if pseudonymous:
        done = invoke("delete", "--study", "1.9.6", "--index", folder, "--yes", code=2)
        assert "give a key, or a UID with --site-secret" in words(done.stderr)
        invoke("delete", "--study", secret.study_key("1.9.6"), "--index", folder, "--yes")
        with Index.open(folder) as index:
            assert index.count("image") == 10
    file.write_bytes(bytes(range(100, 140)))
    assert "is not the site secret of the keys" in invoke("delete", "--patient", "PAT2", *given, code=1).stderr
    filled(tmp_path / "plain", 8).close()
    done = invoke("delete", "--patient", "PAT2", "--index", tmp_path / "plain", "--site-secret", file, code=1)
    assert "holds no keys" in done.stderr


def test_two_values_of_one_hash_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As if 64 bits of two studies were the same.
    monkeypatch.setattr(facts_module, "key_of", lambda value: 7 if value.startswith("1.9.") else 8)
    monkeypatch.setattr("mcr_infer.index.row_selection.key_of", lambda value: 7)
    monkeypatch.setattr("mcr_infer.index.filters.key_of", lambda value: 7)
    with filled(tmp_path / "index", 12) as index:
        assert plan_deletion(index, Among("study_uid", frozenset({"1.9.1"})), ["image", "report"]).counts == {
            "image": 2, "report": 1,
        }  # fmt: skip
        found = plan_deletion(
            index, parse_filter("study_uid in (1.9.1, 1.9.3) and not series_uid=7 and view=PA"), ["image"]
        )
        assert found.shown == {"image": ["1.2.2", "1.2.7"]}
        assert len(index.select("image", parse_filter("study_uid=1.9.1"))) == 12  # what the facts alone would say


def test_compact_gives_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "index"
    with filled(folder, 1_200, exact_limit=500) as index:
        index.delete_rows(plan_deletion(index, parse_filter("study_year<2012"), ["image"]).labels)
        index.save_snapshots()
        assert unreachable(index, "image") == 240
    graph = next(folder.glob("graph-image-*"))
    done = invoke("compact", "--index", folder, "--json")
    (told,) = json_lines(done.stdout)
    assert told["bytes_after"] < 0.8 * told["bytes_before"]
    assert told["bytes_after"] == sum(path.stat().st_size for path in folder.iterdir())
    assert not graph.exists()
    with Index.open(folder, writable=True) as index:
        assert (index.count("image"), index.count("report")) == (960, 600)
        assert np.array_equal(index.vector("image", "1.2.5"), unit(5))
        before = (folder / "store.sqlite").read_bytes()
        real = os.statvfs
        monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((*real(path)[:4], 3, *real(path)[5:])))
        with pytest.raises(EmbeddingIndexError, match=r"needs \d+ MiB .* 0 MiB are free: free some space"):
            compact(index)
        assert (folder / "store.sqlite").read_bytes() == before


def test_rebuild_believes_no_file_beside_the_store(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    said: list[str] = []
    with filled(folder, exact_limit=500) as index:
        query = unit(9_999)
        before = [
            (hit.id, hit.score) for hit in search(index, query, k=10, ef_search=COUNT, fingerprint=index.fingerprint)[0]
        ]
        index.save_snapshots(rebuild=True, m=8, ef_construction=60)
        graph = index.state("image").graph
        assert graph is not None
        assert (graph.m, graph.ef_construction, graph.elements) == (8, 60, COUNT)
        with pytest.raises(EmbeddingIndexError, match="m must lie in 2 to 512, got 1"):
            index.save_snapshots(rebuild=True, m=1)
    for path in (*folder.glob("*.bin"), *folder.glob("*.hnsw")):
        path.write_bytes(b"damaged")
    with opened(folder, exact_limit=500, notify=said.append) as index:
        index.save_snapshots(rebuild=True)
        assert said == []  # nothing was tried
        again = index.state("image").graph
        assert again is not None
        assert (again.m, again.ef_construction, again.elements) == (8, 60, COUNT)  # shaped as before
        assert [
            (hit.id, hit.score) for hit in search(index, query, k=10, ef_search=COUNT, fingerprint=index.fingerprint)[0]
        ] == before


def test_the_breadth_of_search_is_tuned_to_a_recall(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with opened(folder, exact_limit=500) as index:
        index.add([row(n) for n in range(2_000)])
        index.add([row(n, kind="report", id=f"r{n}") for n in range(5_000, 5_300)])
        index.save_snapshots(rebuild=True, m=4, ef_construction=20)
        queries = queries_of_other_kind(index, "image")
        assert queries is not None
        assert queries.shape == (300, DIM)
        tuned = tune(index, "image", queries, target_recall=0.95)
        assert (tuned.queries, tuned.rows, tuned.target_recall) == (300, 2_000, 0.95)
        assert 0.95 <= tuned.recall <= 1.0
        # It is the smallest: what comes before it misses the target, measured here in another way.
        labels, vectors = index.vectors("image")
        graph = index.graph("image")
        truth = labels[np.argsort(-(queries @ vectors.T), axis=1)[:, :10]]
        recalls = []
        for breadth in BREADTHS[BREADTHS.index(tuned.ef_search) - 1 :][:2]:
            found = graph.query(queries, k=10, ef=breadth)
            assert found is not None
            recalls.append(np.mean([len({*one} & {*true}) / 10 for one, true in zip(found[0], truth, strict=True)]))
        assert recalls[0] < 0.95 <= recalls[1]
        assert recalls[1] == pytest.approx(tuned.recall)
        index.set_tuning("image", tuned)
        with pytest.raises(QueryError, match=r"reports of index .* are searched exactly"):
            tune(index, "report", queries, target_recall=0.95)
        assert queries_of_other_kind(index, "report") is not None
        index.save_snapshots()
    with Index.open(folder, exact_limit=500) as index:
        assert index.state("image").tuning == tuned
        assert index.graph("image").ef_search == tuned.ef_search
    info = json_lines(invoke("info", "--index", folder, "--json").stdout)[0]
    assert info["tuning"] == {
        "image": {
            "ef_search": tuned.ef_search,
            "target_recall": 0.95,
            "recall": tuned.recall,
            "queries": 300,
            "rows": 2_000,
        },
        "report": None,
    }
    assert f"ef_search {tuned.ef_search} finds" in invoke("info", "--index", folder).stdout
    with opened(folder, exact_limit=500) as index:
        index.save_snapshots(rebuild=True)
        assert index.state("image").tuning is None  # another graph, another recall


def test_rebuild_on_the_command_line(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with filled(folder, 40):
        done = invoke("rebuild", "--index", folder, code=4)
        assert "is being written by process" in done.stderr
    for wrong, why in ((("--target-recall", "1.5"), "a share in (0, 1]"), (("--queries", "q.txt"), "--target-recall")):
        assert why in invoke("rebuild", "--index", folder, *wrong, code=2).stderr
    done = invoke("rebuild", "--index", folder, "--target-recall", "0.9", "--json")
    assert json_lines(done.stdout) == [
        {kind: {"rows": rows, "graph": None, "tuning": None} for kind, rows in (("image", 40), ("report", 20))}
    ]
    assert "40 images are searched exactly, recall 1: there is nothing to tune" in done.stderr


def test_what_a_graph_is_asked_while_it_is_tuned(phantom_index: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(None)
    with Index.open(phantom_index) as index:
        own, told = tuning_queries(index, "image", sentences=None, bundle=lambda: bundle, device="cpu")
        assert told == "500 sentences about findings that mcr-infer brings"
        assert own.shape == (500, index.embedding_dim)
        file = tmp_path / "sentences.txt"
        file.write_text("left pneumothorax\n\n left pneumothorax \ncardiomegaly\n", encoding="utf-8")
        asked, told = tuning_queries(index, "image", sentences=file, bundle=lambda: bundle, device="cpu")
        assert told == f"2 sentences of {file}"
        assert np.allclose(np.linalg.norm(asked, axis=1), 1, atol=1e-4)
        file.write_bytes(b"\n")
        with pytest.raises(QueryError, match="holds no sentence"):
            tuning_queries(index, "image", sentences=file, bundle=lambda: bundle, device="cpu")
        file.write_bytes(b"\xff")
        with pytest.raises(QueryError, match="cannot be read as text: it is not UTF-8"):
            tuning_queries(index, "image", sentences=file, bundle=lambda: bundle, device="cpu")
    with filled(tmp_path / "index", 500) as index:
        vectors, told = tuning_queries(index, "image", sentences=None, bundle=lambda: bundle, device="cpu")
        assert told == "250 reports of this index"
        assert {one.tobytes() for one in vectors} == {unit(100_000 + n).tobytes() for n in range(250)}
