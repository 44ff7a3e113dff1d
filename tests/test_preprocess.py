import numpy as np
import pytest

from mcr_infer.errors import ConfigError
from mcr_infer.preprocess import Preprocess


def test_patches_are_the_image_cut_row_by_row():
    preprocess = Preprocess(image_size=8, patch_size=2)
    pixels = np.arange(64, dtype=np.float32).reshape(8, 8) / 64
    patches, positions = preprocess.patches(pixels)
    assert patches.shape == (16, 4)
    assert positions.tolist() == list(range(16))
    # Position 6 is row 1, column 2 of the grid: pixels [2:4, 4:6].
    assert np.array_equal(patches[6].reshape(2, 2), pixels[2:4, 4:6])


def test_a_wide_radiograph_keeps_its_proportions_between_black_bars():
    image = Preprocess(image_size=32, patch_size=8).image(np.ones((10, 20), dtype=np.float32))
    assert image[:8].max() == 0
    assert image[24:].max() == 0
    assert image[8:24].min() == 1


def test_tall_pixels_make_a_tall_picture():
    # Rows twice as far apart as columns: 10 x 20 stored pixels cover a square.
    image = Preprocess(image_size=32, patch_size=8).image(np.ones((10, 20), dtype=np.float32), aspect=2.0)
    assert image.min() == 1


def test_left_stays_left_and_up_stays_up():
    pixels = np.zeros((100, 80), dtype=np.float32)
    pixels[:30, :20] = 1
    image = Preprocess(image_size=16, patch_size=4).image(pixels)
    assert image[:4, 2:4].mean() > 0.9
    assert image[8:].max() == 0
    assert image[:, 8:].max() == 0


def test_values_never_leave_their_range():
    pixels = np.random.default_rng(0).integers(0, 2, (211, 157)).astype(np.float32)
    image = Preprocess(image_size=160, patch_size=16).image(pixels)
    assert image.min() >= 0
    assert image.max() <= 1


@pytest.mark.parametrize(("image_size", "patch_size"), [(160, 15), (0, 0), (8, 16), (16, 0)])
def test_sizes_that_do_not_divide_are_refused(image_size: int, patch_size: int):
    with pytest.raises(ConfigError, match="multiple"):
        Preprocess(image_size=image_size, patch_size=patch_size)


def test_parameters_survive_the_manifest():
    preprocess = Preprocess(image_size=160, patch_size=16)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    for wrong in ({"image_size": 160}, {"image_size": 160, "patch_size": "16"}, {**preprocess.to_dict(), "mean": 1}):
        with pytest.raises(ConfigError):
            Preprocess.from_dict(wrong)
