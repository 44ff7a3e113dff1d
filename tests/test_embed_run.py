"""A run over many radiographs as a process: stopped, killed, short of disk, and what the next run makes of it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from conftest import json_lines, run_cli
from mcr_infer.index import Index
from mcr_infer.phantom.demo import write_demo

COUNT = 200
"""Phantoms of the archive."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "dicoms"
    for _ in write_demo(folder, count=COUNT, seed=900, size=256):
        pass
    (folder / "cut.dcm").write_bytes((folder / "phantom-000900.dcm").read_bytes()[:9000])
    (folder / "twin.dcm").write_bytes((folder / "phantom-000901.dcm").read_bytes())
    return folder


@pytest.fixture(scope="module")
def undisturbed(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = tmp_path_factory.mktemp("undisturbed") / "index"
    run_cli("embed-images", archive, "--index", index, code=3)
    return index


def rows_of(index: Path) -> dict[str, tuple[object, ...]]:
    with Index.open(index) as store:
        rows = [store.get("image", id) for id in store.ids("image")]
    return {
        row.id: (row.path, row.study_uid, row.series_uid, dict(row.metadata), row.precision, row.patch_budget,
                 row.content_digest, row.vector)
        for row in rows
    }  # fmt: skip


def assert_equal_rows(one: Path, other: Path) -> None:
    mine, theirs = rows_of(one), rows_of(other)
    assert mine.keys() == theirs.keys()
    for id, row in mine.items():
        assert row[:-1] == theirs[id][:-1]
        assert float(np.dot(row[-1], theirs[id][-1])) >= 0.99999


HELD = """
import pathlib, sys, time
from mcr_infer.cli.app import main
from mcr_infer.index import Index

rows, hold = int(sys.argv.pop(1)), pathlib.Path(sys.argv.pop(1))
add = Index.add

def add_and_hold(self, *arguments, **options):
    add(self, *arguments, **options)
    if self.count("image") >= rows:
        (hold / "held").touch()
        while not (hold / "go").exists():
            time.sleep(0.01)

Index.add = add_and_hold
sys.exit(main())
"""


@contextmanager
def held_run(*arguments: str | Path, rows: int, hold: Path) -> Iterator[subprocess.Popen[str]]:
    """A run of mcr-infer that waits once it has committed some rows, until the file `go` is in the folder `hold`."""
    hold.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(rows), str(hold), *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # Tests that a shell started in the background ignore SIGINT, and so would a run of theirs.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        while not (hold / "held").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.communicate()


def command(archive: Path, index: Path) -> list[str | Path]:
    return ["embed-images", archive, "--index", index, "--json", "--batch-size", "2", "--calls", "2"]


def descendants(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_at_a_commit(number: signal.Signals, archive: Path, undisturbed: Path, tmp_path: Path):
    index, hold = tmp_path / "index", tmp_path / "hold"
    with held_run(*command(archive, index), rows=4, hold=hold) as process:
        workers = descendants(process.pid)
        process.send_signal(number)
        (hold / "go").touch()
        out, err = process.communicate()
    assert process.returncode == 128 + number
    assert "run the same command again to continue" in err
    assert "Traceback" not in err
    assert_gone(workers)
    (summary,) = json_lines(out)
    assert summary["interrupted"]
    with Index.open(index) as store:
        assert store.count("image") == summary["embedded"]
    assert 4 <= summary["embedded"] < COUNT
    (rest,) = json_lines(run_cli("embed-images", archive, "--index", index, "--json", code=3).stdout)
    assert rest["embedded"] == COUNT - summary["embedded"]
    assert_equal_rows(index, undisturbed)


def test_after_a_kill_the_next_run_goes_on_and_the_index_is_that_of_an_undisturbed_run(
    archive: Path, undisturbed: Path, tmp_path: Path
):
    index = tmp_path / "index"
    for rows in (4, 30):
        with held_run(*command(archive, index), rows=rows, hold=tmp_path / f"hold-{rows}") as process:
            workers = descendants(process.pid)
        assert_gone(workers)
    (rest,) = json_lines(run_cli("embed-images", archive, "--index", index, "--json", code=3).stdout)
    assert 0 < rest["embedded"] <= COUNT - 30
    assert rest["embedded"] + rest["unchanged"] + rest["duplicates"] == COUNT + 1
    assert_equal_rows(index, undisturbed)


def test_the_report_of_a_run(archive: Path, undisturbed: Path):
    report = json.loads((undisturbed / "run.json").read_text())
    assert (report["embedded"], report["duplicates"], report["failed"]) == (COUNT, 1, 1)
    assert report["failures"] == {"truncated": 1}
    assert sum(report["busy_share"].values()) == pytest.approx(1.0, abs=0.001)
    assert set(report["busy_share"]) == {"decode", "cut", "tower", "commit"}
    # A worker holds no tower: numpy, pydicom and one picture.
    assert 30 < report["peak_memory_mib"]["largest_worker"] < report["peak_memory_mib"]["run"] + 100
    assert report["plan"]["workers"] == len(os.sched_getaffinity(0))
    assert report["images_per_second"] == pytest.approx(COUNT / report["seconds"], rel=0.01)
    (failure,) = [json.loads(line) for line in (undisturbed / "failures.jsonl").read_text().splitlines()]
    assert failure["path"] == str(archive / "cut.dcm")
    assert failure["reason"] == "truncated"
    assert {path.stat().st_mode & 0o777 for path in undisturbed.iterdir()} == {0o600}


def test_a_selection_is_counted_by_reason(archive: Path, tmp_path: Path):
    command = ["embed-images", archive, "--index", tmp_path / "index", "--modality", "DX", "--view", "ap", "--json"]
    (summary,) = json_lines(run_cli(*command).stdout)  # the file that is cut is a PA
    with Index.open(tmp_path / "index") as store:
        views = {store.get("image", id).metadata["view"] for id in store.ids("image")}
    assert views == {"AP"}
    assert summary["left_out"] == {"view": COUNT + 2 - summary["embedded"]}
    assert 0 < summary["embedded"] < COUNT / 2
    wrong = run_cli("embed-images", archive, "--index", tmp_path / "other", "--modality", "CT", code=1)
    assert "modalities of the selection must be one of CR, DX, RG" in wrong.stderr
    assert not (tmp_path / "other").exists()


def test_a_plan_is_explained_and_nothing_is_embedded(archive: Path, tmp_path: Path):
    done = run_cli("embed-images", archive, "--index", tmp_path / "index", "--explain-plan", "--json", "--workers", "3")
    (plan,) = json_lines(done.stdout)
    assert plan["workers"] == 3
    assert plan["in_flight"] == 2 * plan["calls"] * plan["call_size"]
    assert plan["precision"] == "fp32"
    assert not (tmp_path / "index").exists()


def test_a_read_only_index_is_one_clear_error(archive: Path, tmp_path: Path):
    if os.getuid() == 0:
        pytest.skip("nothing is read-only for root")
    index = tmp_path / "index"
    index.mkdir(mode=0o500)
    done = run_cli("embed-images", archive, "--index", index, code=1)
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr


FULL_DISK = """
set -e
mount -t tmpfs -o size={size} tmpfs {disk}
{run} && exit 9 || test $? = 1
mount -o remount,size=64m {disk}
{run} || test $? = 3
"""


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost(archive: Path, undisturbed: Path, tmp_path: Path):
    namespace = ["unshare", "--mount", "--map-root-user"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let its users mount anything")
    disk = tmp_path / "disk"
    disk.mkdir()
    run = f"{sys.executable} -m mcr_infer embed-images {archive} --index {disk}/index --json --batch-size 2 --calls 2"
    script = FULL_DISK.format(size="220k", disk=disk, run=run) + f"cp -r {disk}/index {tmp_path}/index\n"
    done = subprocess.run([*namespace, "sh", "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error:") == 1
    assert "the disk is full; what was acknowledged before is safe" in done.stderr
    assert "Traceback" not in done.stderr
    (rest,) = json_lines(done.stdout)
    assert 0 < rest["unchanged"] < COUNT
    assert rest["embedded"] + rest["unchanged"] + rest["duplicates"] == COUNT + 1
    assert_equal_rows(tmp_path / "index", undisturbed)
