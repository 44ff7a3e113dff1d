"""The radiograph: what every reader returns and everything after it consumes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mcr_infer.images.header import ViewSource
from mcr_infer.images.presets import Preset

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded; the largest detectors and film scans stay below 50 million pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Radiograph:
    """One projection radiograph, rendered, with the few facts about it that may be kept.

    Nothing here identifies a person: names, ids, birth dates, accession numbers and institutions are never read into it.
    Where a site secret was given there is a key of the patient, which says nothing to those who do not have the secret.
    UIDs and the study year are, because a hit must be opened again.
    """

    pixels: NDArray[np.float32]
    """[H, W] in [0, 1], C-contiguous; high = radiodense (bone is bright, lung is dark); the patient's right is on the
    viewer's left, as on a light box."""

    source: str
    """`dicom`, `png` or `jpeg`."""

    sop_instance_uid: str | None = None
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None

    patient_key: str | None = None
    """The key of Patient ID, see `mcr_infer.pseudonyms`; None where no secret was given, or where the file has no id."""

    modality: str | None = None
    """DICOM modality (0008,0060): CR, DX or RG; None for plain images."""

    view_position: str | None = None
    """In upper case, such as PA, AP, LL, LATERAL; None where the file does not say."""

    view_source: ViewSource | None = None
    """What says the view: View Position (0018,5101), `tag`; View Code Sequence (0054,0220), `code`; or a word of a
    `description`."""

    body_part: str | None = None
    """Body Part Examined (0018,0015) in upper case; None where the file does not say."""

    study_year: int | None = None
    """The year of Study Date (0008,0020); the full date is not kept."""

    photometric_interpretation: str | None = None
    transfer_syntax_uid: str | None = None

    intensity: str = "full_range"
    """Where the grey scale came from: `voi_lut`, `window`, `percentiles` or `full_range`, or the preset `minmax` or
    `mimic_cxr_jpg`."""

    rendering: Preset = "voi"
    """The preset that was asked for; a tower takes pictures of its own preset alone."""

    mirrored: bool = False
    """True where Patient Orientation said that the stored rows ran the other way and they were turned back."""

    pixel_spacing: tuple[float, float] | None = None
    """Millimetres a row and a column of `pixels`, from Pixel Spacing, Imager Pixel Spacing or Nominal Scanned Pixel
    Spacing; None where unknown."""

    aspect: float = 1.0
    """Row spacing over column spacing, also from Pixel Aspect Ratio; 1 where unknown or within one percent of square. Of a
    reduced picture it is that of its own pixels, with what rounding did to its sides."""

    reduction: int = 1
    """By how much the picture was decoded smaller than it is stored: 2, 4 or 8; 1 = not."""

    notes: tuple[str, ...] = field(default=())
    """What the reader had to decide, in words: 'window width 0 ignored', 'trailing bytes ignored'."""
