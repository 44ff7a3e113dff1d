"""Overlays, in Overlay Data or in bits of the pixels, are never drawn into a picture, and are noted."""

from pathlib import Path

import numpy as np
import pydicom
import pytest

from dicoms import BIG_ENDIAN, DEFLATED, EXPLICIT, IMPLICIT, IN_12_BITS, RLE, picture, write
from mcr_infer.errors import BrokenImageError
from mcr_infer.images import Radiograph
from mcr_infer.images.dicom import read_dicom

IN_DATA, IN_BITS = "overlays are not drawn", "overlays in bits of the pixels are cleared, not drawn"
MARKS = (np.add.outer(np.arange(40), np.arange(48)) % 3 == 0).astype(np.uint16)
"""Where an overlay is: at a third of the pixels."""


def read_with(
    path: Path,
    stored: np.ndarray,
    *groups: tuple[int, int, int, bool],
    syntax: str = EXPLICIT,
    **attributes: object,
) -> Radiograph:
    """Read a file with overlays, each given as group, bits allocated, bit position and whether it has Overlay Data."""
    data = pydicom.dcmread(write(path, stored, syntax=syntax, **{**IN_12_BITS, **attributes}))
    for group, allocated, position, has_data in groups:
        data.add_new((group, 0x0010), "US", stored.shape[0])
        data.add_new((group, 0x0011), "US", stored.shape[1])
        data.add_new((group, 0x0040), "CS", "G")
        data.add_new((group, 0x0050), "SS", [1, 1])
        data.add_new((group, 0x0100), "US", allocated)
        data.add_new((group, 0x0102), "US", position)
        if has_data:
            data.add_new((group, 0x3000), "OW", np.packbits(MARKS.astype(bool), bitorder="little").tobytes())
    data.save_as(path)
    return read_dicom(path)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
@pytest.mark.parametrize("groups", [[0x6000], [0x6002], [0x601E, 0x60FE]])
def test_overlay_data_are_not_drawn(tmp_path, syntax, groups):
    planes = [(group, 1, 0, True) for group in groups]
    radiograph = read_with(tmp_path / "image.dcm", picture(), *planes, syntax=syntax)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (IN_DATA,)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
@pytest.mark.parametrize("bits", [[12], [15], [12, 13, 14, 15]])
def test_overlays_above_the_values_are_cleared(tmp_path, syntax, bits):
    cells = picture() | sum(MARKS << bit for bit in bits)
    planes = [(0x6000 + 2 * at, 16, bit, False) for at, bit in enumerate(bits)]
    radiograph = read_with(tmp_path / "image.dcm", cells, *planes, syntax=syntax)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (IN_BITS,)


@pytest.mark.parametrize("scale", [1, 16], ids=["bright", "dark"])
@pytest.mark.parametrize("bits", [[0], [3], [0, 1, 2, 3]])
def test_overlays_below_the_values_are_cleared(tmp_path, bits, scale):
    """Cells of a dark picture would else be taken for values that lie in their lowest bits."""
    stored = picture() // scale
    cells = (stored << 4) | sum(MARKS << bit for bit in bits)
    planes = [(0x6000 + 2 * at, 16, bit, False) for at, bit in enumerate(bits)]
    radiograph = read_with(tmp_path / "image.dcm", cells.astype(np.uint16), *planes, HighBit=15)
    np.testing.assert_allclose(radiograph.pixels, stored / 4095, atol=1e-6)
    assert radiograph.notes == (IN_BITS,)


def test_overlays_above_signed_values_are_cleared(tmp_path):
    stored = picture().astype(np.int16) - 2048
    cells = (stored.view(np.uint16) & 0x0FFF) | (MARKS << 15)
    radiograph = read_with(
        tmp_path / "image.dcm", cells, (0x6000, 16, 15, False), PixelRepresentation=1, WindowCenter="0"
    )
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (IN_BITS,)


def test_both_kinds_of_overlays_are_noted(tmp_path):
    cells = picture() | (MARKS << 15)
    radiograph = read_with(tmp_path / "image.dcm", cells, (0x6000, 1, 0, True), (0x6002, 16, 15, False))
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (IN_DATA, IN_BITS)


@pytest.mark.parametrize(("stored", "high", "bit"), [(16, 15, 15), (12, 11, 11), (12, 11, 0), (12, 15, 4)])
def test_an_overlay_among_the_values_is_refused(tmp_path, stored, high, bit):
    with pytest.raises(BrokenImageError, match=f"overlay claims bit {bit} of the pixels") as caught:
        read_with(tmp_path / "image.dcm", picture(), (0x6000, 16, bit, False), BitsStored=stored, HighBit=high)
    assert caught.value.reason == "corrupt"


@pytest.mark.parametrize(
    ("group", "allocated", "position", "has_data", "notes"),
    [
        (0x6000, 1, 0, False, ()),  # Overlay Data were removed, and the rest was left
        (0x6000, 16, 0, True, (IN_DATA,)),
        (0x6000, 1, 3, True, (IN_DATA,)),
        (0x6000, 32, 17, False, ()),
        (0x5000, 16, 3, True, ()),  # a curve
    ],
)
def test_groups_without_a_place_change_nothing(tmp_path, group, allocated, position, has_data, notes):
    radiograph = read_with(tmp_path / "image.dcm", picture(), (group, allocated, position, has_data))
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == notes


def test_overlays_beside_run_lengths_are_cleared(tmp_path):
    cells = picture() | (MARKS << 12)
    path = tmp_path / "image.dcm"
    read_with(path, cells, (0x6000, 16, 12, False))
    data = pydicom.dcmread(path)
    data.compress(RLE, encoding_plugin="pydicom", generate_instance_uid=False)
    data.save_as(path)
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, picture() / 4095, atol=1e-6)
    assert radiograph.notes == (IN_BITS,)
