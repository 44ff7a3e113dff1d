"""DICOMDIRs: the images that they refer to, whatever a hostile one says."""

import random
import shutil
import tracemalloc
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID

from dicoms import PATIENT
from mcr_infer import phantom
from mcr_infer.errors import ImageError, McrError
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.sources import PlainFile, Sources

FILE_SETS = Path(str(get_testdata_file("dicomdirtests/DICOMDIR"))).parent
EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


def record(kind: str = "IMAGE", file_id: list[str] | None = None, **attributes: object) -> Dataset:
    data = Dataset()
    data.OffsetOfTheNextDirectoryRecord = data.OffsetOfReferencedLowerLevelDirectoryEntity = 0
    data.RecordInUseFlag = 0xFFFF
    data.DirectoryRecordType, data.PatientName = kind, PATIENT
    if file_id is not None:
        data.ReferencedFileID = file_id
    for keyword, value in attributes.items():
        setattr(data, keyword, value)
    return data


def write(path: Path, records: list[Dataset], *, syntax: str = EXPLICIT, undefined: bool = False) -> Path:
    data = Dataset()
    data.FileSetID, data.FileSetConsistencyFlag = "TEST", 0
    data.DirectoryRecordSequence = records
    if undefined:
        data["DirectoryRecordSequence"].is_undefined_length = True
        for item in records:
            item.is_undefined_length_sequence_item = True
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = "1.2.840.10008.1.3.10", "1.2.3"
    data.save_as(path, enforce_file_format=True, implicit_vr=syntax == IMPLICIT, little_endian=syntax != BIG_ENDIAN)
    return path


def found(path: Path) -> list[str]:
    return [source.path for source in Sources([str(path)])]


def reason_of_last(path: Path) -> str:
    *_, last = Sources([str(path)])
    with pytest.raises(ImageError) as caught:
        last.open()
    return caught.value.reason


@pytest.mark.parametrize(
    "name", ["DICOMDIR", "DICOMDIR-bigEnd", "DICOMDIR-implicit", "DICOMDIR-reordered", "TINY_ALPHA/DICOMDIR"]
)
def test_file_sets_as_others_write_them(tmp_path: Path, name: str):
    """pydicom's file-sets, against pydicom's own reading."""
    shutil.copytree(FILE_SETS, tmp_path / "disc")
    path = tmp_path / "disc" / Path(name).parent / "DICOMDIR"
    shutil.copy(FILE_SETS / name, path)
    records = pydicom.dcmread(path).DirectoryRecordSequence
    expected = [str(path.parent.joinpath(*r.ReferencedFileID)) for r in records if r.DirectoryRecordType == "IMAGE"]
    assert len(expected) in (31, 50)
    assert found(path) == expected
    assert all(Path(file).is_file() for file in expected)
    assert Sources([str(path)]).count() == len(expected)


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_every_encoding_of_a_dicomdir(tmp_path: Path, syntax: str, undefined: bool):
    icon = Dataset()
    icon.Rows, icon.PixelData = 1, b"\0\0"
    icon["PixelData"].VR = "OW"
    records = [record("PATIENT"), record(file_id=["A", "1"], IconImageSequence=[icon]), record(file_id=["A", "2"])]
    if undefined:
        records[1]["IconImageSequence"].is_undefined_length = True
        icon.is_undefined_length_sequence_item = True
    write(tmp_path / "DICOMDIR", records, syntax=syntax, undefined=undefined)
    assert found(tmp_path / "DICOMDIR") == [str(tmp_path / "A/1"), str(tmp_path / "A/2")]


def test_paths_stay_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "DICOMDIR", [record(file_id=["A", "1"])])
    monkeypatch.chdir(tmp_path)
    assert [source.path for source in Sources(["DICOMDIR", "./DICOMDIR"])] == ["A/1", "./A/1"]


def test_what_is_no_image_is_left_out_and_counted(tmp_path: Path):
    records = [
        record("PATIENT"), record("SR DOCUMENT", ["A", "SR"]), record("PRESENTATION", ["A", "PR"]),
        record(file_id=["A", "1"]), record(file_id=["A", "OLD"], RecordInUseFlag=0), record("SR DOCUMENT", ["A", "SR2"]),
    ]  # fmt: skip
    sources = Sources([str(write(tmp_path / "DICOMDIR", records))])
    assert [source.path for source in sources] == [str(tmp_path / "A/1")]
    assert sources.ignored == {
        "DICOMDIR record SR DOCUMENT": 2, "DICOMDIR record PRESENTATION": 1, "DICOMDIR record that is not in use": 1
    }  # fmt: skip


