"""Archives: every member a candidate of its own, in bounded memory, and nothing that an archive says is believed."""

import io
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from archives import MEMBERS, TARS, member, read, through_json, write_tar, write_zip
from conftest import json_lines, run_cli
from mcr_infer import phantom
from mcr_infer.errors import ImageError
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.sources import FileStamp, Sources, exists


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_archive_are_candidates(tmp_path: Path, method: int):
    path = write_zip(tmp_path / "a.zip", MEMBERS, method)
    sources = Sources([str(path)])
    assert read(sources) == {f"{path}/{name}": data for name, data in MEMBERS.items()}
    assert sources.count() == 3
    assert {source.opened_by for source in sources} == {"worker"}
    stamps = [source.stamp() for source in sources]
    seen = path.stat()
    assert stamps[0] == FileStamp(
        path=f"{path}/study/1.dcm", size=5000, mtime_ns=seen.st_mtime_ns, ctime_ns=seen.st_ctime_ns
    )


@pytest.mark.parametrize(("name", "mode"), TARS.items())
def test_members_of_a_tar_archive_are_candidates(tmp_path: Path, name: str, mode: str):
    path = write_tar(tmp_path / name, {f"./{name}": data for name, data in MEMBERS.items()}, mode)
    sources = Sources([str(path)])
    assert read(sources) == {f"{path}/{name}": data for name, data in MEMBERS.items()}
    plain = mode == "w"
    assert sources.count() == (3 if plain else None)
    assert {source.opened_by for source in sources} == {"worker" if plain else "parent"}
    assert [source.stamp().size for source in sources] == [5000, 2304, 1]
    assert {source.stamp().mtime_ns for source in sources} == {path.stat().st_mtime_ns}


