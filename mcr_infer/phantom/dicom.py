"""A phantom is written as a DICOM file: a Digital X-Ray image for presentation, with realistic tags and no person in it."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mcr_infer.phantom import Phantom
from mcr_infer.phantom.anatomy import FIELD_OF_VIEW
from mcr_infer.phantom.projection import BURNT_IN_TEXT, STORED_MAX

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_UID_ROOT = "2.25."
"""UIDs from the 2.25 arc (ISO/IEC 9834-8): a UUID as one decimal number, valid without a registered root."""


_VIEW_CODES = {"PA": ("272479007", "postero-anterior"), "AP": ("399348003", "antero-posterior")}


def write_dicom(phantom: Phantom, path: Path) -> None:
    """Write one phantom as an uncompressed DX image (DICOM PS3.3 A.26); the same phantom gives the same bytes."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    uid = {level: _uid(phantom, level) for level in ("study", "series", "instance")}
    rows, columns = phantom.stored.shape
    data = Dataset()
    data.SOPClassUID = DigitalXRayImageStorageForPresentation
    data.SOPInstanceUID = uid["instance"]
    data.StudyInstanceUID = uid["study"]
    data.SeriesInstanceUID = uid["series"]
    data.ImageType = ["DERIVED", "PRIMARY", ""]
    data.StudyDate = data.SeriesDate = data.ContentDate = "20200101"
    data.StudyTime = data.SeriesTime = data.ContentTime = "000000"
    data.AccessionNumber = ""
    data.ReferringPhysicianName = ""
    data.Manufacturer = "mcr-infer phantom"
    data.PatientName = f"{BURNT_IN_TEXT}^PHANTOM"
    data.PatientID = f"{BURNT_IN_TEXT}-{phantom.seed}"
    data.PatientBirthDate = ""
    data.PatientSex = "O"
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "Synthetic image: there is no patient"
    data.StudyID = data.SeriesNumber = data.InstanceNumber = "1"
    data.StudyDescription = f"{BURNT_IN_TEXT} CHEST PHANTOM"
    data.SeriesDescription = f"{BURNT_IN_TEXT} CHEST {phantom.view}"
    data.Modality = "DX"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.BodyPartExamined = "CHEST"
    data.ViewPosition = phantom.view
    data.PatientOrientation = ["L", "F"]
    data.ImageLaterality = "U"
    data.AnatomicRegionSequence = [_code("51185008", "Chest")]
    data.ViewCodeSequence = [_code(*_VIEW_CODES[phantom.view])]
    data.DetectorType = data.PositionerType = ""
    data.AcquisitionContextSequence = []
    data.BurnedInAnnotation = "YES"
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME2"
    data.PresentationLUTShape = "IDENTITY"
    data.PixelIntensityRelationship = "LOG"
    data.PixelIntensityRelationshipSign = -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
    data.LossyImageCompression = "00"
    data.Rows, data.Columns = rows, columns
    data.ImagerPixelSpacing = [f"{FIELD_OF_VIEW / rows:.6f}", f"{FIELD_OF_VIEW / columns:.6f}"]
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    # A window over all 12 bits (PS3.3 C.11.2.1.2): stored values are already those for presentation.
    data.WindowCenter, data.WindowWidth = str((STORED_MAX + 1) // 2), str(STORED_MAX + 1)
    data.PixelData = phantom.stored.astype(np.dtype("<u2")).tobytes()
    data["PixelData"].VR = "OW"

    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.save_as(path, enforce_file_format=True)


def _code(value: str, meaning: str) -> "Dataset":
    """Return one item of a code sequence, from SNOMED CT (PS3.16 CID 4009 and 4010)."""
    from pydicom.dataset import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def _uid(phantom: Phantom, level: str) -> str:
    """Derive a UID from the phantom's seed and pixels, so that other pixels never share an instance UID."""
    text = f"mcr-infer phantom {phantom.seed} {level}".encode()
    digest = hashlib.sha256(text + (phantom.stored.tobytes() if level == "instance" else b"")).digest()
    return _UID_ROOT + str(int.from_bytes(digest[:16], "big"))
