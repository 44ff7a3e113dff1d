import os
import random
import tempfile
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from mcr_infer.errors import BrokenImageError
from mcr_infer.folders import list_sorted
from mcr_infer.images import read_image
from mcr_infer.sources import Sources


def found(*paths: str | Path) -> list[str]:
    return [source.path for source in Sources([str(path) for path in paths])]


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


def test_paths_stay_as_given_and_come_in_order(tmp_path, monkeypatch):
    fill(tmp_path, "b.dcm", "a/2.dcm", "a/10.dcm", "a/deep/1", "c.dcm")
    monkeypatch.chdir(tmp_path)
    assert found(".") == ["./a/10.dcm", "./a/2.dcm", "./a/deep/1", "./b.dcm", "./c.dcm"]
    assert found("a/", "./c.dcm", "a/2.dcm") == ["a/10.dcm", "a/2.dcm", "a/deep/1", "./c.dcm", "a/2.dcm"]


def test_named_files_are_candidates_whatever_they_are(tmp_path):
    fill(tmp_path, "notes.txt", ".hidden", "DICOMDIR")
    paths = [str(tmp_path / name) for name in ("notes.txt", ".hidden", "DICOMDIR")]
    assert found(*paths) == paths


def test_what_is_left_out_of_folders_is_counted_by_kind(tmp_path):
    fill(
        tmp_path, "1.dcm", "2", "1.2.840.10008.5", "3.DCM", "4.png", "5.tif", "truth.csv", "README.MD", "a.nii.gz",
        "DICOMDIR", ".DS_Store", ".git/config", "sub/b.csv", "sub/dicomdir",
    )  # fmt: skip
    sources = Sources([str(tmp_path)])
    names = [Path(source.path).name for source in sources]
    assert names == ["1.2.840.10008.5", "1.dcm", "2", "3.DCM", "4.png", "5.tif"]
    assert sources.ignored == {".csv": 2, ".md": 1, ".gz": 1, "DICOMDIR": 2, "hidden": 2}
    assert len(list(sources)) == 6
    assert sources.ignored.total() == 8


def test_counting_beside_an_iteration_does_not_disturb_it(tmp_path):
    sources = Sources([str(fill(tmp_path, "1.dcm", "2.csv", "3.dcm"))])
    walk = iter(sources)
    next(walk)
    assert sources.count() == 2
    assert sources.ignored == Counter()
    assert [source.path for source in walk] == [str(tmp_path / "3.dcm")]
    assert sources.ignored == {".csv": 1}


def test_the_walk_is_lazy(tmp_path):
    fill(tmp_path, "a/1.dcm", "b/2.dcm")
    walk = iter(Sources([str(tmp_path)]))
    assert next(walk).path.endswith("1.dcm")
    fill(tmp_path, "b/3.dcm")
    assert [Path(source.path).name for source in walk] == ["2.dcm", "3.dcm"]


def test_a_folder_of_more_names_than_are_held_comes_in_the_same_order(tmp_path):
    names = [f"{number * 7919 % 1009:04d}.dcm" for number in range(1009)] + ["sub/1.dcm", "sub/2.csv", "\udce4.dcm"]
    random.Random(0).shuffle(names)
    fill(tmp_path, *names)
    (tmp_path / "link.dcm").symlink_to(tmp_path / "gone")
    all_at_once = Sources([str(tmp_path)])
    expected = [source.path for source in all_at_once]
    assert len(expected) == 1009 + 3
    for listed in (1, 7, 100, 1011, 1012, 1013):
        sources = Sources([str(tmp_path)], listed=listed)
        assert [source.path for source in sources] == expected
        assert sources.ignored == all_at_once.ignored == {".csv": 1}
        assert sources.count() == len(expected)


def test_names_beyond_the_bound_are_not_in_memory(tmp_path):
    for number in range(8_000):
        (tmp_path / f"{number:06d}-{'x' * 100}.dcm").touch()

    def peak(listed: int) -> int:
        tracemalloc.start()
        try:
            assert sum(1 for _ in list_sorted(str(tmp_path), listed=listed)) == 8_000
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(8_001) > 1_500_000
    assert peak(200) < 800_000


def test_a_listing_leaves_no_file_behind(tmp_path, monkeypatch):
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    folder = fill(tmp_path / "archive", *map(str, range(50)))
    walk = iter(Sources([str(folder)], listed=3))
    next(walk)
    assert list(place.iterdir()) == []  # it has no name from the start
    opened = len(list(Path("/proc/self/fd").iterdir()))
    walk.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == opened - 1


def test_a_folder_whose_names_find_no_room_fails_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "not there"))
    folder = fill(tmp_path / "archive", *map(str, range(50)))
    (only,) = Sources([str(folder)], listed=3)
    assert only.path == str(folder)
    with pytest.raises(BrokenImageError, match="the folder cannot be listed: No such file or directory"):
        only.open()


def test_links_into_circles_end(tmp_path):
    archive = fill(tmp_path / "archive", "1.dcm", "deep/2.dcm")
    other = fill(tmp_path / "other", "3.dcm")
    (archive / "deep" / "up").symlink_to(archive)
    (archive / "link").symlink_to(other)
    (other / "back").symlink_to(archive)
    (other / "self").symlink_to(other)
    (archive / "nowhere.dcm").symlink_to(tmp_path / "gone")
    sources = Sources([str(archive)])
    names = [os.path.relpath(source.path, archive) for source in sources]
    assert names == ["1.dcm", "deep/2.dcm", "link/3.dcm", "nowhere.dcm"]
    assert sources.ignored == {"linked again": 3}


def test_deep_folders_are_no_problem(tmp_path):
    folder = tmp_path
    for _ in range(300):
        folder = folder / "d"
    assert len(found(fill(tmp_path, f"{folder.relative_to(tmp_path)}/1.dcm"))) == 1


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    sources = Sources([str(tmp_path)])
    assert list(sources) == []
    assert sources.ignored == {"device, pipe or socket": 1}
    with pytest.raises(BrokenImageError, match="device, pipe or socket") as caught:
        read_image(tmp_path / "pipe")
    assert caught.value.reason == "unreadable"


@pytest.mark.parametrize("path", ["no/such/place", ""])
def test_a_missing_path_is_an_error_at_the_start(path):
    with pytest.raises(BrokenImageError, match=f"'{path}'.*expected a file or a folder") as caught:
        Sources([path])
    assert caught.value.reason == "missing"


def test_reading_what_is_not_there_or_is_no_file(tmp_path):
    for path, reason in (
        (tmp_path / "gone.dcm", "missing"),
        (tmp_path, "unreadable"),
        (fill(tmp_path, "e") / "e", None),
    ):
        if reason is None:
            path.write_bytes(b"")
        with pytest.raises(BrokenImageError) as caught:
            read_image(path)
        assert caught.value.reason == (reason or "empty_file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_fails_by_name(tmp_path):
    secret = fill(tmp_path / "secret", "1.dcm")
    closed = fill(tmp_path, "closed.dcm") / "closed.dcm"
    closed.chmod(0)
    secret.chmod(0)
    try:
        assert found(tmp_path) == [str(closed), str(secret)]
        with pytest.raises(BrokenImageError, match="Permission denied") as caught:
            read_image(closed)
        assert caught.value.reason == "unreadable"
    finally:
        secret.chmod(0o700)
