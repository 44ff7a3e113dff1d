"""Files are rendered as dcm2pnm of DCMTK does, within one of 256 greys; exceptions name the clause that decides otherwise.

dcm2pnm rounds greys down, and MONOCHROME1 ones up: hence the grey level.
"""

import shutil
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicoms import BIG_ENDIAN, EXPLICIT, IMPLICIT, IN_12_BITS, stored_table, write
from mcr_infer.images.dicom import read_dicom

pytestmark = pytest.mark.skipif(
    shutil.which("dcm2pnm") is None, reason="dcm2pnm of DCMTK is not installed: apt-get install dcmtk"
)


@dataclass(frozen=True)
class Lut:
    """A curve of `count` entries up to `top`, stored as its fields say."""

    first: int
    count: int
    bits: int = 16
    top: int | None = None
    """The largest entry; None for the largest of `bits`."""
    held: int | None = None
    """Entries in LUT Data; None for `count`."""
    width: int = 2
    vr: str = "OW"
    descriptor_vr: str = "US"

    def sequence(self, syntax: str) -> object:
        top = (1 << self.bits) - 1 if self.top is None else self.top
        ramp = np.arange(self.count if self.held is None else self.held) / (self.count - 1)
        return stored_table(
            (self.count, self.first, self.bits),
            np.rint(top * np.minimum(ramp, 1) ** 0.7),
            width=self.width,
            vr=self.vr,
            descriptor_vr=self.descriptor_vr,
            little=syntax != BIG_ENDIAN,
        )


@dataclass(frozen=True)
class Case:
    """One file: `bits` stored, `i` for signed ones, and how it asks to be rendered."""

    bits: str
    syntax: str
    show: Lut | tuple[float, float] | tuple[float, float, str]
    """A VOI LUT, or center, width and function of a window."""
    modality: Lut | tuple[str, str] | None = None
    """A modality LUT, or slope and intercept."""
    mono: int = 2
    extra: dict[str, object] = field(default_factory=dict)
    patch: tuple[bytes, bytes] = (b"", b"")
    """What is exchanged in the file once it is written."""

    def write(self, path: Path) -> Path:
        count, signed = int(self.bits[1:]), self.bits[0] == "i"
        lowest = -(1 << (count - 1)) if signed else 0
        levels = np.linspace(lowest, lowest + (1 << count) - 1, 64 * 61).round().astype(int)
        stored = np.random.default_rng(0).permutation(levels).reshape(64, 61)
        attributes: dict[str, object] = {"BitsStored": count, "HighBit": count - 1}
        attributes["PhotometricInterpretation"] = f"MONOCHROME{self.mono}"
        if isinstance(self.show, Lut):
            attributes["VOILUTSequence"] = self.show.sequence(self.syntax)
        else:
            attributes |= dict(zip(("WindowCenter", "WindowWidth", "VOILUTFunction"), self.show, strict=False))
        if isinstance(self.modality, Lut):
            attributes["ModalityLUTSequence"] = self.modality.sequence(self.syntax)
        elif self.modality is not None:
            attributes |= {"RescaleSlope": self.modality[0], "RescaleIntercept": self.modality[1]}
        dtype = f"{'i' if signed else 'u'}{1 if count <= 8 else 2}"
        write(path, stored.astype(dtype), syntax=self.syntax, **attributes | self.extra)
        path.write_bytes(path.read_bytes().replace(*self.patch, 1))
        return path


def ours(path: Path) -> np.ndarray:
    """Greys [H, W] from 0 to 255."""
    return np.rint(read_dicom(path).pixels.astype(np.float64) * 255)


def theirs(case: Case, path: Path, *options: str) -> np.ndarray:
    """Greys [H, W] from 0 to 255 as dcm2pnm renders them."""
    shown = "+Wl" if isinstance(case.show, Lut) else "+Wi"
    output = path.with_suffix(".pgm")
    subprocess.run(["dcm2pnm", "-O", *options, shown, "1", str(path), str(output)], check=True, capture_output=True)
    return np.asarray(Image.open(output)).astype(np.float64)


