import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from mcr_infer import phantom
from mcr_infer.errors import ConfigError
from mcr_infer.images.dicom import read_dicom
from mcr_infer.phantom.demo import write_demo
from mcr_infer.phantom.dicom import write_dicom
from mcr_infer.phantom.findings import (
    CARDIOMEGALY,
    CENTRAL_LINE,
    CONSOLIDATION,
    EFFUSION,
    KINDS,
    NODULE,
    PACEMAKER,
    PNEUMOTHORAX,
    RIB_FRACTURE,
    Finding,
    draw_finding,
    draw_findings,
    finding_set,
)  # fmt: skip

SIDED = (EFFUSION, PNEUMOTHORAX, CONSOLIDATION, NODULE, RIB_FRACTURE)


def finding(kind: str, side: str | None = None, size: float = 0.8) -> Finding:
    lobe = "lower lobe" if kind in (CONSOLIDATION, NODULE) else None
    return Finding(kind=kind, side=side, lobe=lobe, size=size, millimetres=40.0 if kind == NODULE else None)


def change(seed: int, *findings: Finding) -> np.ndarray:
    """What findings change in the picture of a seed [H, W]."""
    without, with_ = (phantom.make(seed, 128, findings=chosen).stored.astype(float) for chosen in ((), findings))
    return np.abs(with_ - without)[8:-8, 8:-8]


def test_a_seed_gives_the_same_phantom_every_time():
    one, two = phantom.make(17, 128), phantom.make(17, 128)
    assert np.array_equal(one.stored, two.stored)
    assert (one.findings, one.report, one.view) == (two.findings, two.report, two.view)


def test_a_phantom_is_the_same_body_at_every_size():
    small, large = phantom.make(11, 256), phantom.make(11, 512)
    assert (small.findings, small.report) == (large.findings, large.report)
    shrunk = np.asarray(Image.fromarray(large.stored.astype(np.float32)).resize((256, 256), Image.Resampling.BOX))
    inside = np.s_[40:-40, 20:-20]
    assert np.corrcoef(shrunk[inside].ravel(), small.stored[inside].ravel())[0, 1] > 0.99


