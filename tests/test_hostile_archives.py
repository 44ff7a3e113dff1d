"""Archives that are damaged, lie, or would fill the memory: what can be read is, the rest is a failure by name."""

import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest

from archives import MEMBERS, TARS, member, read, write_tar, write_zip
from mcr_infer.errors import ImageError
from mcr_infer.sources import Sources


def test_a_bomb_is_refused_by_what_it_says_and_by_what_it_does(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {"big": b"\0" * 3_000_000, "small": b"x"})
    assert read(Sources([str(path)], largest=1_000_000)) == {f"{path}/big": "too_large", f"{path}/small": b"x"}
    raw = bytearray(path.read_bytes())
    directory = raw.index(b"PK\x01\x02")
    raw[directory + 24 : directory + 28] = struct.pack("<L", 1000)  # 1,000 bytes, it says, and unpacks to 3,000,000
    path.write_bytes(raw)
    tracemalloc.start()
    assert read(Sources([str(path)], largest=1_000_000)) == {f"{path}/big": "corrupt", f"{path}/small": b"x"}
    assert tracemalloc.get_traced_memory()[1] < 1_500_000
    tracemalloc.stop()
    path = write_tar(tmp_path / "a.tgz", {"big": b"\0" * 3_000_000, "small": b"x"}, "w:gz")
    assert read(Sources([str(path)], largest=1_000_000)) == {f"{path}/big": "too_large", f"{path}/small": b"x"}


def test_encrypted_and_rarely_compressed_members_are_failures_by_name(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {"1.dcm": b"x" * 50, "2.dcm": b"y" * 50})
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("3.dcm", b"z" * 500, zipfile.ZIP_LZMA)
        archive.writestr("4.dcm", b"")
    assert read(Sources([str(path)])) == {
        f"{path}/1.dcm": "encrypted",
        f"{path}/2.dcm": b"y" * 50,
        f"{path}/3.dcm": "compression",
        f"{path}/4.dcm": "empty_file",
    }
    with pytest.raises(ImageError, match=r"method 14 of zip.*pack it again"):
        list(Sources([str(path)]))[2].open()


def test_a_flipped_bit_in_a_member_is_noticed(tmp_path: Path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = os.urandom(1000)
        path = write_zip(tmp_path / "a.zip", {"1.dcm": data, "2.dcm": b"fine"}, method)
        raw = bytearray(path.read_bytes())
        raw[700] ^= 4
        path.write_bytes(raw)
        assert read(Sources([str(path)])) == {f"{path}/1.dcm": "corrupt", f"{path}/2.dcm": b"fine"}


def test_a_cut_zip_archive_is_one_failure(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:-30])
    assert read(Sources([str(path)])) == {str(path): "truncated"}
    path.write_bytes(b"")
    assert read(Sources([str(path)])) == {str(path): "empty_file"}
    path.write_bytes(b"PK" * 20)
    assert read(Sources([str(path)])) == {str(path): "truncated"}