E, I, B = EXPLICIT, IMPLICIT, BIG_ENDIAN  # noqa: E741

IN_12, HALF = Case("u12", E, (2048, 4096)), Case("u12", E, (1024, 2048), ("0.5", "0"))
SHAPE = "PresentationLUTShape"

EQUAL = [
    # windows over all bits, in every syntax, signed or not, of both photometric interpretations
    Case("u8", E, (128, 256)),
    Case("u8", I, (100, 120)),
    Case("u8", B, (128, 256), mono=1),
    Case("i8", E, (0, 256)),
    Case("u10", E, (512, 1024)),
    Case("u10", B, (300, 500), mono=1),
    Case("u12", E, (2048, 4096)),
    Case("u12", I, (2048, 4096), mono=1),
    Case("u12", B, (1000.5, 1500.25)),
    Case("u12", E, (2048.25, 3)),
    Case("u12", E, (2048, 1)),
    Case("i12", E, (0, 4096)),
    Case("i12", I, (-500, 1000), mono=1),
    Case("i12", B, (300, 700)),
    Case("u14", E, (8192, 16384)),
    Case("i14", B, (0, 16384), mono=1),
    Case("u16", E, (32768, 65536)),
    Case("u16", I, (20000, 30000), mono=1),
    Case("i16", E, (0, 65536)),
    Case("i16", B, (-9000, 20000)),
    # functions
    Case("u12", E, (2048, 4096, "LINEAR")),
    Case("u12", E, (2048, 4096, "linear")),
    Case("u12", E, (2048, 4096, "LINEAR_EXACT")),
    Case("u16", B, (32768, 9000, "LINEAR_EXACT"), mono=1),
    Case("u12", E, (2048, 1500, "SIGMOID")),
    Case("u12", I, (1000, 500, "SIGMOID"), mono=1),
    Case("i12", B, (0, 2000, "SIGMOID")),
    Case("i16", E, (-5000, 20000, "SIGMOID"), modality=("0.5", "100")),
    # rescale before a window
    Case("u12", E, (1024, 2048), modality=("0.5", "0")),
    Case("u12", I, (0, 4096), modality=("1", "-2048")),
    Case("u12", B, (0, 2000), modality=("-1", "2048")),
    Case("i12", E, (500, 3000), modality=("1.25", "-1000.5"), mono=1),
    Case("u8", E, (512, 1024), modality=("4", "2")),
    Case("u12", E, (1000, 2000), modality=("1.00000000000000000000", "0.00000000000000000000")),
    Case("u16", E, (300, 655.35), modality=("+1.0E-2", "0")),
    # modality LUTs before a window
    Case("u8", E, (2048, 4096), modality=Lut(0, 256, top=4095)),
    Case("u12", E, (32768, 65536), modality=Lut(0, 4096)),
    Case("u12", I, (32768, 65536), modality=Lut(0, 4096), mono=1),
    Case("u12", B, (20000, 30000), modality=Lut(0, 4096, vr="US")),
    Case("i12", E, (32768, 65536), modality=Lut(-2048, 4096, descriptor_vr="SS")),
    Case("i12", I, (32768, 65536), modality=Lut(-2048, 4096)),
    Case("i12", E, (32768, 65536), modality=Lut(-2048, 4096), mono=1),
    Case("u12", E, (128, 256), modality=Lut(0, 4096, 8, width=1)),
    Case("u12", B, (128, 256), modality=Lut(0, 4096, 8, width=1)),
    Case("u12", E, (128, 256), modality=Lut(1000, 2001, 8, width=1)),
    Case("u12", E, (128, 256), modality=Lut(0, 4096, 8)),
    Case("u12", E, (2048, 4096), modality=Lut(500, 3000, 12)),
    Case("u12", E, (32768, 65536), modality=Lut(0, 4096, held=4095)),
    Case("u12", E, (32768, 65536), modality=Lut(0, 4096, held=4097)),
    Case("u16", E, (32768, 65536), modality=Lut(0, 65536)),
    # VOI LUTs of all depths
    Case("u8", E, Lut(0, 256, 8)),
    Case("u8", E, Lut(0, 256, 8, width=1)),
    Case("u8", B, Lut(0, 256, 8, width=1), mono=1),
    Case("u10", E, Lut(0, 1024, 10)),
    Case("u12", E, Lut(0, 4096, 8)),
    Case("u12", E, Lut(0, 4096, 8, width=1)),
    Case("u12", I, Lut(0, 4096, 10)),
    Case("u12", B, Lut(0, 4096, 12), mono=1),
    Case("u12", E, Lut(0, 4096, 12, vr="US")),
    Case("u12", B, Lut(0, 4096, 12, vr="US")),
    Case("u12", E, Lut(0, 4096, 14)),
    Case("u12", E, Lut(0, 4096, 16), mono=1),
    Case("u16", I, Lut(0, 65536, 16)),
    Case("u16", E, Lut(0, 65536, 8, width=1)),
    Case("i16", B, Lut(-32768, 65536, 16)),
    # ... that use half of their range, as the standard lets them
    Case("u12", E, Lut(0, 4096, 16, top=40000)),
    Case("u12", E, Lut(0, 4096, 12, top=2047)),
    # ... that begin somewhere, signed or not
    Case("u12", E, Lut(700, 2000, 12)),
    Case("i12", E, Lut(-2048, 4096, 12, descriptor_vr="SS")),
    Case("i12", E, Lut(-2048, 4096, 12)),
    Case("i12", I, Lut(-1000, 1500, 12), mono=1),
    Case("i12", B, Lut(-2048, 4096, 12, descriptor_vr="SS")),
    Case("u16", E, Lut(40000, 20000, 16)),
    # ... after a rescale or a modality LUT
    Case("u12", E, Lut(-1024, 4096, 12, descriptor_vr="SS"), modality=("1", "-1024")),
    Case("u12", I, Lut(-1024, 4096, 12), modality=("1", "-1024"), mono=1),
    Case("u12", E, Lut(0, 8192, 12), modality=("2", "0")),
    Case("u12", B, Lut(0, 2048, 16), modality=("0.5", "0")),
    Case("u12", E, Lut(0, 65536, 12), modality=Lut(0, 4096)),
    Case("i12", E, Lut(0, 65536, 12), modality=Lut(-2048, 4096, descriptor_vr="SS"), mono=1),
    # ... of a few entries more or less
    Case("u12", E, Lut(0, 4096, 16, held=4095)),
    Case("u12", I, Lut(0, 4096, 12, held=4040), mono=1),
    Case("u12", B, Lut(0, 4096, 16, held=4097)),
    Case("u12", E, Lut(0, 4095, 8, width=1)),
    # the shape that Digital X-Ray images repeat
    Case("u12", E, (2048, 4096), mono=1, extra={SHAPE: "INVERSE"}),
    Case("u12", E, (2048, 4096), extra={SHAPE: "IDENTITY"}),
]
"""Files that both render alike."""

