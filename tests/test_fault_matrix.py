"""A sample of the fault matrix (`make faults`): every kind of fault, each really provoked in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import mcr_infer

ROOT = Path(mcr_infer.__file__).parents[1]

KILLS = ["add", "save", "rebuild", "compact", "delete", "migrate", "merge"]
FILES = ["store.sqlite", "store.sqlite-wal", "graph-*.hnsw"]
FAULTS = ["truncated", "bit flipped", "deleted", "swapped, same bundle", "swapped, other bundle"]


def run(*arguments: str, place: Path) -> dict[tuple[str, str], dict]:
    """Run a part of the matrix; its outcomes by fault and target. It must find nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", *arguments, "--out", str(place / "faults.json")],
        capture_output=True, text=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    report = json.loads((place / "faults.json").read_text())
    assert report["neither"] == 0
    assert report["cases"] == sum(one["cases"] for one in report["outcomes"])
    return {(one["fault"], one["target"]): one for one in report["outcomes"]}


def test_kill_9_at_random_instants(tmp_path: Path):
    found = run("kills", "--instants", "1", "--seed", "11", place=tmp_path)
    assert [target for _, target in found] == KILLS
    assert all((one["cases"], one["right_answers"]) == (1, 1) for one in found.values())
    assert all(one["killed_at_work"] == 1 <= one["attempts"] for one in found.values())


def test_a_full_disk_and_one_that_cannot_be_written(tmp_path: Path):
    found = run("disk", "read-only", "--points", "2", "--only", "save", "compact", place=tmp_path)
    assert {found["disk full", name]["writers_stopped"] for name in ("save", "compact")} <= {1, 2}
    read_only = found["read-only", "folder and file system"]
    assert read_only["one_clear_error"] == read_only["cases"] >= 3
    # A log whose shared memory is gone cannot be read where nothing can be written.
    assert read_only["refused_parts"] == {"writer": read_only["cases"], "open": read_only["cases"] // 3}


def test_files_that_are_cut_changed_exchanged_or_lost(tmp_path: Path):
    found = run("damage", "--flips", "3", "--at-most", "1", "--seed", "5", "--only", *FILES, place=tmp_path)
    assert {target for _, target in found} == {*FILES, *(f"{name}, left open" for name in FILES)} - {FILES[1]}
    assert {fault for fault, _ in found} == set(FAULTS)
    # What lies beside the store is made again; of the store itself, and of what it was told by its log, that cannot be.
    assert all(
        found[fault, "graph-*.hnsw"]["right_answers"] == found[fault, "graph-*.hnsw"]["cases"] for fault in FAULTS
    )
    for fault in ("truncated", "deleted", "swapped, same bundle", "swapped, other bundle"):
        for target in ("store.sqlite", "store.sqlite-wal, left open"):
            assert found[fault, target]["one_clear_error"] == found[fault, target]["cases"] >= 1


def test_graphs_that_were_made_to_crash(tmp_path: Path):
    found = run("hostile", "--flips", "12", place=tmp_path)
    crafted = found["crafted hnsw file", "graph-*.hnsw"]
    assert (crafted["right_answers"], crafted["refused_before_hnswlib_saw_them"]) == (33, 32)
    assert found["crafted hnsw file, at random", "graph-*.hnsw"]["cases"] == 12


def test_what_does_not_belong_in_two_writers_and_readers_meanwhile(tmp_path: Path):
    found = run("company", "--rounds", "1", "--only", "compact", "delete", place=tmp_path)
    assert found["what does not belong in", "Index.add, Index.open_or_create"]["one_clear_error"] == 8
    assert found["two writers", "Index.open, mcr-infer rebuild"]["one_clear_error"] == 3
    for name in ("compact", "delete"):
        assert found["readers meanwhile", name]["answers_of_readers"] >= 6


def test_a_part_that_is_not_there_is_wrong_usage():
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults", "floods"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 2
    assert "no part 'floods'; there are kills, disk, read-only, damage, hostile, company" in done.stderr