def test_members_before_the_damage_of_a_zip_directory_stay(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    raw = bytearray(path.read_bytes())
    raw[raw.rindex(b"PK\x01\x02")] = 0
    path.write_bytes(raw)
    found = read(Sources([str(path), str(path)]))
    assert found == {
        f"{path}/study/1.dcm": b"A" * 5000,
        f"{path}/study/2.dcm": bytes(range(256)) * 9,
        str(path): "corrupt",
    }
    assert Sources([str(path)]).count() == 3


@pytest.mark.parametrize(("name", "mode"), TARS.items())
def test_members_before_the_end_of_a_cut_tar_archive_stay(tmp_path: Path, name: str, mode: str):
    data = {f"{i}.dcm": os.urandom(60_000) for i in range(12)}
    path = write_tar(tmp_path / name, data, mode)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    sources = Sources([str(path)])
    found = read(sources)
    assert found.pop(str(path)) == "truncated"
    # xz and bzip2 unpack in large blocks.
    assert len(found) >= (5 if mode in ("w", "w:gz") else 0)
    assert all(content == data[Path(shown).name] for shown, content in found.items())


def test_a_damaged_tar_header_is_not_taken_for_the_end(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", {"1.dcm": b"x", "2.dcm": b"y", "3.dcm": b"z"})
    raw = bytearray(path.read_bytes())
    raw[1024 + 10] ^= 0xFF  # in the name of the second member: its checksum is wrong
    path.write_bytes(raw)
    assert read(Sources([str(path)])) == {f"{path}/1.dcm": b"x", str(path): "corrupt"}
    path.write_bytes(raw[:1024])  # cut between two members, where nothing but the missing end mark shows it
    assert read(Sources([str(path)])) == {f"{path}/1.dcm": b"x", str(path): "truncated"}
    path.write_bytes(b"no archive at all, though it is called one" * 50)
    assert read(Sources([str(path)])) == {str(path): "corrupt"}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_header_of_a_gigabyte_is_refused(tmp_path: Path, mode: str):
    """A pax header is read whole by tarfile: a small compressed archive could hold one that fills the memory."""
    path = tmp_path / "a.tar"
    header = member("pax", 1 << 30)
    header.type = tarfile.XHDTYPE
    with tarfile.open(path, mode) as archive:
        archive.addfile(member("1.dcm", 1), io.BytesIO(b"x"))
        archive.fileobj.write(header.tobuf(tarfile.USTAR_FORMAT))
        archive.fileobj.write(b"\0" * (4 << 20))
    tracemalloc.start()
    assert read(Sources([str(path)])) == {f"{path}/1.dcm": b"x", str(path): "corrupt"}
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_an_archive_that_would_take_gigabytes_to_unpack_is_refused(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar.xz", {"1.dcm": b"x" * 5000}, "w:xz")
    raw = bytearray(path.read_bytes())
    end = 12 + (raw[12] + 1) * 4  # of the header of the first block, after that of the stream
    dictionary = raw.index(b"\x21\x01", 12, end) + 2
    raw[dictionary] = 40  # 4 GiB
    raw[end - 4 : end] = struct.pack("<L", zlib.crc32(raw[12 : end - 4]))
    path.write_bytes(raw)
    assert read(Sources([str(path)])) == {str(path): "compression"}


def test_the_directory_of_a_large_zip_archive_is_not_held(tmp_path: Path):
    path = write_zip(tmp_path / "a.zip", {f"study/{i:06d}.dcm": b"" for i in range(8_000)}, zipfile.ZIP_STORED)
    tracemalloc.start()
    assert sum(1 for _ in Sources([str(path)])) == 8_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000  # zipfile takes 4 MB for them


def test_members_of_a_large_tar_archive_are_not_held(tmp_path: Path):
    path = write_tar(tmp_path / "a.tar", {f"{i:04d}.dcm": b"" for i in range(3000)})
    tracemalloc.start()
    assert sum(1 for _ in Sources([str(path)])) == 3000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_500_000


@pytest.mark.parametrize("mtime", ["-1e18", "1e19", "nan", "1e400", "-62135596800.5", "x"])
def test_odd_times_of_tar_members_do_not_matter(tmp_path: Path, mtime: str):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("1.dcm")
        member.size, member.pax_headers = 3, {"mtime": mtime}
        archive.addfile(member, io.BytesIO(b"abc"))
    (source,) = list(Sources([str(path)]))
    assert source.open().read() == b"abc"
    stamp = source.stamp()
    assert stamp is not None
    assert (stamp.mtime_ns, stamp.ctime_ns) == (path.stat().st_mtime_ns, path.stat().st_ctime_ns)


@pytest.mark.parametrize("seconds", [-(2**40), -1, 2**33, 2**40])
def test_odd_times_of_old_tar_headers_do_not_matter(tmp_path: Path, seconds: int):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("1.dcm")
        member.size, member.mtime = 3, seconds
        archive.addfile(member, io.BytesIO(b"abc"))
    assert [source.open().read() for source in Sources([str(path)])] == [b"abc"]


@pytest.mark.parametrize(
    ("date", "time"), [(0, 0), (0xFFFF, 0xFFFF), (0b0000000_0001_00001, 0), (0b1111111_1100_11111, 0)]
)
def test_odd_times_of_zip_members_do_not_matter(tmp_path: Path, date: int, time: int):
    """No date at all, month 15 and day 31, the first day of 1980 and the last of 2107."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1.dcm", b"abc")
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 10), (b"PK\x01\x02", 12)):
        struct.pack_into("<2H", content, content.index(signature) + at, time, date)
    path.write_bytes(content)
    assert [source.open().read() for source in Sources([str(path)])] == [b"abc"]


@pytest.mark.parametrize("name", ["a\0b.dcm", "a\x1b[2J.dcm", "a\nb.dcm", "\u202ea.dcm"])
def test_odd_names_of_members_are_kept(tmp_path: Path, name: str):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("1.dcm")
        member.size, member.pax_headers = 3, {"path": name}
        archive.addfile(member, io.BytesIO(b"abc"))
    assert [source.path for source in Sources([str(path)])] == [f"{path}/{name.replace(chr(0), '%00')}"]


@pytest.mark.parametrize(
    ("size", "packed", "offset", "reason"),
    [
        (2**63, 5, 0, "too_large"), (2**64 - 1, 2**64 - 1, 2**64 - 1, "too_large"), (5, 2**64 - 1, 0, "corrupt"),
        (5, 5, 2**63, "corrupt"), (5, 5, 2**64 - 1, "corrupt"), (5, 5, 2**40, "corrupt"), (2**31, 5, 0, "too_large"),
    ],
)  # fmt: skip
def test_numbers_of_a_zip64_member_are_bounded(tmp_path: Path, size: int, packed: int, offset: int, reason: str):
    path = write_zip(tmp_path / "a.zip", {"1.dcm": b"12345", "2.dcm": b"12345"}, zipfile.ZIP_STORED)
    raw = bytearray(path.read_bytes())
    directory, end = raw.index(b"PK\x01\x02"), raw.rindex(b"PK\x05\x06")
    raw[directory + 20 : directory + 28] = b"\xff" * 8
    raw[directory + 42 : directory + 46] = b"\xff" * 4
    extra = struct.pack("<2H3Q", 1, 24, size, packed, offset)
    raw[directory + 30 : directory + 32] = struct.pack("<H", len(extra))
    raw[end + 12 : end + 16] = struct.pack("<L", struct.unpack_from("<L", raw, end + 12)[0] + len(extra))
    raw[directory + 51 : directory + 51] = extra
    path.write_bytes(raw)
    assert read(Sources([str(path)], largest=1 << 30)) == {f"{path}/1.dcm": reason, f"{path}/2.dcm": b"12345"}
    for source in Sources([str(path)], largest=1 << 30):
        stamp = source.stamp()
        assert stamp is None or stamp.size < 1 << 30  # what the index can keep


@pytest.mark.parametrize("name", ["n" * 5000, "\u00e9" * 2500, "a/" * 3000 + "b", "\udcff" * 4097])
def test_names_longer_than_a_path_are_failures(tmp_path: Path, name: str):
    raw = name.encode("utf-8", "surrogateescape")
    placeholder = "x" * len(raw)
    path = write_zip(tmp_path / "a.zip", {placeholder: b"12345", "2.dcm": b"12345"})
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), raw))
    shown = f"{path}/{name[:100]}..."
    assert read(Sources([str(path)])) == {shown: "unreadable", f"{path}/2.dcm": b"12345"}
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="utf-8", errors="surrogateescape") as archive:
        archive.addfile(member(name, 5), io.BytesIO(b"12345"))
        archive.addfile(member("2.dcm", 5), io.BytesIO(b"12345"))
    shown = f"{path}/{name[:100]}..."
    assert read(Sources([str(path)])) == {shown: "unreadable", f"{path}/2.dcm": b"12345"}
