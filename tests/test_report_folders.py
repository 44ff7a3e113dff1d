"""Folders of reports are walked as folders of images are: links, locks, hidden entries and other extensions."""

import os
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import json_lines, run_cli
from mcr_infer.errors import ImageError
from mcr_infer.reports import ReportFailure, ReportRecord, read_reports
from mcr_infer.reports.records import LONGEST
from mcr_infer.sources import Sources


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that any user may enter."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def fill(folder: Path, *names: str, text: str = "Edema.") -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def walked(folder: Path) -> tuple[list[str], dict[str, str], Counter[str]]:
    """The texts' paths below a folder, the failures' with their reasons, and what was left out."""
    ignored: Counter[str] = Counter()
    found = list(read_reports(folder, ignored=ignored))
    paths = {one: os.path.relpath(one.path, folder) for one in found}
    return (
        [paths[one] for one in found if isinstance(one, ReportRecord)],
        {paths[one]: one.reason for one in found if isinstance(one, ReportFailure)},
        ignored,
    )


def test_texts_of_a_folder_come_in_order(folder: Path):
    fill(folder, "b/2.txt", "b/1.TXT", "a.txt", "c.md")
    (folder / "b" / "1.TXT").write_bytes("Größe.".encode("utf-16"))
    (folder / "b" / "3.txt").write_bytes(b"\xef\xbb\xbfNormal.")
    assert walked(folder) == (["a.txt", "b/1.TXT", "b/2.txt", "b/3.txt"], {}, {".md": 1})
    records = list(read_reports(folder))
    assert [one.text for one in records] == ["Edema.", "Größe.", "Edema.", "Normal."]
    assert records[1].id == f"file://{folder.resolve()}/b/1.TXT"


def test_texts_that_cannot_be_read_fail_by_name(folder: Path):
    for name, data in {
        "latin1.txt": b"caf\xe9", "nul.txt": b"Ed\0ema.", "cut.txt": "Edema.".encode("utf-16")[:-1],
        "long.txt": b"x" * (LONGEST + 1), "huge.txt": b"x" * (6 * LONGEST), "fits.txt": "ß".encode() * LONGEST,
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    assert walked(folder) == (
        ["fits.txt"],
        {
            "cut.txt": "encoding", "huge.txt": "too_large", "latin1.txt": "encoding", "long.txt": "too_large",
            "nul.txt": "encoding",
        },
        {},
    )  # fmt: skip


def test_linked_folders_are_entered_once(folder: Path):
    fill(folder, "in/1.txt", "out/2.txt", "out/deep/3.txt")
    for name, target in {"in/a": "../out", "in/b": "../out", "in/loop": ".", "out/deep/up": "../../in"}.items():
        (folder / name).symlink_to(target, target_is_directory=True)
    assert walked(folder / "in") == (["1.txt", "a/2.txt", "a/deep/3.txt"], {}, {"linked again": 3})


def test_what_is_no_text_is_counted_by_kind(folder: Path):
    fill(folder, ".hidden.txt", ".git/1.txt", "a.rtf", "b.DOC", "c.zip", "d.tar.gz", "README", "1.txt")
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket.txt"))
        expected = {
            "hidden": 2, ".rtf": 1, ".doc": 1, ".zip": 1, ".gz": 1, "no extension": 1, "device, pipe or socket": 2,
        }  # fmt: skip
        assert walked(folder) == (["1.txt"], {}, expected)


def test_links_to_nowhere_and_to_pipes_fail_by_name(folder: Path):
    fill(folder, "in/1.txt", "out/2.txt")
    os.mkfifo(folder / "out" / "pipe")
    links = {"gone": "../nowhere", "gone.txt": "../nowhere.txt", "gone.pdf": "../x.pdf", "pipe.txt": "../out/pipe"}
    for name, target in {**links, "2.txt": "../out/2.txt", "self.txt": "self.txt"}.items():
        (folder / "in" / name).symlink_to(target)
    assert walked(folder / "in") == (
        ["1.txt", "2.txt"],
        {"gone": "missing", "gone.txt": "missing", "pipe.txt": "unreadable", "self.txt": "unreadable"},
        {".pdf": 1},
    )


def test_locked_entries_fail_as_those_of_images_do(folder: Path):
    fill(folder, "1.txt", "locked/2.txt", "closed.txt", "1.dcm")
    for name in ("locked", "closed.txt"):
        (folder / name).chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        assert walked(folder) == (["1.txt"], {"closed.txt": "unreadable", "locked": "unreadable"}, {".dcm": 1})
        failed = []
        for source in Sources([str(folder)]):
            try:
                source.open().close()
            except ImageError as error:
                failed.append((os.path.relpath(source.path, folder), error.reason))
        assert failed == [("locked", "unreadable")]
    finally:
        os.seteuid(user)
        (folder / "locked").chmod(0o700)


def test_the_summary_says_what_was_left_out(folder: Path):
    fill(folder, "in/1.txt", "in/2.rtf", "in/.3.txt")
    done = run_cli("embed-reports", folder / "in", "--index", folder / "index", "--json")
    (summary,) = json_lines(done.stdout)
    assert summary["ignored"] == {"hidden": 1, ".rtf": 1}
    assert (summary["embedded"], summary["updated"], summary["unchanged"], summary["failed"]) == (1, 0, 0, 0)
    assert "skipped by file name: 1 hidden, 1 .rtf" in done.stderr
    table = folder / "r.csv"
    for study, expected in (
        ("1", "2 reports embedded, 0 unchanged"),
        ("2", "0 reports embedded, 1 updated, 1 unchanged"),
    ):
        table.write_text(f"id,study_uid,report\na,{study},Normal chest.\nb,9,Edema.\n")
        assert expected in run_cli("embed-reports", table, "--index", folder / "index").stdout


def test_a_damaged_table_ends_with_exit_code_3(folder: Path):
    table = folder / "r.csv"
    table.write_text('id,report\n1,"Edema.\n2,"Effusion."\n3,Normal chest.\n')
    done: subprocess.CompletedProcess[str] = run_cli("embed-reports", table, "--index", folder / "index", code=3)
    assert "2 reports embedded, 0 unchanged, 1 failed" in done.stdout
    assert f"{table}:2: row 2: a quote opens in line 2" in done.stdout
