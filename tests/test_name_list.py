"""Lists of names, as other programs write them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conftest import json_lines, run_cli
from mcr_infer import phantom
from mcr_infer.errors import BrokenImageError, ImageError
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.sources import NameList, Sources


def names(path: Path, content: bytes, *, null: bool = False) -> list[str]:
    path.write_bytes(content)
    return list(NameList(path=str(path), null=null))


def test_names_are_separated_by_line_ends_or_nul(tmp_path: Path):
    path = tmp_path / "list"
    assert names(path, b"a.dcm\n b c.dcm \n\n./d\n") == ["a.dcm", " b c.dcm ", "./d"]
    assert names(path, b"a\r\nb") == ["a", "b"]
    assert names(path, b"a\nb\0c\r\0\0d", null=True) == ["a\nb", "c\r", "d"]
    assert names(path, b"") == []
    assert names(path, b"r\xf6ntgen.dcm\n") == [os.fsdecode(b"r\xf6ntgen.dcm")]
    many = [f"{number}/{'x' * (number % 300)}" for number in range(3000)]
    assert names(path, "\n".join(many).encode()) == many


def test_what_is_no_list_of_names_is_one_failure(tmp_path: Path):
    path = tmp_path / "list"
    path.write_bytes(b"a\n" + b"x\0" * 100_000)
    first, last = Sources(names=NameList(path=str(path)))
    assert (first.path, last.path) == ("a", str(path))
    with pytest.raises(ImageError, match="--null says NUL"):
        last.open()
    with pytest.raises(BrokenImageError, match="expected a list of names, or - for standard input"):
        NameList(path=str(tmp_path / "gone"))


def test_listed_names_are_candidates_like_named_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("1.dcm", "sub/2.dcm", "sub/notes.txt", "3.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    (tmp_path / "list").write_text("sub\n3.txt\ngone.dcm\n")
    sources = Sources(["1.dcm"], names=NameList(path="list"))
    assert [source.path for source in sources] == ["1.dcm", "sub/2.dcm", "3.txt", "gone.dcm"]
    assert sources.ignored == {".txt": 1}
    assert sources.count() == 4
    *_, gone = sources
    assert gone.stamp() is None
    with pytest.raises(ImageError) as caught:
        gone.open()
    assert caught.value.reason == "missing"


def test_names_of_a_pipe_are_taken_as_they_come(tmp_path: Path):
    """The first names are worked on while the program that writes them has not ended."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    more = threading.Event()

    def write() -> None:
        with pipe.open("wb", buffering=0) as stream:
            stream.write(b"1.dcm\n2.dcm\n")
            more.wait(60)
            stream.write(b"3.dcm\n")

    writer = threading.Thread(target=write)
    writer.start()
    sources = Sources(names=NameList(path=str(pipe)))
    assert sources.count() is None
    walk = iter(sources)
    assert [next(walk).path, next(walk).path] == ["1.dcm", "2.dcm"]
    assert not more.is_set()
    more.set()
    assert [source.path for source in walk] == ["3.dcm"]
    writer.join()


def test_names_on_standard_input_are_embedded(tmp_path: Path):
    folder = tmp_path / os.fsdecode(b"r\xf6ntgen")
    folder.mkdir()
    paths = [folder / "1.dcm", folder / "with\nline end.dcm"]
    for seed, path in enumerate(paths):
        write_dicom(phantom.make(seed, 64), path)
    command = [sys.executable, "-m", "mcr_infer", "embed-images", "--files-from", "-", "--null", "--json"]
    command += ["--index", str(tmp_path / "index")]
    done = subprocess.run(command, input=b"\0".join(map(os.fsencode, paths)), capture_output=True, check=True)
    (summary,) = json_lines(done.stdout.decode())
    assert (summary["embedded"], summary["failed"]) == (2, 0)


def test_the_options_need_each_other(tmp_path: Path):
    assert "give a PATH, or --files-from" in run_cli("embed-images", code=2).stderr
    assert "--null says how the names" in run_cli("embed-images", tmp_path, "--null", code=2).stderr
