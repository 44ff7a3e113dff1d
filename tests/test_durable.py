import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mcr_infer import files
from mcr_infer.files import atomic_write


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_content_appears_whole_and_nothing_is_left_beside_it(tmp_path: Path):
    path = tmp_path / "state"
    atomic_write(path, b"one")
    atomic_write(path, memoryview(b"two"))
    assert path.read_bytes() == b"two"
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_private_files_are_their_owners_alone_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    publish = files.publish
    monkeypatch.setattr(files, "publish", lambda part, path: (seen.append(mode(part)), publish(part, path)))
    previous = os.umask(0o022)
    try:
        atomic_write(tmp_path / "secret", b"x", private=True)
        atomic_write(tmp_path / "shared", b"x")
    finally:
        os.umask(previous)
    assert seen == [0o600, 0o644]
    assert (mode(tmp_path / "secret"), mode(tmp_path / "shared")) == (0o600, 0o644)


def test_bytes_then_name_then_folder_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order = []

    def sync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        order.append((kind, (tmp_path / "state").exists()))

    monkeypatch.setattr(os, "fsync", sync)
    atomic_write(tmp_path / "state", b"x")
    assert order == [("file", False), ("folder", True)]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "state"
    atomic_write(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["state"]


def test_a_kill_leaves_the_old_file_and_a_part_that_is_known_by_its_name(tmp_path: Path):
    path = tmp_path / "state"
    atomic_write(path, b"old")
    code = (
        "import os, signal, sys, pathlib; from mcr_infer import files\n"
        "files.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.atomic_write(pathlib.Path(sys.argv[1]), b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert path.read_bytes() == b"old"
    (part,) = tmp_path.glob(files.PARTIAL)
    assert part.read_bytes() == b"new"


def test_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path):
    code = (
        "import sys, pathlib; from mcr_infer.files import atomic_write\n"
        "for _ in range(40): atomic_write(pathlib.Path(sys.argv[1]), sys.argv[2].encode() * 50_000)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "state"), name]) for name in "ab"]
    assert [writer.wait(timeout=600) for writer in writers] == [0, 0]
    assert (tmp_path / "state").read_bytes() in (b"a" * 50_000, b"b" * 50_000)
    assert [one.name for one in tmp_path.iterdir()] == ["state"]
