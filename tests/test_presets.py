import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicoms import EXPLICIT, IN_12_BITS, picture, table, write
from mcr_infer import Bundle, ImageEncoder, phantom
from mcr_infer.errors import BackendError, BrokenImageError, ConfigError
from mcr_infer.images import read_image
from mcr_infer.images.histogram import equalized_levels, mimic_cxr_jpg_levels
from mcr_infer.images.presets import PRESETS, require_preset
from mcr_infer.images.rendering import LookupTable, Rendering, Window, render
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.phantom.dicom import write_dicom


def counts_of(levels: dict[int, int]) -> np.ndarray:
    counts = np.zeros(256, dtype=np.int64)
    for level, pixels in levels.items():
        counts[level] = pixels
    return counts


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        # The lowest level in use is 0 and does not count; the others get their share of what remains, times 255.
        ({10: 5, 20: 1, 30: 3, 40: 6}, {10: 0, 20: 26, 30: 102, 40: 255}),  # 25.5 is rounded to the even 26
        ({0: 1, 1: 1, 2: 3}, {0: 0, 1: 64, 2: 255}),  # 63.75
        ({7: 100, 200: 1}, {7: 0, 200: 255}),
        ({0: 2, 128: 1, 129: 1, 255: 508}, {0: 0, 128: 0, 129: 1, 255: 255}),  # 0.5 is rounded to the even 0
        ({99: 4}, {99: 99}),
    ],
)
def test_histograms_are_equalized_by_hand_computed_tables(levels, expected):
    table = equalized_levels(counts_of(levels))
    assert table.dtype == np.uint8
    assert {level: int(table[level]) for level in levels} == expected