def test_a_phantom_is_exposed_alike_at_every_size():
    for seed in range(6):
        pictures = [phantom.make(seed, size).stored for size in (128, 256, 512)]
        middles = [
            stored[len(stored) // 4 : -len(stored) // 4, len(stored) // 4 : -len(stored) // 4] for stored in pictures
        ]
        levels = [np.percentile(middle, (25, 50, 75)) for middle in middles]
        assert np.allclose(levels, levels[1], atol=0.04 * 4095)


def test_fluid_fills_the_air_of_a_pneumothorax_on_its_side():
    air = finding(PNEUMOTHORAX, "left", size=0.6)
    fluid = finding(EFFUSION, "left", size=0.5)
    for order in ((air, fluid), (fluid, air)):
        both = phantom.make(4, 128, findings=order).stored.astype(float)
        alone = phantom.make(4, 128, findings=(air,)).stored.astype(float)
        base = np.s_[84:90, 90:96]  # above the left hemidiaphragm, near the wall
        assert np.median(both[base]) > np.median(alone[base]) + 0.15 * 4095


def test_a_pneumothorax_that_pushes_nothing_changes_nothing_else():
    # Just below and just above the size from which it may push the mediastinum: half of the seeds do not.
    moved = []
    for seed in range(8):
        below, above = (
            phantom.make(seed, 128, findings=(finding(PNEUMOTHORAX, "left", size=size),)).stored.astype(float)
            for size in (0.699, 0.701)
        )
        moved.append(np.abs(above - below)[:, :56].mean())
    assert sum(level < 2.0 for level in moved) in range(2, 7)


@pytest.mark.parametrize("kind", SIDED)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_finding_of_one_side_is_seen_on_that_side(kind: str, side: str):
    # The patient's left is on the viewer's right. The median over seeds: exposure differs a little everywhere.
    shares = []
    for seed in range(5):
        difference = change(seed, finding(kind, side))
        middle = difference.shape[1] // 2
        left, right = difference[:, middle:].sum(), difference[:, :middle].sum()
        shares.append((left if side == "left" else right) / (left + right))
    assert np.median(shares) > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_every_finding_can_be_seen(kind: str):
    rng = np.random.default_rng(3)
    drawn = draw_finding(kind, rng)
    # Not larger: above 0.7 a pneumothorax may shift the mediastinum, and everything in the picture with it.
    millimetres = 45.0 if kind == NODULE else None
    large = Finding(kind=kind, side=drawn.side, lobe=drawn.lobe, size=0.7, millimetres=millimetres)
    # The strongest half percent of the pixels moves by more than 2.5 % of the range.
    assert np.quantile(change(5, large), 0.995) > 0.025 * 4095


def test_a_large_heart_is_wider():
    def dark_gap(size: float | None) -> int:
        chosen = () if size is None else (finding(CARDIOMEGALY, size=size),)
        row = phantom.make(21, 256, findings=chosen).stored[120:165].astype(float).mean(axis=0)
        return int((row[40:216] > 0.5 * (row[40:216].min() + row[40:216].max())).sum())

    assert dark_gap(None) < dark_gap(0.3) < dark_gap(1.0)


def test_lungs_are_dark_and_the_spine_is_bright():
    for seed in range(6):
        stored = phantom.make(seed, 128, findings=()).stored.astype(float) / 4095
        lungs = np.median(np.concatenate([stored[50:70, 30:45].ravel(), stored[50:70, 85:98].ravel()]))
        assert lungs < 0.5
        assert np.median(stored[70:80, 60:68]) > lungs + 0.3


def test_nobody_may_mistake_a_phantom_for_a_patient(tmp_path: Path):
    made = phantom.make(2, 256)
    write_dicom(made, tmp_path / "p.dcm")
    data = pydicom.dcmread(tmp_path / "p.dcm")
    for keyword in ("PatientName", "PatientID", "StudyDescription", "SeriesDescription"):
        assert "SYNTHETIC" in str(data[keyword].value)
    # The corner text: white pixels on a black label in the lower right corner.
    assert (made.stored[-14:, -80:] >= 3000).sum() > 60


def test_the_dicom_file_gives_back_the_same_pixels(tmp_path: Path):
    made = phantom.make(4, 200)
    write_dicom(made, tmp_path / "p.dcm")
    radiograph = read_dicom(tmp_path / "p.dcm")
    assert np.array_equal(radiograph.pixels, made.radiograph().pixels)
    assert (radiograph.modality, radiograph.view_position, radiograph.mirrored) == ("DX", made.view, False)
    assert radiograph.intensity == "window"


def test_uids_are_those_of_the_phantom(tmp_path: Path):
    for name, seed, size in (("a", 1, 64), ("b", 1, 64), ("c", 1, 80), ("d", 2, 64)):
        write_dicom(phantom.make(seed, size), tmp_path / name)
    uid = {name: pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in "abcd"}
    assert uid["a"] == uid["b"]
    assert len({uid["a"], uid["c"], uid["d"]}) == 3  # other pixels, other instance
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_mixture():
    drawn = [draw_findings(np.random.default_rng(seed)) for seed in range(4000)]
    counts = Counter(len(findings) for findings in drawn)
    assert 0.17 < counts[0] / len(drawn) < 0.25
    assert max(counts) == 3
    assert {one.kind for findings in drawn for one in findings} == set(KINDS)
    assert all(len({one.kind for one in findings}) == len(findings) for findings in drawn)
    assert all(one.side != "left" or one.lobe != "middle lobe" for findings in drawn for one in findings)
    sizes = [one.size for findings in drawn for one in findings]
    assert min(sizes) < 0.01
    assert max(sizes) > 0.99


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "fracture", "size": 0.5},
        {"kind": PACEMAKER, "size": 0.5},
        {"kind": CARDIOMEGALY, "side": "left", "size": 0.5},
        {"kind": CONSOLIDATION, "side": "left", "lobe": "middle lobe", "size": 0.5},
        {"kind": CENTRAL_LINE, "side": "right", "size": 1.5},
    ],
)
def test_a_finding_that_cannot_be_is_refused(wrong: dict):
    with pytest.raises(ValueError, match=r"cannot have|unknown|size"):
        Finding(**wrong)


def test_demo_writes_files_and_truth(tmp_path: Path):
    paths = list(write_demo(tmp_path / "demo", count=5, seed=40, size=64))
    with (tmp_path / "demo" / "truth.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert [row["file"] for row in rows] == [path.name for path in paths]
    for row, seed in zip(rows, range(40, 45), strict=True):
        made = phantom.make(seed, 64)
        assert row["findings"] == finding_set(made.findings)
        assert row["report"] == made.report.text
        assert len(row["sizes"].split(";")) == max(1, len(made.findings))


def test_demo_refuses_seeds_of_the_training(tmp_path: Path):
    with pytest.raises(ConfigError, match="training"):
        list(write_demo(tmp_path, count=2, seed=phantom.FIRST_TRAINING_SEED - 1))
