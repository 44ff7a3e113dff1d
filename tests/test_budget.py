"""Which patches a budget leaves out: what shows nothing first, then evenly, the same ones always, and always as many."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import json_lines, run_cli
from mcr_infer import ImageEncoder, Index, phantom
from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.patch_budget import chosen_positions, count_of, emptiness, parse_budget, spread
from mcr_infer.inference.preprocess import Preprocess
from tiny import PREPROCESS, tiny_bundle

PHANTOM = Preprocess(image_size=160, patch_size=16)
VIT = Preprocess(image_size=224, patch_size=16)
BUDGETS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.1)


def pictures(count: int = 6) -> list[np.ndarray]:
    return [phantom.make(seed).radiograph().pixels for seed in range(count)]


def textured(height: int = 224, width: int = 224, seed: int = 0) -> np.ndarray:
    """A picture in which every patch shows something."""
    return np.random.default_rng(seed).uniform(0.2, 1.0, (height, width)).astype(np.float32)


@given(
    height=st.integers(1, 90), width=st.integers(1, 90), seed=st.integers(0, 2**31), share=st.floats(0.001, 1.0),
    smaller=st.floats(0.001, 1.0), dark=st.floats(0.0, 1.0), fit=st.sampled_from(["pad", "crop", "stretch"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_budget_gives_exactly_k_ascending_patches_and_a_smaller_one_a_subset(
    height, width, seed, share, smaller, dark, fit
):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((height, width)) * (rng.random((height, width)) > dark)).astype(np.float32)
    preprocess = Preprocess(image_size=48, patch_size=8, fit=fit)
    every, _ = preprocess.patches(pixels)
    found = {}
    for budget in (share, smaller):
        patches, positions = preprocess.patches(pixels, budget=budget)
        assert len(positions) == len(patches) == max(1, round(budget * 36)) == preprocess.patches_within(budget)
        assert (np.diff(positions) > 0).all()
        assert 0 <= positions[0] <= positions[-1] < 36
        assert positions.dtype == np.int64
        assert np.array_equal(patches, every[positions])
        again = preprocess.patches(pixels, budget=budget)
        assert np.array_equal(again[1], positions)
        found[budget] = set(positions.tolist())
    assert found[min(share, smaller)] <= found[max(share, smaller)]


def test_all_patches_are_what_they_always_were():
    pixels = pictures(1)[0]
    patches, positions = PHANTOM.patches(pixels, budget=1.0)
    plain, all_of_them = PHANTOM.patches(pixels)
    assert np.array_equal(patches, plain)
    assert positions.tolist() == all_of_them.tolist() == list(range(100))


def shutter(value: float) -> np.ndarray:
    """A picture inside a collimator of two patches at each side, of one grey with the noise of a detector."""
    pixels = np.full((224, 224), value, dtype=np.float32)
    pixels += np.random.default_rng(1).normal(0, 0.004, pixels.shape).astype(np.float32)
    pixels[32:192, 32:192] = textured(160, 160)
    return pixels.clip(0, 1)


@pytest.mark.parametrize("value", [0.0, 0.03, 0.4, 1.0], ids=["black", "dark", "grey", "white"])
def test_collimation_of_any_grey_is_left_out_before_any_of_the_picture(value: float):
    inside = {row * 14 + column for row in range(2, 12) for column in range(2, 12)}
    for budget in (100 / 196, 0.25, 0.6):
        kept = set(VIT.patches(shutter(value), budget=budget)[1].tolist())
        assert kept <= inside or kept > inside


def test_black_borders_go_before_grey_ones_and_the_padding_of_the_square_is_one():
    # Twice as tall as wide: the square is filled up on the left and on the right, four patches each (3.5 of them empty).
    pixels = textured(224, 112)
    pixels[:32] = 0.6  # a grey border above
    _, positions = VIT.patches(pixels, budget=1 - 6 * 14 / 196)
    columns = set((positions % 14).tolist())
    assert columns == set(range(3, 11))
    assert 3 in set((positions // 14).tolist())
    _, positions = VIT.patches(pixels, budget=(8 * 14 - 12) / 196)
    rows, count = np.unique(positions // 14, return_counts=True)
    assert count[rows >= 2].tolist() == [8] * 12
    assert count[rows < 2].sum() == 4


@pytest.mark.parametrize("value", [0.5, 1.0], ids=["grey", "white"])
def test_half_of_the_picture_without_detail_is_a_body_and_no_shutter(value: float):
    # A lung or an abdomen that is white throughout, from the rim inwards: all but the outermost is seen as the rest is.
    pixels = textured()
    pixels[112:] = value
    found = emptiness(VIT.patches(pixels)[0]).reshape(14, 14)
    assert not found[:10, 3:11].any()
    assert (found[11:] == 2).all()
    rows, columns = np.divmod(VIT.patches(pixels, budget=0.5)[1], 14)
    inside = (rows >= 7) & (rows < 11) & (columns >= 3) & (columns < 11)
    assert abs(inside.sum() / 32 - 98 / (196 - (found > 0).sum())) < 0.1
    # What is black is left out however deep it lies: air, and the padding of the square.
    pixels[112:] = 0.0
    assert (emptiness(VIT.patches(pixels)[0]).reshape(14, 14)[7:] == 3).all()


def test_a_quiet_field_inside_the_picture_is_seen_as_much_as_the_rest():
    pixels = textured()
    pixels[64:160, 64:160] = 0.5  # six patches a side without anything in them
    assert not emptiness(VIT.patches(pixels)[0]).any()
    for budget in (0.5, 0.35, 0.25):
        _, positions = VIT.patches(pixels, budget=budget)
        rows, columns = np.divmod(positions, 14)
        quiet = ((rows >= 4) & (rows < 10) & (columns >= 4) & (columns < 10)).sum()
        assert abs(quiet / 36 - budget) < 0.1
    # Nor is anything left out because something else has more texture.
    assert np.array_equal(VIT.patches(textured(), budget=0.5)[1], VIT.patches(textured() ** 3, budget=0.5)[1])


def largest_hole(positions: np.ndarray, side: int) -> float:
    """The distance, in patches, from the worst-placed cell to the nearest one that was taken."""
    cells = np.stack(np.divmod(np.arange(side * side), side), axis=1)
    taken = cells[positions]
    return float(np.sqrt(((cells[:, None] - taken[None]) ** 2).sum(axis=2)).min(axis=1).max())


def worst_share(positions: np.ndarray, side: int) -> float:
    """The largest difference between the share taken in any box of at least a quarter of each side and the share overall."""
    grid = np.zeros((side, side))
    grid.ravel()[positions] = 1
    edges = list(itertools.combinations(range(side + 1), 2))
    boxes = [(a, b) for a, b in edges if b - a >= side // 4]
    return max(abs(grid[a:b, c:d].mean() - grid.mean()) for a, b in boxes for c, d in boxes)


@pytest.mark.parametrize(
    ("budget", "hole", "by_chance"),
    [(0.75, 1.0, 1.0), (0.5, 1.0, 1.4), (0.35, 1.42, 2.2), (0.25, 1.42, 2.8), (0.1, 2.24, 4.2)],
)  # fmt: skip
def test_the_spread_is_more_even_than_chance_by_hole_and_by_share(budget: float, hole: float, by_chance: float):
    count = count_of(budget, 196)
    taken = chosen_positions(VIT.patches(textured())[0], count)
    rng = np.random.default_rng(0)
    drawn = [rng.permutation(196)[:count] for _ in range(50)]
    assert largest_hole(taken, 14) <= hole <= by_chance <= np.median([largest_hole(one, 14) for one in drawn])
    # None of fifty draws is as even.
    assert worst_share(taken, 14) <= min(worst_share(one, 14) for one in drawn)


@pytest.mark.parametrize("side", [1, 2, 3, 10, 14, 33])
def test_the_spread_is_an_order_of_all_cells_and_cannot_be_written_to(side: int):
    ranks = spread(side)
    assert sorted(ranks.tolist()) == list(range(side * side))
    assert ranks[(side // 2) * side + side // 2] == 0
    with pytest.raises(ValueError, match="read-only"):
        ranks[0] = 1


def test_a_change_far_below_what_an_eye_sees_does_not_change_the_choice():
    rng = np.random.default_rng(2)
    same = 0
    for pixels in pictures():
        near = (pixels + rng.normal(0, 0.002, pixels.shape)).astype(np.float32).clip(0, 1)
        one, other = (set(PHANTOM.patches(each, budget=0.5)[1].tolist()) for each in (pixels, near))
        same += len(one & other)
    assert same >= 0.95 * 6 * 50


@pytest.mark.parametrize("budget", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_budget_outside_of_its_range_is_refused(budget: float):
    with pytest.raises(ConfigError, match=r"in \(0, 1\]; got"):
        PHANTOM.patches(textured(), budget=budget)
    with pytest.raises(ConfigError, match=r"in \(0, 1\]; got"):
        parse_budget(str(budget))


def test_budgets_are_read_as_they_are_written():
    assert [parse_budget(text) for text in ("1", "0.5", ".35", "recommended")] == [1.0, 0.5, 0.35, None]
    with pytest.raises(ConfigError, match=r"a number in \(0, 1\] or the word recommended, got '50%'"):
        parse_budget("50%")


def test_a_tower_of_whole_pictures_refuses_a_budget():
    whole = Preprocess(image_size=32, patch_size=32, input="pixels")
    assert whole.patches(textured(), budget=1.0)[0].shape == (1, 1024)
    with pytest.raises(
        ConfigError, match="takes whole pictures of 32 x 32 pixels and no patches: it has no patch budget"
    ):
        whole.patches(textured(), budget=0.5)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_one_tower_serves_every_budget(bundle: Bundle):
    encoder = ImageEncoder(bundle, device="cpu", threads=1)
    radiographs = pictures(3)
    for budget in BUDGETS:
        batch = [PREPROCESS.patches(one, budget=budget) for one in radiographs]
        vectors = encoder.encode(batch)
        alone = np.concatenate([encoder.encode([one]) for one in batch])
        assert (vectors * alone).sum(axis=1).min() >= 0.99999


def with_recommendation(bundle: Bundle, folder: Path, content: object) -> Path:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "patch_budget": content}))
    return folder


def test_a_bundle_recommends_a_budget_or_says_that_it_does_not(bundle: Bundle, tmp_path: Path):
    assert bundle.recommended_budget is None
    assert bundle.patch_budget("0.5") == 0.5
    with pytest.raises(BundleError, match=r"the bundle tiny recommends no patch budget: .* python -m export\.budget"):
        bundle.patch_budget("recommended")
    found = Bundle.open(with_recommendation(bundle, tmp_path, {"recommended": 0.75, "table": []}))
    assert (found.recommended_budget, found.patch_budget("recommended")) == (0.75, 0.75)
    assert found.fingerprint == bundle.fingerprint
    for wrong, message in (
        ({"recommended": 0}, "must be a share in"),
        ({"recommended": "half"}, "must be a number"),
        ([], "must be an object"),
    ):
        with pytest.raises(BundleError, match=f"patch_budget.*{message}"):
            Bundle.open(with_recommendation(bundle, tmp_path, wrong))


def test_the_command_line_takes_a_budget_records_it_and_speaks_of_mixtures(
    bundle: Bundle, phantom_folder: Path, tmp_path: Path
):
    files = sorted(phantom_folder.glob("*.dcm"))
    index = tmp_path / "index"
    run_cli("embed-images", *files[:3], "--index", index, "--bundle", bundle.path, "--patch-budget", "0.5")
    with Index.open(index) as store:
        assert store.provenance("image") == {("fp32", 0.5)}
    told = run_cli("query", "--image", files[0], "--index", index).stderr
    assert "the query was embedded with 100% of its patches, the image rows with 50%" in told
    assert "of its patches" not in run_cli("query", "no", "--index", index).stderr
    run_cli("embed-images", *files[:5], "--index", index, "--bundle", bundle.path)
    told = run_cli("query", "no", "--index", index).stderr
    assert "embedded in 2 ways: fp32 with 50% of the patches, fp32 with 100% of the patches" in told
    (info,) = json_lines(run_cli("info", "--index", index, "--json").stdout)
    assert (info["images"], info["recommended_patch_budget"]) == (5, None)
    refused = run_cli("embed-images", *files, "--index", index, "--patch-budget", "recommended", code=1)
    assert "the bundle tiny recommends no patch budget" in refused.stderr
    for wrong in ("0", "1.5", "half"):
        assert "(0, 1]" in run_cli("embed-images", *files, "--patch-budget", wrong, code=2).stderr