def test_histograms_are_equalized_as_opencv_does():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    for spread in (1, 2, 9, 60, 256):
        for shape in ((7, 9), (113, 97), (300, 211)):
            grey = (rng.integers(0, spread, shape) + (256 - spread) // 2).astype(np.uint8)
            equalized = equalized_levels(np.bincount(grey.ravel(), minlength=256))[grey]
            assert np.array_equal(equalized, cv2.equalizeHist(grey))


def mimic(stored: np.ndarray, *, inverted: bool) -> np.ndarray:
    """Render as the makers of MIMIC-CXR-JPG say they did, step by step over whole pictures."""
    shifted = stored.astype(np.int64) - int(stored.min())
    grey = (shifted / shifted.max() * 255).astype(np.uint8)
    grey = 255 - grey if inverted else grey
    return equalized_levels(np.bincount(grey.ravel(), minlength=256))[grey]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_mimic_cxr_jpg_is_min_max_then_inversion_then_equalisation(inverted, signed):
    stored = phantom.make(3, 200).stored
    stored = stored.astype(np.int16) - 2048 if signed else stored
    rendered = render(stored, Rendering(inverted=inverted), "mimic_cxr_jpg")
    assert rendered.pixels.dtype == np.float32
    assert np.array_equal(rendered.pixels, mimic(stored, inverted=inverted).astype(np.float32) / np.float32(255))
    assert (rendered.intensity, rendered.notes) == ("mimic_cxr_jpg", ())
    # 10 levels of 12 bits fall on 8 bits as truncation has it: 255 is the largest value alone.
    ramp = mimic_cxr_jpg_levels(np.ones(511, dtype=np.int64), inverted=False)
    assert (ramp[0], ramp[2], ramp[509], ramp[510]) == (0, 1, 254, 255)


def test_mimic_cxr_jpg_asks_neither_lut_nor_window_nor_padding():
    stored = picture()
    plain = render(stored, Rendering(), "mimic_cxr_jpg").pixels
    asked = Rendering(
        modality_lut=LookupTable(first=0, values=np.arange(4096.0)[::-1].copy()),
        padding=(0, 100),
        window=Window(center=9, width=3),
        voi_lut=LookupTable(first=0, values=np.array([0.0, 1.0])),
    )
    assert np.array_equal(render(stored, asked, "mimic_cxr_jpg").pixels, plain)


def test_minmax_spans_the_unpadded_values():
    stored = picture()
    stored[stored == 0] = 1
    stored[:6, :9] = 0
    rendered = render(stored, Rendering(padding=(0, 0), window=Window(center=9, width=3)), "minmax")
    low, high = int(stored[stored > 0].min()), int(stored.max())
    expected = (stored.astype(np.float64) - low) / (high - low)
    expected[stored == 0] = 0
    np.testing.assert_allclose(rendered.pixels, expected, atol=1e-6)
    assert rendered.intensity == "minmax"
    inverted = render(stored, Rendering(padding=(0, 0), inverted=True), "minmax").pixels
    np.testing.assert_allclose(inverted[stored > 0], 1 - expected[stored > 0], atol=1e-6)
    assert not inverted[stored == 0].any()
    # The modality LUT comes first, and its values count, not those that are stored.
    squares = LookupTable(first=0, values=np.arange(4096.0) ** 2)
    looked_up = render(stored, Rendering(modality_lut=squares), "minmax").pixels
    np.testing.assert_allclose(looked_up, (stored / 4095.0) ** 2, atol=1e-6)
    falling = render(stored, Rendering(slope=-2.0), "minmax").pixels
    np.testing.assert_allclose(falling, 1 - stored / 4095.0, atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
def test_no_preset_makes_a_picture_of_one_value(preset):
    with pytest.raises(BrokenImageError, match="one value") as caught:
        render(np.full((9, 9), 77, np.uint16), Rendering(), preset)
    assert caught.value.reason == "no_contrast"


DIGESTS = {"voi": "b16db47b", "minmax": "9d354498", "mimic_cxr_jpg": "d5aa707a"}


def digest_of(preset: str) -> str:
    """Digest a fixed picture, with window and padding and inverted, as 12 bits."""
    stored = picture(64, 80)
    ways = (Rendering(), Rendering(window=Window(center=1800.0, width=2600.0), inverted=True, padding=(0, 9)))
    levels = [np.rint(render(stored, way, preset).pixels * 4095).astype("<u2") for way in ways]
    return hashlib.sha256(b"".join(one.tobytes() for one in levels)).hexdigest()[:8]


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_name_means_never_changes(preset):
    """A bundle names its preset: one that is changed gets a new name, such as voi_2, and these digests stay."""
    assert digest_of(preset) == DIGESTS[preset]


def test_files_are_rendered_by_the_preset_that_is_asked_for(tmp_path):
    file = write(tmp_path / "a.dcm", picture(), PhotometricInterpretation="MONOCHROME1", **IN_12_BITS)
    for preset in PRESETS:
        radiograph = read_image(file, rendering=preset)
        assert np.array_equal(
            radiograph.pixels,
            render(picture(), Rendering(window=Window(center=2048.0, width=4096.0), inverted=True), preset).pixels,
        )
        assert radiograph.rendering == preset
        assert radiograph.intensity == ("window" if preset == "voi" else preset)
    assert read_image(file).rendering == "voi"


def test_rasters_of_8_bits_are_rendered_already_but_for_minmax(tmp_path):
    grey = (picture() // 32 + 40).astype(np.uint8)
    Image.fromarray(grey).save(tmp_path / "8.png")
    as_it_is = grey.astype(np.float32) / np.float32(255)
    for preset in ("voi", "mimic_cxr_jpg"):
        radiograph = read_image(tmp_path / "8.png", rendering=preset)
        assert np.array_equal(radiograph.pixels, as_it_is)
        assert (radiograph.intensity, radiograph.rendering) == ("full_range", preset)
    stretched = read_image(tmp_path / "8.png", rendering="minmax")
    np.testing.assert_allclose(stretched.pixels, (grey - 40.0) / (grey.max() - 40.0), atol=1e-6)
    assert (stretched.intensity, stretched.rendering) == ("minmax", "minmax")


def test_rasters_of_16_bits_are_rendered(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "16.png")
    for preset, intensity in (("voi", "percentiles"), ("minmax", "minmax"), ("mimic_cxr_jpg", "mimic_cxr_jpg")):
        radiograph = read_image(tmp_path / "16.png", rendering=preset)
        assert np.array_equal(radiograph.pixels, render(picture(), Rendering(), preset).pixels)
        assert radiograph.intensity == intensity


def test_an_unknown_preset_is_refused_by_name(tmp_path):
    words = "'vio' is not a rendering preset, expected one of voi, minmax, mimic_cxr_jpg"
    Image.fromarray(picture()).save(tmp_path / "16.png")
    for file in (write(tmp_path / "a.dcm", picture()), tmp_path / "16.png"):
        with pytest.raises(ConfigError, match=words):
            read_image(file, rendering="vio")
    with pytest.raises(ConfigError, match=words):
        Preprocess(image_size=32, patch_size=8, rendering="vio")
    with pytest.raises(ConfigError, match="'voi_2' is not a rendering preset"):
        Preprocess.from_dict({"image_size": 32, "patch_size": 8, "rendering": "voi_2"})
    assert require_preset("minmax") == "minmax"


def test_the_preset_travels_in_the_manifest_and_voi_leaves_it_as_it_was():
    mimic = Preprocess(image_size=224, patch_size=16, rendering="mimic_cxr_jpg")
    assert mimic.to_dict() == {"image_size": 224, "patch_size": 16, "rendering": "mimic_cxr_jpg"}
    assert Preprocess.from_dict(mimic.to_dict()) == mimic
    shipped = Bundle.open()
    assert shipped.preprocess.rendering == "voi"
    assert shipped.preprocess.to_dict() == {"image_size": 160, "patch_size": 16}
    assert shipped.fingerprint == "aec74bca836735a6aa8c6a0458e412046407fb3d0c7a0c778ccb20296ace6d8a"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_phantom_is_the_same_from_memory_and_from_its_file(preset, tmp_path):
    made = phantom.make(11, 128)
    write_dicom(made, tmp_path / "a.dcm")
    radiograph = read_image(tmp_path / "a.dcm", rendering=preset)
    assert np.array_equal(radiograph.pixels, made.radiograph(rendering=preset).pixels)
    assert made.radiograph(rendering=preset).rendering == preset


def test_a_tower_takes_pictures_of_its_own_preset_alone():
    encoder = ImageEncoder(Bundle.open())
    other = phantom.make(11, 128).radiograph(rendering="minmax")
    with pytest.raises(BackendError, match=r"rendered by voi, got minmax: read_image\(\.\.\., rendering='voi'\)"):
        encoder.encode_radiographs([other])


def test_only_voi_asks_for_the_voi_lut(tmp_path: Path):
    file = write(tmp_path / "a.dcm", picture(), syntax=EXPLICIT, VOILUTSequence=table(0, list(range(4096))))
    assert [read_image(file, rendering=preset).intensity for preset in PRESETS] == [
        "voi_lut",
        "minmax",
        "mimic_cxr_jpg",
    ]
