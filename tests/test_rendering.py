import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from mcr_infer.errors import BrokenImageError
from mcr_infer.images.rendering import LookupTable, Rendering, Turn, Window, apply_window, render


@pytest.mark.parametrize(
    ("function", "center", "width", "expected"),
    [
        # PS3.3 C.11.2.1.2.1: y = (x - (c - 0.5)) / (w - 1) + 0.5, clipped
        ("LINEAR", 0, 100, {-51: 0, -50: 0, 0: 0.5 / 99 + 0.5, 49: 1, 50: 1}),
        ("LINEAR", 2048, 4096, {0: 0, 1365: 1 / 3, 2048: 2048 / 4095, 4095: 1}),
        ("LINEAR", 10, 1, {9: 0, 9.5: 0, 10: 1}),
        # C.11.2.1.3.2: y = (x - c) / w + 0.5, clipped
        ("LINEAR_EXACT", 0, 100, {-51: 0, -50: 0, 0: 0.5, 25: 0.75, 50: 1}),
        ("LINEAR_EXACT", 0.5, 0.5, {0.25: 0, 0.5: 0.5, 0.75: 1}),
        # C.11.2.1.3.1: y = 1 / (1 + exp(-4 (x - c) / w))
        ("SIGMOID", 10, 4, {10: 0.5, 11: 1 / (1 + math.exp(-1)), 8: 1 / (1 + math.exp(2)), -9999: 0, 9999: 1}),
    ],
)
def test_window_functions_give_the_numbers_of_the_standard(function, center, width, expected):
    values = np.array(list(expected), dtype=np.float64)
    shown = apply_window(values, Window(center=center, width=width, function=function))
    np.testing.assert_allclose(shown, list(expected.values()), atol=1e-12)


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [(0, 0, "LINEAR"), (0, -5, "SIGMOID"), (0, 0.5, "LINEAR"), (math.nan, 10, "LINEAR"), (0, math.inf, "LINEAR_EXACT")],
)
def test_an_impossible_window_is_never_made(center, width, function):
    with pytest.raises(ValueError, match="cannot have the width"):
        Window(center=center, width=width, function=function)


def test_a_lookup_table_clips_at_its_ends():
    lut = LookupTable(first=-2, values=np.array([10.0, 20.0, 40.0]))
    assert lut(np.array([-9.0, -2.0, -1.0, 0.0, 7.0])).tolist() == [10, 10, 20, 40, 40]


def test_the_steps_come_in_the_order_of_the_standard():
    stored = np.array([[0, 1, 2], [3, 4, 5]], dtype=np.uint16)
    rendering = Rendering(
        modality_lut=LookupTable(first=0, values=np.array([0.0, 100, 200, 300, 400, 500])),
        slope=99.0,  # gives way to the modality LUT
        padding=(5, 5),
        window=Window(center=200, width=400, function="LINEAR_EXACT"),
        inverted=True,
    )
    rendered = render(stored, rendering)
    np.testing.assert_allclose(rendered.pixels, [[1, 0.75, 0.5], [0.25, 0, 0]], atol=1e-7)
    assert rendered.intensity == "window"


def test_a_voi_lut_wins_over_a_window():
    stored = np.array([[0, 1], [2, 3]], dtype=np.uint8)
    lut = LookupTable(first=0, values=np.array([1.0, 0.75, 0.25, 0.0]))
    rendered = render(stored, Rendering(voi_lut=lut, window=Window(center=2, width=4)))
    assert rendered.pixels.tolist() == [[1, 0.75], [0.25, 0]]
    assert (rendered.intensity, rendered.notes) == ("voi_lut", ())


