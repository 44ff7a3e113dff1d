"""Rendering presets: what each does to stored values, to finished pictures, and what it changes of a bundle."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dicoms
from mcr_infer import Bundle, ImageEncoder
from mcr_infer.errors import BackendError, ConfigError
from mcr_infer.images import read_image
from mcr_infer.images.equalisation import equalized_levels, mimic_cxr_jpg_levels
from mcr_infer.preprocess import Preprocess


def test_equalisation_is_the_one_of_opencv():
    """Four levels of a 4 x 4 picture, computed by hand: (cumulated - first) * 255 / (16 - first), halves to even."""
    counts = np.zeros(256, dtype=np.int64)
    counts[[10, 20, 30, 200]] = 4, 2, 6, 4
    levels = equalized_levels(counts)
    # 0; 2 * 255 / 12 = 42.5 -> 42; 8 * 255 / 12 = 170; 12 * 255 / 12 = 255.
    assert levels[[10, 20, 30, 200]].tolist() == [0, 42, 170, 255]
    alone = np.zeros(256, dtype=np.int64)
    alone[7] = 16
    assert equalized_levels(alone)[7] == 7


def test_equalisation_equals_opencv_on_noise():
    cv2 = pytest.importorskip("cv2")
    picture = np.random.default_rng(0).normal(90, 30, (200, 300)).clip(0, 255).astype(np.uint8)
    levels = equalized_levels(np.bincount(picture.reshape(-1), minlength=256))
    assert np.array_equal(levels[picture], cv2.equalizeHist(picture))


def test_mimic_cxr_jpg_is_min_max_in_8_bits_then_inverted_then_equalised():
    # Stored values 100, 101, ..., 103: 0, 85, 170, 255 in 8 bits.
    counts = np.array([1, 2, 3, 2], dtype=np.int64)
    # Without the first: 2, 5, 7 of 7.
    assert mimic_cxr_jpg_levels(counts, inverted=False).tolist() == [0, 73, 182, 255]
    # Inverted the last is the lowest: 0, then 3, 5, 6 of 6 from the other end.
    assert mimic_cxr_jpg_levels(counts, inverted=True).tolist() == [255, 212, 128, 0]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_minmax_spans_the_unpadded_pixels(photometric: str, tmp_path: Path):
    stored = np.full((20, 30), 500, dtype=np.uint16)
    stored[0], stored[1, :10], stored[2, :10] = 4000, 300, 900
    path = dicoms.write(
        tmp_path / "0.dcm", stored, PhotometricInterpretation=photometric, PixelPaddingValue=4000, **dicoms.IN_12_BITS
    )
    pixels = read_image(path, rendering="minmax").pixels
    ramp = (500 - 300) / 600
    expected = {"MONOCHROME2": (ramp, 0.0, 1.0), "MONOCHROME1": (1 - ramp, 1.0, 0.0)}[photometric]
    assert [pixels[5, 5], pixels[1, 0], pixels[2, 0]] == pytest.approx(expected, abs=1e-6)
    assert (pixels[0] == 0.0).all()  # padding is black either way


def test_mimic_cxr_jpg_of_a_file_ignores_its_window(tmp_path: Path):
    stored = dicoms.picture()
    narrow = {"WindowCenter": "100", "WindowWidth": "50"}
    paths = [
        dicoms.write(tmp_path / f"{n}.dcm", stored, **window) for n, window in enumerate((dicoms.IN_12_BITS, narrow))
    ]
    wide, slim = (read_image(path, rendering="mimic_cxr_jpg") for path in paths)
    assert np.array_equal(wide.pixels, slim.pixels)
    assert wide.intensity == "mimic_cxr_jpg"
    counts = np.bincount(stored.reshape(-1).astype(int) - int(stored.min()))
    levels = mimic_cxr_jpg_levels(counts, inverted=False)
    assert np.array_equal(wide.pixels, levels[stored - stored.min()] / np.float32(255))


def test_finished_pictures_are_taken_as_they_are_but_for_minmax(tmp_path: Path):
    grey = np.linspace(50, 150, 600).reshape(20, 30).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "0.png")
    for preset in ("voi", "mimic_cxr_jpg"):
        assert np.array_equal(read_image(tmp_path / "0.png", rendering=preset).pixels, grey / np.float32(255))
    stretched = read_image(tmp_path / "0.png", rendering="minmax").pixels
    assert (stretched.min(), stretched.max()) == (0.0, 1.0)


def test_the_default_leaves_manifests_and_fingerprints_as_they_are():
    assert Preprocess(image_size=160, patch_size=16).to_dict() == {"image_size": 160, "patch_size": 16}
    told = Preprocess(image_size=160, patch_size=16, rendering="mimic_cxr_jpg").to_dict()
    assert told == {"image_size": 160, "patch_size": 16, "rendering": "mimic_cxr_jpg"}
    assert Preprocess.from_dict(told).rendering == "mimic_cxr_jpg"
    assert Bundle.open().fingerprint == "aec74bca836735a6aa8c6a0458e412046407fb3d0c7a0c778ccb20296ace6d8a"


def test_a_preset_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="'voi_9' is no rendering preset, expected one of voi, minmax, mimic_cxr_jpg"):
        Preprocess(image_size=160, patch_size=16, rendering="voi_9")
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    with pytest.raises(ConfigError, match="no rendering preset"):
        read_image(path, rendering="jpg")


def test_a_tower_refuses_a_picture_of_another_preset(tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture(), **dicoms.IN_12_BITS)
    encoder = ImageEncoder(Bundle.open(), device="cpu")
    with pytest.raises(BackendError, match="rendered by voi, got minmax"):
        encoder.encode_radiographs([read_image(path, rendering="minmax")])
