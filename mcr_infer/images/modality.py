"""Which modalities are projection radiographs, and what the others are called (PS3.3 C.7.3.1.1.1)."""

import re
from collections.abc import Callable
from types import MappingProxyType

from mcr_infer.errors import BrokenImageError, NotRadiographError

RADIOGRAPHS = ("CR", "DX", "RG")

_BY_SOP_CLASS = MappingProxyType({
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
})  # fmt: skip
"""Computed Radiography Image Storage, Digital X-Ray Image Storage for presentation and for processing (PS3.4 B.5)."""

_NAMES = MappingProxyType({
    "AR": "autorefraction", "AU": "audio", "BDUS": "ultrasound bone densitometry", "BI": "biomagnetic imaging",
    "BMD": "bone mineral densitometry", "CT": "computed tomography", "DOC": "document", "DMS": "dermoscopy",
    "DG": "diaphanography", "ECG": "electrocardiogram", "EEG": "electroencephalogram", "EPS": "electrophysiology",
    "ES": "endoscopy", "FID": "fiducials", "GM": "general microscopy", "HC": "hard copy", "HD": "haemodynamic waveform",
    "IO": "intra-oral radiography", "IVOCT": "intravascular optical coherence tomography",
    "IVUS": "intravascular ultrasound", "KO": "key object selection", "M3D": "3D manufacturing model",
    "MG": "mammography", "MR": "magnetic resonance", "NM": "nuclear medicine", "OCT": "optical coherence tomography",
    "OP": "ophthalmic photography", "OPT": "ophthalmic tomography", "OT": "other", "PLAN": "plan",
    "PR": "presentation state", "PT": "positron emission tomography", "PX": "panoramic dental radiography",
    "REG": "registration", "RESP": "respiratory waveform", "RF": "radiofluoroscopy", "RTDOSE": "radiotherapy dose",
    "RTIMAGE": "radiotherapy image", "RTPLAN": "radiotherapy plan", "RTRECORD": "radiotherapy treatment record",
    "RTSTRUCT": "radiotherapy structure set", "SC": "secondary capture", "SEG": "segmentation",
    "SM": "slide microscopy", "SR": "structured report", "TG": "thermography", "US": "ultrasound",
    "XA": "X-ray angiography", "XC": "photography",
})  # fmt: skip


def require_radiograph(modality: str | None, sop_class: str | None, describe_uid: Callable[[str], str]) -> str:
    """Return the modality, CR, DX or RG, from Modality (0008,0060) or else from the SOP class.

    `describe_uid` puts the SOP class into words.

    Raises `NotRadiographError` (`modality`) naming the other modality, or `BrokenImageError` (`missing_attribute`) where
    the file says neither.
    """
    modality = modality or _BY_SOP_CLASS.get(sop_class or "")
    if modality in RADIOGRAPHS:
        return modality
    if modality is not None:
        what = _describe(modality)
    elif sop_class is not None:
        what = f"SOP class {describe_uid(sop_class)}"
    else:
        raise BrokenImageError(
            "the DICOM file has neither a Modality (0008,0060) nor a SOP Class UID (0008,0016): "
            "nothing says that it is a radiograph",
            reason="missing_attribute",
        )
    raise NotRadiographError(
        f"{what} is not read: only projection radiographs are, of modality CR, DX or RG", reason="modality"
    )


def _describe(modality: str) -> str:
    if modality in _NAMES:
        return f"{modality} ({_NAMES[modality]})"
    # A retired code has two letters. Anything longer could be an id or a name that stands in the wrong place.
    return f"modality {modality}" if re.fullmatch(r"[A-Z]{2}", modality) else "a modality that is no DICOM code"