def test_percentiles_leave_out_half_a_percent_at_each_end_and_padding():
    stored = np.arange(1000, 2000, dtype=np.uint16).reshape(20, 50)
    rendered = render(np.concatenate([stored, np.full((30, 50), 65535, np.uint16)]), Rendering(padding=(65000, 65535)))
    # 1000 pixels: the 5th smallest is black (1004), the 995th is white (1994).
    np.testing.assert_allclose(rendered.pixels[:20], np.clip((stored - 1004.0) / 990, 0, 1), atol=1e-6)
    assert not rendered.pixels[20:].any()
    assert rendered.intensity == "percentiles"


def test_a_few_bright_pixels_are_seen_although_percentiles_miss_them():
    stored = np.full((100, 100), 7, np.uint8)
    stored[50, 50:53] = 9
    assert sorted(set(render(stored, Rendering()).pixels.ravel().tolist())) == [0, 1]


@pytest.mark.parametrize(
    "window", [Window(center=60000, width=100), Window(center=-60000, width=100, function="SIGMOID")]
)
def test_a_window_beside_the_data_gives_way_to_percentiles(window):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    rendered = render(stored, Rendering(window=window))
    assert (rendered.intensity, rendered.notes) == ("percentiles", (flat("window", "percentiles 0.5 and 99.5"),))
    # Of 4096 values, the 21st is black (20), the 4076th is white (4075).
    np.testing.assert_allclose(rendered.pixels, np.clip((stored - 20.0) / 4055, 0, 1), atol=1e-6)


def flat(ignored: str, used: str) -> str:
    return f"{ignored} ignored: it makes nearly all pixels the same grey; {used} used instead"


@pytest.mark.parametrize(("bright", "shown"), [(99, False), (100, False), (101, True), (9901, False), (9899, True)])
@pytest.mark.parametrize("padded", [False, True])
def test_a_window_stands_above_one_percent_of_contrast(bright, shown, padded):
    """The other pixels differ in values that the window, a step, makes one grey."""
    stored = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    step = Window(center=10_000 - bright, width=1)  # in LINEAR, what lies above its center less a half is white
    padding = None
    if padded:
        stored, padding = np.concatenate([stored, np.full((100, 100), 60000, np.uint16)]), (60000, 60000)
    rendered = render(stored, Rendering(window=step, padding=padding))
    assert rendered.intensity == ("window" if shown else "percentiles")
    assert rendered.notes == (() if shown else (flat("window", "percentiles 0.5 and 99.5"),))
    plain = (stored >= 10_000 - bright) * 1.0 if shown else np.clip((stored - 49.0) / 9900, 0, 1)
    np.testing.assert_allclose(rendered.pixels[:100], plain[:100], atol=1e-6)


@pytest.mark.parametrize("inverted", [False, True])
def test_a_flat_table_gives_way_to_the_window(inverted):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    lut = LookupTable(first=60000, values=np.array([0.2, 0.9]))
    rendered = render(stored, Rendering(voi_lut=lut, window=Window(center=2048, width=4096), inverted=inverted))
    assert (rendered.intensity, rendered.notes) == ("window", (flat("VOI LUT", "window"),))
    np.testing.assert_allclose(rendered.pixels, abs(inverted - stored / 4095), atol=1e-6)


def test_a_flat_table_and_window_are_both_noted():
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    lut = LookupTable(first=60000, values=np.array([0.2, 0.9]))
    rendered = render(stored, Rendering(voi_lut=lut, window=Window(center=60000, width=9)))
    used = "percentiles 0.5 and 99.5"
    assert (rendered.intensity, rendered.notes) == ("percentiles", (flat("VOI LUT", used), flat("window", used)))
    np.testing.assert_allclose(rendered.pixels, np.clip((stored - 20.0) / 4055, 0, 1), atol=1e-6)


@pytest.mark.parametrize("preset", ["minmax", "mimic_cxr_jpg"])
def test_other_presets_have_no_window_to_note(preset):
    stored = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    assert render(stored, Rendering(window=Window(center=60000, width=9)), preset).notes == ()