def test_file_ids_meet_files_of_another_case(tmp_path: Path):
    for name in ("images/ct01/1.", "IMAGES2/Ct02/im001;1", "Images3/x"):
        file = tmp_path / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    write(tmp_path / "DICOMDIR", [
        record(file_id=["IMAGES", "CT01", "1"]), record(file_id=["IMAGES2", "CT02", "IM001"]),
        record(file_id=["IMAGES3", "X"]), record(file_id=["IMAGES3", "GONE"]),
    ])  # fmt: skip
    assert found(tmp_path / "DICOMDIR") == [
        str(tmp_path / name) for name in ("images/ct01/1.", "IMAGES2/Ct02/im001;1", "Images3/x", "IMAGES3/GONE")
    ]
    assert reason_of_last(tmp_path / "DICOMDIR") == "missing"


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")  # pydicom would rather not write them
@pytest.mark.parametrize(
    "file_id", [["..", "SECRET"], ["A", "..", "..", "SECRET"], ["", "ETC", "PASSWD"], ["A/../../B"], ["."]]
)
def test_what_leads_out_of_the_folder_is_refused(tmp_path: Path, file_id: list[str]):
    disc = tmp_path / "disc"
    disc.mkdir()
    (tmp_path / "SECRET").write_bytes(b"x")
    path = write(disc / "DICOMDIR", [record(file_id=["A", "1"]), record(file_id=file_id), record(file_id=["A", "2"])])
    first, refused, last = Sources([str(path)])
    assert isinstance(first, PlainFile)
    assert isinstance(last, PlainFile)
    assert ".." not in refused.path.split("/")
    with pytest.raises(ImageError, match="outside of its folder") as caught:
        refused.open()
    assert caught.value.reason == "unreadable"


def test_a_dicomdir_of_the_command_line_alone_is_read(tmp_path: Path):
    write_dicom(phantom.make(1, 64), tmp_path / "1.dcm")
    write(tmp_path / "DICOMDIR", [record(file_id=["GONE"])])
    sources = Sources([str(tmp_path)])
    assert [source.path for source in sources] == [str(tmp_path / "1.dcm")]
    assert sources.ignored == {"DICOMDIR": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"patient list\n" * 40, "not_dicom"),
        (b"\0" * 128 + b"DICM", "dicomdir"),
        (b"\0" * 128 + b"DICM\x02\x00\x10\x00UI\xff\xff", "corrupt"),
    ],
)
def test_what_is_only_called_a_dicomdir_is_one_failure(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "DICOMDIR"
    path.write_bytes(content)
    assert found(path) == [str(path)]
    assert reason_of_last(path) == reason


def test_an_image_under_that_name_is_no_dicomdir(tmp_path: Path):
    write_dicom(phantom.make(1, 64), tmp_path / "DICOMDIR")
    assert reason_of_last(tmp_path / "DICOMDIR") == "dicomdir"


def test_a_deflated_one_is_refused(tmp_path: Path):
    path = write(tmp_path / "DICOMDIR", [record(file_id=["A"])])
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99"[:20], 1))
    assert reason_of_last(path) == "transfer_syntax"


def test_a_cut_dicomdir_keeps_what_came_before(tmp_path: Path):
    path = write(tmp_path / "DICOMDIR", [record(file_id=["A", str(number)]) for number in range(20)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    files = found(path)
    assert files[:8] == [str(tmp_path / "A" / str(number)) for number in range(8)]
    assert files[-1] == str(path)
    assert len(files) < 14
    assert reason_of_last(path) == "truncated"


def test_neither_nesting_nor_size_costs_memory(tmp_path: Path):
    """20,000 sequences inside each other, and a value of 32 MB where a date should be."""
    path = write(
        tmp_path / "DICOMDIR",
        [record(file_id=["A"]), record("SERIES", DigitalSignaturesSequence=[]), record(file_id=["B"])],
    )
    data = path.read_bytes()
    series = data.index(b"\xfa\xff\xfa\xffSQ")
    deep = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    deep += b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * 10_000
    large = b"\x08\x00\x20\x00UT\0\0" + (32 << 20).to_bytes(4, "little") + b"1" * (32 << 20)
    end = series + 12
    body = bytearray(data[:end] + deep + large + data[end:])
    item = body.rindex(b"\xfe\xff\x00\xe0", 0, series)
    length = int.from_bytes(body[item + 4 : item + 8], "little") + len(deep) + len(large)
    body[item + 4 : item + 8] = length.to_bytes(4, "little")
    whole = body.index(b"\x04\x00\x20\x12SQ") + 8
    body[whole : whole + 4] = b"\xff\xff\xff\xff"
    body += b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(body)
    del body, deep, large, data
    tracemalloc.start()
    assert found(path) == [str(tmp_path / "A"), str(tmp_path / "B")]
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


def test_damage_anywhere_ends_in_words_and_never_quotes_a_name(tmp_path: Path):
    path = write(tmp_path / "DICOMDIR", [record(file_id=["A", str(number)]) for number in range(6)])
    data, chance, failures = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(data)
        for _ in range(3):
            damaged[chance.randrange(132, len(data))] = chance.randrange(256)
        path.write_bytes(damaged)
        sources = list(Sources([str(path)]))
        assert len(sources) <= 8
        for source in sources:
            with pytest.raises(McrError) as caught:  # none of the files is there
                source.open()
            failures += source.path == str(path)
            assert "name" not in f"{caught.value}{source.path}".replace(str(path.parent), "").lower()
    assert failures > 50
