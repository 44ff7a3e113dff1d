"""The write-ahead log: what was committed into it and is gone is said, before SQLite goes on without it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_index_store import opened, row

from mcr_infer.errors import IndexCorruptError
from mcr_infer.index import Index
from mcr_infer.index.wal import refuse_damaged_log


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A folder as a power cut leaves it: 5 rows in the database, 40 more in the log alone."""
    with opened(tmp_path / "index") as index:
        index.add([row(number) for number in range(5)])
    with opened(tmp_path / "index") as index:
        for first in range(5, 45, 8):
            index.add([row(number) for number in range(first, first + 8)])
        shutil.copytree(tmp_path / "index", tmp_path / "left")
    assert (tmp_path / "left" / "store.sqlite-wal").stat().st_size > 100_000
    return tmp_path / "left"


def log_of(folder: Path) -> Path:
    return folder / "store.sqlite-wal"


def test_a_whole_log_is_taken_in(left: Path):
    with Index.open(left) as index:
        assert index.count("image") == len(index.vectors("image")[0]) == 45
    with opened(left) as index:
        assert index.count("image") == 45
    refuse_damaged_log(left / "store.sqlite")  # closed: there is none


def test_every_flipped_bit_of_the_log_is_noticed(left: Path):
    content = log_of(left).read_bytes()
    random = np.random.default_rng(7)
    for place in [0, 5, 10, 17, 25, 31, 32, 40, 52, len(content) - 1, *random.integers(len(content), size=60).tolist()]:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        log_of(left).write_bytes(changed)
        with pytest.raises(
            IndexCorruptError, match=r"has lost changes that were acknowledged: \d+ of \d+ pages are sound"
        ):
            Index.open(left)


@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_cut_log_is_noticed_and_there_is_a_way_on(left: Path, share: float):
    os.truncate(log_of(left), int(share * log_of(left).stat().st_size))
    for writable in (False, True):
        with pytest.raises(IndexCorruptError, match=r"or delete store\.sqlite-shm in it to go on without them"):
            Index.open(left, writable=writable)
    (left / "store.sqlite-shm").unlink()
    with opened(left) as index:
        assert 5 <= index.count("image") < 45
        index.add([row(number) for number in range(45)])
    with Index.open(left) as index:
        assert index.count("image") == 45


def test_a_lost_log_and_that_of_another_index_are_noticed(left: Path, tmp_path: Path):
    with opened(tmp_path / "other") as index:
        index.add([row(number) for number in range(100, 140)])
        shutil.copy(log_of(tmp_path / "other"), log_of(left))
    with pytest.raises(IndexCorruptError, match="0 of"):
        Index.open(left)
    log_of(left).unlink()
    with pytest.raises(IndexCorruptError, match="0 of"):
        Index.open(left)


def test_what_never_was_committed_may_go(left: Path):
    with log_of(left).open("ab") as log:
        log.write(b"half a page" * 50)
    with Index.open(left) as index:
        assert index.count("image") == 45


def test_shared_memory_that_says_nothing_is_passed_over(left: Path):
    shared = left / "store.sqlite-shm"
    whole = shared.read_bytes()
    for content in (b"", whole[:50], bytes(len(whole)), whole[:20] + b"\xff" + whole[21:]):
        shared.write_bytes(content)
        refuse_damaged_log(left / "store.sqlite")
    shared.unlink()
    with Index.open(left) as index:
        assert index.count("image") == 45


def test_readers_are_let_in_while_a_writer_fills_the_log(tmp_path: Path):
    with opened(tmp_path / "index") as index:
        for number in range(60):
            index.add([row(number)])
            with Index.open(tmp_path / "index") as reader:
                assert reader.count("image") == number + 1
            if number == 30:  # the log begins anew
                index._store.truncate()
