"""The memory of digests: believed only while the file system vouches for the file, and never in the place of `verify`."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from conftest import json_lines, run_cli
from mcr_infer import files
from mcr_infer.errors import BundleError
from mcr_infer.files import TRUSTED_SECONDS, cache_folder, remembered_sha256, sha256_of
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.verify import verify
from tiny import tiny_bundle

CONTENT = bytes(range(256)) * 64
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, in which every file counts as large and settled."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "REMEMBERED_BYTES", 1)
    monkeypatch.setattr(files, "_SETTLED_NS", 0)
    return tmp_path / "cache" / "mcr-infer" / "digests"


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes are read, in order."""
    names: list[str] = []
    monkeypatch.setattr(files, "sha256_of", lambda path: (names.append(path.name), sha256_of(path))[1])
    return names


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def only(folder: Path) -> Path:
    (record,) = folder.iterdir()
    return record


def test_a_file_is_hashed_once_and_its_record_is_private(path: Path, memory: Path, hashed: list[str]):
    assert [remembered_sha256(path) for _ in range(3)] == [SHA256] * 3
    assert hashed == ["weights"]
    assert cache_folder("digests") == memory
    assert (only(memory).stat().st_mode & 0o777, memory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(only(memory).read_text())["path"] == str(path.resolve())


def rewrite(path: Path) -> None:
    """Other content of the same length, at the same times as far as a program can set them."""
    seen = path.stat()
    with path.open("r+b") as file:
        file.write(b"\xff")
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def replaced(path: Path) -> None:
    seen = path.stat()
    beside = path.with_name("beside")
    beside.write_bytes(b"\xff" + CONTENT[1:])
    os.utime(beside, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    beside.rename(path)


@pytest.mark.parametrize("change", [rewrite, replaced, lambda path: path.write_bytes(CONTENT[:-1])])
def test_any_change_of_the_file_is_hashed_again(path: Path, hashed: list[str], change):
    remembered_sha256(path)
    change(path)
    assert remembered_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest() != SHA256
    assert len(hashed) == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.write_bytes(b"{"),
        lambda record: record.write_bytes(b"[" * 20_000),
        lambda record: record.write_text("[]"),
        lambda record: change(record, format_version=2),
        lambda record: change(record, sha256="no digest"),
        lambda record: change(record, stamp=None),
        lambda record: change(record, hashed_at=None),
        lambda record: change(record, hashed_at=time.time() - TRUSTED_SECONDS - 5),
        lambda record: change(record, hashed_at=int(time.time()) - TRUSTED_SECONDS - 5),
        lambda record: change(record, hashed_at=int(time.time()) + 100),
        lambda record: record.chmod(0o620),
        lambda record: record.unlink(),
    ],
)
def test_a_record_that_is_old_damaged_or_open_to_others_is_not_believed(path: Path, memory: Path, hashed, spoil):
    remembered_sha256(path)
    spoil(only(memory))
    assert remembered_sha256(path) == SHA256
    assert len(hashed) == 2
    remembered_sha256(path)
    assert len(hashed) == 2  # and a good one took its place


def change(record: Path, **values: object) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | values))


def test_a_file_that_has_just_changed_is_not_remembered(path: Path, memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_SETTLED_NS", 60_000_000_000)
    assert remembered_sha256(path) == SHA256
    assert not memory.exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(path: Path, memory: Path, monkeypatch):
    monkeypatch.setattr(files, "sha256_of", lambda path: (sha256_of(path), rewrite(path))[0])
    assert remembered_sha256(path) == SHA256
    assert not memory.exists()


def test_small_files_are_always_hashed(path: Path, memory: Path, hashed: list[str], monkeypatch):
    monkeypatch.setattr(files, "REMEMBERED_BYTES", len(CONTENT) + 1)
    assert [remembered_sha256(path) for _ in range(2)] == [SHA256] * 2
    assert (hashed, memory.exists()) == (["weights"] * 2, False)


def test_without_a_place_for_records_every_file_is_hashed(path: Path, tmp_path: Path, hashed, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert [remembered_sha256(path) for _ in range(2)] == [SHA256] * 2
    assert len(hashed) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("digests") == tmp_path / "home" / ".cache" / "mcr-infer" / "digests"


def test_only_single_calls_remember_and_verify_never_does(tmp_path: Path, memory: Path, hashed: list[str]):
    bundle = tiny_bundle(tmp_path / "tiny")
    open_tower(bundle, "text", device="cpu", purpose="bulk")
    assert not memory.exists()
    for _ in range(2):
        open_tower(bundle, "text", device="cpu", purpose="one_shot")
    assert hashed == ["text.onnx"]
    # A disk that changes a byte without a write cannot be made here: a record that claims it is the same case.
    record = only(memory)
    (bundle.path / "text.onnx").write_bytes((bundle.path / "text.onnx").read_bytes()[:-1] + b"\xff")
    seen = (bundle.path / "text.onnx").stat()
    stamp = [seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns]
    change(record, stamp=stamp)
    assert bundle.verified("text.onnx", remembered=True) == bundle.path / "text.onnx"
    with pytest.raises(BundleError, match=r"text\.onnx is damaged"):
        bundle.verified("text.onnx")
    assert [check.name for check in verify(bundle) if not check.ok] == ["file text.onnx"]


def test_a_remembered_digest_that_does_not_match_is_looked_at_before_it_is_refused(tmp_path: Path, memory: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    bundle.verified("text.onnx", remembered=True)
    change(only(memory), sha256="0" * 64)
    assert bundle.verified("text.onnx", remembered=True) == bundle.path / "text.onnx"


def test_a_read_only_bundle_is_remembered_all_the_same(tmp_path: Path, memory: Path, hashed: list[str]):
    bundle = tiny_bundle(tmp_path / "tiny")
    bundle.path.chmod(0o555)
    for _ in range(2):
        assert Bundle.open(bundle.path).verified_tower("text", remembered=True).name == "text.onnx"
    assert hashed == ["text.onnx"]
    assert sorted(one.name for one in bundle.path.iterdir()) == [
        "SHA256SUMS", "golden.npz", "image.onnx", "manifest.json", "text.onnx", "tokenizer.json",
    ]  # fmt: skip
    bundle.path.chmod(0o755)


def test_a_query_of_the_shipped_bundle_keeps_no_records(phantom_index: Path, memory: Path):
    assert len(json_lines(run_cli("query", "left pneumothorax", "--index", phantom_index, "--json").stdout)) == 10
    assert not memory.exists()
