"""Several indexes become one: what they share once, contradictions refused as a whole, and a kill changes nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_index_store import DIM, ROOT, facts_of, opened, row, stamp, unit

from conftest import invoke, json_lines
from mcr_infer.index import KINDS, FileStamp, Index
from mcr_infer.index.audit import audit
from mcr_infer.index.index import create
from mcr_infer.index.manifest import Identity


def made(folder: Path, numbers: range, **changes: object) -> Path:
    """An index of images with the files that gave them and the patches of every fifth, and a report each."""
    with opened(folder) as index:
        images = [row(n, content_digest=f"{n:064x}", metadata={"view": "PA"}, **changes) for n in numbers]
        index.add(
            images,
            files=[(stamp(n), f"1.2.{n}") for n in numbers],
            locals={("image", one.id): f"patches {one.id}".encode() for one in images if one.id.endswith("5")},
        )
        index.add([row(n, kind="report", id=f"r{n}", path=None, vector=unit(9_000 + n)) for n in numbers])
    return folder


def content(folder: Path) -> dict[str, object]:
    """All that an index holds, whatever its labels are."""
    with Index.open(folder) as index, index.snapshot():
        told: dict[str, object] = {}
        for kind in KINDS:
            for label, one in index.scan(kind, index.labels(kind)):
                locals = index.locals(kind, [label]).get(label)
                told[f"{kind} {one.id}"] = (facts_of(one), locals, index.files(kind, one.id))
        return dict(sorted(told.items()))


def test_indexes_are_merged_with_their_files_and_locals(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", range(30)), made(tmp_path / "two", range(20, 60))
    whole = made(tmp_path / "whole", range(60))
    (told,) = json_lines(invoke("merge", one, two, "--index", tmp_path / "all", "--json").stdout)
    assert told == {
        "added": 120, "known": 20, "replaced": 0, "skipped": 0, "paths_taken": 0, "conflicts": [],
        "rows": {"image": 60, "report": 60},
    }  # fmt: skip
    assert content(tmp_path / "all") == content(whole)
    assert all(check.ok for check in audit(tmp_path / "all"))
    with Index.open(tmp_path / "all") as index:
        assert index.known_file(stamp(41), kind="image") == "1.2.41"
    before = content(tmp_path / "all")
    (told,) = json_lines(invoke("merge", one, two, "--index", tmp_path / "all", "--json").stdout)
    assert (told["added"], told["known"]) == (0, 140)
    assert content(tmp_path / "all") == before
    done = invoke("merge", two, "--index", one)
    assert "60 rows added, 20 were there, 0 replaced, 0 skipped" in done.stdout
    assert content(one) == content(whole)


def test_the_same_picture_embedded_in_another_way_is_no_conflict(tmp_path: Path) -> None:
    one = made(tmp_path / "one", range(10))
    two = made(tmp_path / "two", range(10), precision="int8", path="elsewhere.dcm")
    with opened(two) as index:
        index.add([row(5, content_digest=f"{5:064x}", vector=unit(77))])
    before = content(one)
    (told,) = json_lines(invoke("merge", two, "--index", one, "--json").stdout)
    assert (told["added"], told["known"]) == (0, 20)
    assert content(one) == before


def test_locals_come_to_a_row_that_has_none(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", range(10)), made(tmp_path / "two", range(10))
    with opened(one) as index:
        index.delete("image", ["1.2.5"])
        index.add([row(5, content_digest=f"{5:064x}", metadata={"view": "PA"})])
    assert content(one)["image 1.2.5"][1] is None  # type: ignore[index]
    invoke("merge", two, "--index", one)
    assert content(one) == content(two)


@pytest.mark.parametrize("digest", [True, False])
def test_a_conflict_is_listed_and_nothing_is_merged(tmp_path: Path, digest: bool) -> None:
    one, two, three = (made(tmp_path / name, range(5)) for name in ("one", "two", "three"))
    other = {"content_digest": "ee" * 32} if digest else {"vector": unit(500), "content_digest": None}
    with opened(two) as index:
        index.add(
            [row(3, path="moved/3.dcm", **other)], files=[(FileStamp(path="moved/3.dcm", size=1, mtime_ns=1), "1.2.3")]
        )
    done = invoke("merge", one, two, three, "--index", tmp_path / "all", "--json", code=1)
    conflict = {"kind": "image", "id": "1.2.3", "here": "study/3.dcm", "there": "moved/3.dcm"}
    assert json_lines(done.stdout) == [{"conflicts": [conflict]}]
    assert "1 ids stand for different pictures or reports, and nothing was merged" in done.stderr
    assert not (tmp_path / "all").exists()
    before = content(one)
    done = invoke("merge", two, "--index", one, code=1)
    assert "study/3.dcm  moved/3.dcm" in done.stdout
    assert content(one) == before
    (told,) = json_lines(invoke("merge", two, "--index", one, "--on-conflict", "skip", "--json").stdout)
    assert (told["skipped"], told["replaced"], told["known"]) == (1, 0, 9)
    assert content(one) == before
    (told,) = json_lines(invoke("merge", two, "--index", one, "--on-conflict", "replace", "--json").stdout)
    assert (told["skipped"], told["replaced"]) == (0, 1)
    replaced = content(one)
    assert replaced["image 1.2.3"][0] == content(two)["image 1.2.3"][0]  # type: ignore[index]
    (told,) = json_lines(invoke("merge", two, "--index", one, "--on-conflict", "replace", "--json").stdout)
    assert (told["replaced"], told["known"]) == (0, 10)
    assert content(one) == replaced


def test_two_files_of_one_name_do_not_take_each_others_place(tmp_path: Path) -> None:
    one = made(tmp_path / "one", range(3))
    with opened(tmp_path / "two") as index:
        index.add([row(9, path="study/1.dcm")], files=[(stamp(1, mtime_ns=77), "1.2.9")])
    done = invoke("merge", tmp_path / "two", "--index", one)
    assert "1 files have a path that stands for another row" in done.stderr
    with Index.open(one) as index:
        assert index.known_file(stamp(1), kind="image") == "1.2.1"
        assert [index.get("image", id).path for id in ("1.2.1", "1.2.9")] == ["study/1.dcm"] * 2  # type: ignore[union-attr]
    assert "1 files have a path" in invoke("merge", tmp_path / "two", "--index", one).stderr


def identity(**changes: object) -> Identity:
    values = {
        "index_id": "1",
        "fingerprint": "ab12" * 16,
        "embedding_dim": DIM,
        "bundle": "phantom",
        "bundle_path": "shipped",
    }
    return Identity(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fingerprint": "cd34" * 16}, "they cannot be compared"),
        ({"pseudonymous": True}, "is pseudonymous and index"),
        ({"secret_check": "ee"}, "were made with two site secrets"),
        ({"secret_check": ""}, "a deletion by patient would miss these"),
    ],
)
def test_what_does_not_belong_together_is_not_merged(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    create(tmp_path / "one", identity(secret_check="aa"))
    create(tmp_path / "two", identity(**{"secret_check": "aa", **changes}))
    assert said in invoke("merge", tmp_path / "one", tmp_path / "two", "--index", tmp_path / "all", code=1).stderr
    assert said in invoke("merge", tmp_path / "two", "--index", tmp_path / "one", code=1).stderr
    assert not (tmp_path / "all").exists()
    assert (
        "cannot be merged into itself" in invoke("merge", tmp_path / "one", "--index", tmp_path / "one", code=1).stderr
    )


def test_a_merge_that_was_killed_is_run_again(tmp_path: Path) -> None:
    one, two = made(tmp_path / "one", range(600)), made(tmp_path / "two", range(400, 1_300))
    whole = content(made(tmp_path / "whole", range(1_300)))
    target = tmp_path / "all"
    command = [sys.executable, "-m", "mcr_infer", "merge", str(one), str(two), "--index", str(target)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    random = np.random.default_rng(4)
    counts = []
    for _ in range(5):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
            while process.poll() is None and not (target / "store.sqlite").exists():
                time.sleep(0.005)
            time.sleep(float(random.uniform(0, 0.25)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
        if (target / "index.json").exists():
            with Index.open(target) as index:
                counts.append(sum(index.count(kind) for kind in KINDS))
    assert counts == sorted(counts)
    invoke("merge", one, two, "--index", target)
    assert content(target) == whole
    assert all(check.ok for check in audit(target))