@pytest.mark.parametrize(
    ("stored", "padding", "words"),
    [
        (np.full((4, 4), 9, np.int16), None, "one value"),
        (np.arange(16, dtype=np.uint8).reshape(4, 4), (0, 15), "padding"),
    ],
)
def test_an_image_without_contrast_is_broken(stored, padding, words):
    with pytest.raises(BrokenImageError, match=words) as caught:
        render(stored, Rendering(padding=padding))
    assert caught.value.reason == "no_contrast"


def test_images_larger_than_a_block_are_rendered_whole():
    stored = np.random.default_rng(0).integers(0, 4096, (1100, 1000), dtype=np.uint16)
    pixels = render(stored, Rendering(window=Window(center=2048, width=4096))).pixels
    assert np.array_equal(pixels, stored.astype(np.float32) / np.float32(4095))


stored_images = st.sampled_from([np.uint8, np.uint16, np.int16]).flatmap(
    lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
)
windows = st.none() | st.builds(
    Window,
    center=st.floats(-40000, 70000),
    width=st.floats(1, 70000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
renderings = st.builds(Rendering, slope=st.floats(0.01, 50), intercept=st.floats(-5000, 5000), window=windows)


@settings(max_examples=200, deadline=None)
@given(stored=stored_images.filter(lambda stored: stored.min() < stored.max()), rendering=renderings)
def test_rendering_keeps_order_and_range_and_inverts_exactly(stored, rendering):
    pixels = render(stored, rendering).pixels
    assert pixels.dtype == np.float32
    assert pixels.shape == stored.shape
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    order = np.argsort(stored, axis=None, kind="stable")
    assert np.all(np.diff(pixels.ravel()[order]) >= 0)
    inverted = Rendering(slope=rendering.slope, intercept=rendering.intercept, window=rendering.window, inverted=True)
    np.testing.assert_allclose(render(stored, inverted).pixels, 1 - pixels, atol=1e-7)


@settings(max_examples=50, deadline=None)
@given(stored=stored_images, rendering=renderings, ends=st.tuples(st.integers(-500, 500), st.integers(-500, 500)))
def test_padding_is_black_whatever_it_holds(stored, rendering, ends):
    low, high = min(ends), max(ends)
    padded = (stored >= low) & (stored <= high)
    with_padding = Rendering(padding=(low, high), slope=rendering.slope, window=rendering.window, inverted=True)
    try:
        pixels = render(stored, with_padding).pixels
    except BrokenImageError:
        assert len(np.unique(stored[~padded])) <= 1
    else:
        assert not pixels[padded].any()


ASYMMETRIC = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float32)


@pytest.mark.parametrize(
    ("row", "column", "expected", "mirrored"),
    [
        ("L", "F", [[1, 2, 3], [4, 5, 6]], False),
        ("R", "F", [[3, 2, 1], [6, 5, 4]], True),
        ("L", "H", [[4, 5, 6], [1, 2, 3]], False),
        ("R", "H", [[6, 5, 4], [3, 2, 1]], True),
        ("LF", "FP", [[1, 2, 3], [4, 5, 6]], False),
        ("RP", "FA", [[3, 2, 1], [6, 5, 4]], True),
        ("A", "F", [[1, 2, 3], [4, 5, 6]], False),
        ("P", "H", [[4, 5, 6], [1, 2, 3]], False),
        ("F", "L", [[1, 4], [2, 5], [3, 6]], False),
        ("H", "L", [[3, 6], [2, 5], [1, 4]], False),
        ("F", "R", [[4, 1], [5, 2], [6, 3]], True),
        ("CR", "V", [[1, 2, 3], [4, 5, 6]], False),
        ("", "", [[1, 2, 3], [4, 5, 6]], False),
    ],
)
def test_patient_orientation_is_undone(row, column, expected, mirrored):
    turn = Turn.from_patient_orientation(row, column)
    turned = turn(ASYMMETRIC)
    assert turned.tolist() == expected
    assert turned.flags.c_contiguous
    assert turn.mirrored is mirrored
