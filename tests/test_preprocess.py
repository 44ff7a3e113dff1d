import numpy as np
import pytest
from PIL import Image

from mcr_infer.errors import ConfigError
from mcr_infer.inference.preprocess import Preprocess


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


SHAPES = ((64, 64), (97, 61), (61, 98), (33, 200), (20, 17), (3, 150))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("resize_mode", "fit"), [("shortest", "crop"), ("longest", "pad"), ("squash", "stretch")])
def test_a_preset_sees_what_open_clip_sees_to_the_bit(resize_mode: str, fit: str, interpolation: str):
    from open_clip.transform import PreprocessCfg, image_transform_v2

    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    cfg = PreprocessCfg(size=32, resize_mode=resize_mode, interpolation=interpolation, **plain)
    transform = image_transform_v2(cfg, is_train=False)
    preprocess = Preprocess(image_size=32, patch_size=8, fit=fit, interpolation=interpolation, bits=8)
    for seed, shape in enumerate(SHAPES):
        picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        got = preprocess.image(picture.astype(np.float32) / np.float32(255))
        for channel in transform(Image.fromarray(picture)).numpy():
            assert np.array_equal(got, channel)


@pytest.mark.parametrize(("short", "fit"), [(32, "crop_floor"), (37, "crop_floor"), (None, "stretch")])
def test_a_preset_sees_what_transformers_sees_to_the_bit(short: int | None, fit: str):
    from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

    if short is None:
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32}, do_normalize=False)
    else:
        sizes = {"size": {"shortest_edge": short}, "crop_size": {"height": 32, "width": 32}}
        processor = CLIPImageProcessorPil(**sizes, do_normalize=False)
    resize = None if short in (None, 32) else short
    preprocess = Preprocess(image_size=32, patch_size=8, fit=fit, interpolation="bicubic", resize=resize, bits=8)
    for seed, shape in enumerate(SHAPES):
        picture = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        got = preprocess.image(picture.astype(np.float32) / np.float32(255))
        wanted = processor(images=Image.fromarray(picture).convert("RGB"), return_tensors="np")["pixel_values"][0]
        assert np.abs(wanted - got).max() < 1e-6


def test_a_preset_knows_pixels_that_are_not_square():
    preprocess = Preprocess(image_size=32, patch_size=8, fit="crop", bits=8)
    # Rows twice as far apart as columns: 10 x 20 stored pixels show a square, of which nothing is cut off.
    pixels = np.linspace(0, 1, 200, dtype=np.float32).reshape(10, 20)
    square = preprocess.image(pixels, aspect=2.0)
    assert (square[:, 0] < square[:, -1]).all()
    assert square[0, 0] < 0.03
    assert square[-1, -1] > 0.97


def test_a_bicubic_filter_leaves_the_range_no_more_than_a_triangle():
    sharp = np.zeros((20, 20), dtype=np.float32)
    sharp[:, 10:] = 1  # beside the step a bicubic goes below 0 and above 1
    for bits in (None, 8):
        image = Preprocess(image_size=32, patch_size=8, interpolation="bicubic", bits=bits).image(sharp)
        assert (image.min(), image.max()) == (0, 1)


def test_a_tower_of_whole_pictures_has_one_patch():
    preprocess = Preprocess(image_size=8, patch_size=8, input="pixels")
    pixels = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    patches, positions = preprocess.patches(pixels)
    assert (patches.shape, positions.tolist(), preprocess.input_names) == ((1, 64), [0], ("pixels",))
    given = preprocess.tower_inputs(patches[None], positions[None])
    assert list(given) == ["pixels"]
    assert np.array_equal(given["pixels"], pixels[None])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"input": "pixels"}, "one patch: patch_size must be 32, got 8"),
        ({"input": "voxels"}, "input of the preprocessing must be one of"),
        ({"fit": "pad", "resize": 40}, "resize goes with a fit that crops"),
        ({"fit": "crop", "resize": 31}, "at least image_size 32, got 31"),
        ({"interpolation": "nearest"}, "interpolation of the preprocessing must be one of"),
        ({"bits": 16}, "bits of the preprocessing must be one of"),
    ],
)
def test_presets_that_make_no_sense_are_refused(values: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        Preprocess(image_size=32, patch_size=8, **values)


def test_presets_of_others_survive_the_manifest_and_ours_stay_as_they_were():
    assert Preprocess(image_size=160, patch_size=16).to_dict() == {"image_size": 160, "patch_size": 16}
    other = Preprocess(
        image_size=224, patch_size=224, input="pixels", fit="crop", resize=256, interpolation="bicubic", bits=8
    )
    assert Preprocess.from_dict(other.to_dict()) == other
    assert set(other.to_dict()) == {"image_size", "patch_size", "input", "fit", "resize", "interpolation", "bits"}


def test_parameters_survive_the_manifest():
    preprocess = Preprocess(image_size=160, patch_size=16)
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess
    for wrong in ({"image_size": 160}, {"image_size": 160, "patch_size": "16"}, {**preprocess.to_dict(), "mean": 1}):
        with pytest.raises(ConfigError):
            Preprocess.from_dict(wrong)