BY_ENTRIES = [
    Case("u12", E, Lut(0, 4096, 16, top=4095)),
    Case("u12", B, Lut(0, 4096, 16, top=1023), mono=1),
    Case("u8", E, Lut(0, 256, 16, top=255)),
    Case("u8", E, Lut(0, 256, 16, top=255, width=1)),
    Case("u12", I, Lut(0, 4096, 12, top=255)),
    Case("u12", E, Lut(0, 4096, 8, top=4095)),
    Case("u12", E, Lut(0, 4096, 8, top=65535)),
    Case("u12", E, Lut(0, 4096, 0, top=4095)),
    Case("u12", E, Lut(0, 4096, 20, top=16383)),
]
"""VOI LUTs whose entries contradict the declared bits; dcm2pnm renders them alike when told to ignore these."""

EXCEPTIONS = [
    # dcm2pnm takes LINEAR_EXACT for LINEAR
    ("PS3.3 C.11.2.1.3.2", Case("u12", E, (2048, 6, "LINEAR_EXACT")), Case("u12", E, (2048.5, 7))),
    ("PS3.3 C.11.2.1.3.2", Case("i12", B, (-1, 3, "LINEAR_EXACT"), mono=1), Case("i12", B, (-0.5, 4), mono=1)),
    # dcm2pnm rescales to whole numbers
    ("PS3.3 C.11.1.1.2", Case("u16", E, (1, 1, "SIGMOID"), ("0.0001", "0")), Case("u16", E, (1e4, 1e4, "SIGMOID"))),
    # dcm2pnm does not rescale where Rescale Slope has a decimal comma
    ("PS3.5 6.2", replace(HALF, patch=(b"0.5 ", b"0,5 ")), HALF),
    # dcm2pnm reads where High Bit says, and other bits than those in use
    ("PS3.5 8.1.1", replace(IN_12, extra={"HighBit": 15}), IN_12),
    ("PS3.5 8.1.1", Case("i10", B, (0, 1024), extra={"HighBit": 13}), Case("i10", B, (0, 1024))),
    # dcm2pnm reads the first value mapped by the sign of the pixels, even where no pixel can be mapped then
    ("PS3.3 C.11.2.1.1", Case("u12", E, Lut(-1, 4096, 12, descriptor_vr="SS")), Case("u12", E, Lut(0, 4096, 12))),
    # dcm2pnm takes any number of entries, however far from that of the descriptor, before a window
    ("PS3.3 C.11.2.1.1", Case("u12", E, Lut(0, 4096, 12, held=3000), extra=dict(IN_12_BITS)), IN_12),
    ("PS3.3 C.11.2.1.1", Case("u12", E, Lut(0, 65536, 12, held=4096), extra=dict(IN_12_BITS)), IN_12),
    # dcm2pnm lets the shape win over the photometric interpretation
    ("PS3.3 C.8.11.3.1.2", replace(IN_12, extra={SHAPE: "INVERSE"}), IN_12),
    ("PS3.3 C.8.11.3.1.2", replace(IN_12, mono=1, extra={SHAPE: "IDENTITY"}), replace(IN_12, mono=1)),
]
"""The clause, a file that dcm2pnm renders otherwise, and a file that both render alike and as the first should be."""