def test_a_compressed_tar_archive_is_known_by_its_bytes_and_not_by_its_name(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", MEMBERS, "w:gz")
    assert read(Sources([str(path)])) == {f"{path}/{name}": data for name, data in MEMBERS.items()}


def test_a_member_of_a_tar_archive_can_be_searched_like_a_file(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", {"1": b"before", "2": bytes(range(200)), "3": b"after"})
    source = list(Sources([str(path)]))[1]
    with source.open() as stream:
        assert stream.seek(0, os.SEEK_END) == 200
        assert stream.read() == b""
        assert stream.seek(-10, os.SEEK_CUR) == 190
        assert stream.read(4) == bytes([190, 191, 192, 193])
        assert stream.tell() == 194
        stream.seek(5)
        assert stream.read() == bytes(range(5, 200))


def test_archives_in_folders_are_opened_in_their_place(tmp_path: Path):
    (tmp_path / "1.dcm").write_bytes(b"x")
    write_zip(tmp_path / "2.zip", {"a.dcm": b"y"})
    write_tar(tmp_path / "3.tar", {"b.dcm": b"z"})
    (tmp_path / "4.dcm").write_bytes(b"x")
    (tmp_path / "5.zip").mkdir()  # a folder by whatever name
    (tmp_path / "5.zip" / "c.dcm").write_bytes(b"x")
    sources = Sources([str(tmp_path)])
    names = [os.path.relpath(source.path, tmp_path) for source in sources]
    assert names == ["1.dcm", "2.zip/a.dcm", "3.tar/b.dcm", "4.dcm", "5.zip/c.dcm"]
    assert sources.count() == 5


def test_what_is_left_out_of_archives_is_counted_by_kind(tmp_path: Path):
    members = {
        "1.dcm": b"x", "notes.txt": b"", "DICOMDIR": b"", "__MACOSX/._1.dcm": b"", ".git/config": b"", "inner.zip": b"PK",
        "inner.tar.gz": b"", "truth.CSV": b"",
    }  # fmt: skip
    write_zip(tmp_path / "a.zip", members)
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        for name in members:
            archive.addfile(member(name, 1), io.BytesIO(b"x"))
        for name, kind in (("folder", tarfile.DIRTYPE), ("soft", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            other = member(name, 0)
            other.type, other.linkname = kind, "1.dcm"
            archive.addfile(other)
        fifo = member("pipe", 0)
        fifo.type = tarfile.FIFOTYPE
        archive.addfile(fifo)
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "1.dcm")
        archive.mkdir("folder")
    left_out = {".txt": 1, "DICOMDIR": 1, "hidden": 2, ".zip": 1, ".gz": 1, ".csv": 1}
    sources = Sources([str(tmp_path / "a.zip")])
    assert len(list(sources)) == 1
    assert sources.ignored == left_out | {"link": 1}
    sources = Sources([str(tmp_path / "b.tar")])
    assert len(list(sources)) == 1
    assert sources.ignored == left_out | {"link": 2, "device, pipe or socket": 1}


def test_names_inside_archives_lead_nowhere(tmp_path: Path):
    names = {"../up.dcm": b"1", "/etc/passwd": b"2", "a/../../b.dcm": b"3", "./c.dcm": b"4"}
    shown = ["%2E%2E/up.dcm", "etc/passwd", "a/%2E%2E/%2E%2E/b.dcm", "c.dcm"]
    for path in (write_zip(tmp_path / "a.zip", names), write_tar(tmp_path / "a.tar", names)):
        assert list(read(Sources([str(path)]))) == [f"{path}/{name}" for name in shown]
        assert all(exists(f"{path}/{name}") for name in shown)


def test_names_that_are_not_utf8_survive(tmp_path: Path):
    folder = os.fsdecode(os.fsencode(str(tmp_path)) + b"/r\xf6ntgen")
    Path(folder).mkdir()
    plain = Path(folder, os.fsdecode(b"\xe4.dcm"))
    plain.write_bytes(b"plain")
    write_tar(Path(folder, "t.tar"), {os.fsdecode(b"\xfc.dcm"): b"tar"})
    raw = write_zip(Path(folder, "z.zip"), {"Q.dcm": b"zip"}).read_bytes()
    Path(folder, "z.zip").write_bytes(raw.replace(b"Q.dcm", b"\xdf.dcm"))
    assert read(Sources([folder])) == {
        f"{folder}/t.tar/" + os.fsdecode(b"\xfc.dcm"): b"tar",
        f"{folder}/z.zip/" + os.fsdecode(b"\xdf.dcm"): b"zip",
        str(plain): b"plain",
    }


def test_zip64_and_what_stands_before_an_archive(tmp_path: Path):
    """zip64 records are written whatever the size, in the members and at the end; a self-extractor stands before it all."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("1.dcm", "2.dcm"):
            with archive.open(name, "w", force_zip64=True) as stream:
                stream.write(name.encode() * 100)
    raw = path.read_bytes()
    directory, end = raw.index(b"PK\x01\x02"), raw.index(b"PK\x05\x06")
    entries = b""
    for record in raw[directory:end].split(b"PK\x01\x02")[1:]:
        record = bytearray(b"PK\x01\x02" + record)
        size, offset = struct.unpack_from("<L", record, 24)[0], struct.unpack_from("<L", record, 42)[0]
        struct.pack_into("<2L", record, 20, 0xFFFFFFFF, 0xFFFFFFFF)
        struct.pack_into("<L", record, 42, 0xFFFFFFFF)
        extra = struct.pack("<2H3Q", 1, 24, size, size, offset)
        struct.pack_into("<H", record, 30, len(extra))
        entries += bytes(record[:51]) + extra
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 2, 2, len(entries), directory)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, directory + len(entries), 1)
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 3) + b"end"
    path.write_bytes(b"#!/bin/sh\nexit 1\n" + raw[:directory] + entries + end64 + locator + tail)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["1.dcm", "2.dcm"]  # Python agrees that this is an archive
    assert read(Sources([str(path)])) == {f"{path}/{n}": n.encode() * 100 for n in ("1.dcm", "2.dcm")}


def test_xz_streams_behind_each_other_are_one_file(tmp_path: Path):
    data = write_tar(tmp_path / "a.tar", MEMBERS | {"big": os.urandom(300_000)}).read_bytes()
    parts = [lzma.compress(data[start : start + 100_000]) for start in range(0, len(data), 100_000)]
    path = tmp_path / "a.tar.xz"
    path.write_bytes((b"\0" * 8).join(parts))
    plain = read(Sources([str(tmp_path / "a.tar")]))
    assert read(Sources([str(path)])) == {name.replace(".tar/", ".tar.xz/"): data for name, data in plain.items()}
    assert len(read(Sources([str(path)]))) == 4


def test_whether_a_stored_path_still_exists(tmp_path: Path):
    archive = write_zip(tmp_path / "a.zip", {"deep/1.dcm": b"x"})
    tar = write_tar(tmp_path / "a.tar", {"1.dcm": b"x"})
    file = tmp_path / "1.dcm"
    file.write_bytes(b"x")
    assert exists(str(file))
    assert exists(f"{archive}/deep/1.dcm")
    assert not exists(f"{archive}/deep/2.dcm")
    assert exists(f"{tar}/1.dcm")
    assert exists("dicomweb://pacs.example/dicom-web/studies/1/series/2/instances/3")
    for path in (file, archive, tar):
        path.unlink()
    for gone in (file, f"{archive}/deep/1.dcm", f"{tar}/1.dcm"):
        assert not exists(str(gone))


def test_an_archive_that_changes_is_noticed(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {"1.dcm": b"first", "2.dcm": b"x"})
    source = next(iter(Sources([str(path)])))
    write_zip(path, {"0.dcm": b"another", "1.dcm": b"first"})
    with pytest.raises(ImageError) as caught:
        source.open()
    assert caught.value.reason in ("corrupt", "truncated")
    assert next(iter(Sources([str(path)]))).stamp() != source.stamp()
    tar = write_tar(tmp_path / "a.tar", {"1.dcm": b"x" * 9000})
    source = next(iter(Sources([str(tar)])))
    tar.write_bytes(tar.read_bytes()[:5000])
    with pytest.raises(ImageError, match="ends inside the member"):
        source.open()
    tar.unlink()
    with pytest.raises(ImageError) as caught:
        through_json(source).open()
    assert caught.value.reason == "missing"


def test_zip_checksums_are_those_of_python(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    assert [source.to_dict()["crc"] for source in Sources([str(path)])] == [
        zlib.crc32(data) for data in MEMBERS.values()
    ]


def test_archives_are_embedded_once(tmp_path: Path):
    folder, index = tmp_path / "in", tmp_path / "index"
    folder.mkdir()
    files = {}
    for seed in range(6):
        write_dicom(phantom.make(seed, 64), tmp_path / f"{seed}.dcm")
        files[seed] = (tmp_path / f"{seed}.dcm").read_bytes()
    write_zip(folder / "a.zip", {"0.dcm": files[0], "deep/1.dcm": files[1], "bad.dcm": b"no radiograph"})
    write_tar(folder / "b.tar", {"2.dcm": files[2], "3.dcm": files[3]})
    write_tar(folder / "c.tar.gz", {"4.dcm": files[4], "5.dcm": files[5]}, "w:gz")
    (summary,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json", code=3).stdout)
    assert (summary["embedded"], summary["unchanged"], summary["failed"]) == (6, 0, 1)
    assert summary["failures"][0]["path"] == f"{folder}/a.zip/bad.dcm"
    assert summary["failures"][0]["reason"] == "not_dicom"
    (again,) = json_lines(run_cli("embed-images", folder, "--index", index, "--json", code=3).stdout)
    assert (again["embedded"], again["unchanged"], again["failed"]) == (0, 6, 1)
    hits = json_lines(run_cli("query", "normal", "-k", "9", "--index", index, "--json").stdout)
    assert {hit["path"].removeprefix(f"{folder}/") for hit in hits} == {
        "a.zip/0.dcm", "a.zip/deep/1.dcm", "b.tar/2.dcm", "b.tar/3.dcm", "c.tar.gz/4.dcm", "c.tar.gz/5.dcm"
    }  # fmt: skip
