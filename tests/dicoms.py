"""Small DICOM files with known pixels, for tests."""

import warnings
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ComputedRadiographyImageStorage

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, RLE, JPEG_LS, JPEG_2000 = (
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)
PATIENT = "Surname^Forename"
IN_12_BITS = {"WindowCenter": "2048", "WindowWidth": "4096"}
"""The window that shows all 12 bits: a stored value v is rendered v / 4095."""


def picture(rows: int = 40, columns: int = 48) -> np.ndarray:
    """12-bit values over the whole range without any symmetry."""
    stored = (np.add.outer(np.arange(rows) * 31, np.arange(columns) * 53) % 4096).astype(np.uint16)
    stored[:6, :9], stored[-1, -1] = 0, 4095
    return stored


def write(
    path: Path, stored: np.ndarray | None, *, syntax: str = EXPLICIT, frame: bytes | None = None, **attributes: object
) -> Path:
    """Write a CR image of `stored` [H, W]; `frame` replaces its bytes by a codestream, None leaves an attribute out."""
    little = syntax != BIG_ENDIAN
    data = Dataset()
    data.SOPClassUID, data.Modality = ComputedRadiographyImageStorage, "CR"
    data.SOPInstanceUID, data.StudyInstanceUID, data.SeriesInstanceUID = "1.2.3.4", "1.2.3", "1.2.3.5"
    data.StudyDate, data.ViewPosition, data.BodyPartExamined = "20190228", "PA", "CHEST"
    data.PatientName, data.PatientID, data.PatientBirthDate = PATIENT, "4711", "19370415"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    if stored is not None:
        data.Rows, data.Columns = stored.shape
        data.BitsAllocated = stored.dtype.itemsize * 8
        data.BitsStored = min(12, data.BitsAllocated)
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = int(stored.dtype.kind == "i")
        if frame is None:
            data.PixelData = stored.astype(stored.dtype.newbyteorder("<" if little else ">")).tobytes()
            data["PixelData"].VR = "OW"
        else:
            data.PixelData = encapsulate([frame])
            data["PixelData"].VR = "OB"
            data["PixelData"].is_undefined_length = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of the values are meant to be wrong
        for keyword, value in attributes.items():
            if value is None:
                delattr(data, keyword)
            else:
                setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = UID(syntax)
    data.file_meta.MediaStorageSOPClassUID = data.get("SOPClassUID", ComputedRadiographyImageStorage)
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(path, enforce_file_format=True)
    return path


def table(first: int, values: list[int], bits: int = 12) -> Sequence:
    """A Modality LUT Sequence or VOI LUT Sequence with one item."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values), first, bits])
    item.add_new("LUTData", "US", values)
    return Sequence([item])


def stored_table(
    declared: tuple[int, int, int],
    entries: np.ndarray,
    *,
    width: int = 2,
    vr: str = "OW",
    descriptor_vr: str = "US",
    little: bool = True,
) -> Sequence:
    """A sequence of one look-up table whose LUT Data hold `entries`, `width` bytes each, whatever its descriptor declares.

    Bytes are two in a word, the first one in its low half.
    """
    data = entries.astype(f"<u{width}").tobytes()
    data += b"\0" * (len(data) % 2 * (width == 1))
    item = Dataset()
    count, first, bits = declared
    item.add_new(
        "LUTDescriptor", descriptor_vr, [count & 0xFFFF, first if descriptor_vr == "SS" else first & 0xFFFF, bits]
    )
    if vr in ("US", "SS"):
        item.add_new("LUTData", vr, np.frombuffer(data, f"<{'i' if vr == 'SS' else 'u'}2").tolist())
    else:
        swapped = data if little or vr == "OB" else np.frombuffer(data, "<u2").astype(">u2").tobytes()
        item.add_new("LUTData", vr, swapped)
    return Sequence([item])