def name(case: Case) -> str:
    return f"{case.bits}-{case.syntax[-1]}-{case.show}-{case.modality}-{case.mono}".replace(" ", "")


@pytest.mark.parametrize("case", EQUAL, ids=name)
def test_rendered_as_dcmtk_within_a_grey_level(tmp_path, case):
    path = case.write(tmp_path / "image.dcm")
    assert np.abs(ours(path) - theirs(case, path)).max() <= 1


@pytest.mark.parametrize("case", BY_ENTRIES, ids=name)
def test_full_scale_by_entries_as_dcmtk_ignoring_depth(tmp_path, case):
    path = case.write(tmp_path / "image.dcm")
    assert np.abs(ours(path) - theirs(case, path, "+Mv")).max() <= 1
    assert any("full scale" in note for note in read_dicom(path).notes)


@pytest.mark.parametrize(
    ("clause", "case", "right"), EXCEPTIONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_exceptions_are_rendered_as_their_clause_says(tmp_path, clause, case, right):
    path, right_path = case.write(tmp_path / "image.dcm"), right.write(tmp_path / "right.dcm")
    assert np.abs(ours(path) - ours(right_path)).max() <= 1
    assert np.abs(ours(path) - theirs(right, right_path)).max() <= 1
    assert np.abs(ours(path) - theirs(case, path)).max() > 1, f"dcm2pnm now follows {clause}: move the case"
