"""What a patch budget costs is measured, and the smallest that costs next to nothing stands in the manifest."""

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import budget as budget_benchmark
from benchmarks import towers
from conftest import run_cli
from export import budget
from export.budget import BUDGETS, add_budget, broken_limits, finding_recalls, recommended, within
from export.retrieval import HeldOut, held_out
from mcr_infer import Bundle, Index
from mcr_infer.errors import BundleError, ConfigError
from mcr_infer.inference.patch_budget import count_of
from mcr_infer.inference.verify import verify
from tiny import DIM, tiny_bundle

PHANTOMS = 20


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="module")
def items(bundle: Bundle) -> HeldOut:
    return held_out(bundle, PHANTOMS)


@pytest.fixture(autouse=True)
def once(items: HeldOut, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same phantoms for every test, and a cache folder of its own."""
    monkeypatch.setattr(budget, "held_out", lambda *_: items)
    monkeypatch.setattr(budget_benchmark, "held_out", lambda *_: items)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_manifest_gets_the_table_and_what_follows_from_it(bundle: Bundle, tmp_path: Path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(bundle.path, folder)
    assert budget.main([str(folder), "--phantoms", str(PHANTOMS)]) == 0
    told = capsys.readouterr().out
    found = Bundle.open(folder)
    record = found.manifest["patch_budget"]
    assert [row["budget"] for row in record["table"]] == list(BUDGETS)
    assert [row["patches"] for row in record["table"]] == [count_of(one, 16) for one in BUDGETS]
    assert found.recommended_budget == record["recommended"] == recommended(record["table"])
    assert f"tiny recommends {found.recommended_budget}, fingerprint {bundle.fingerprint}" in told
    assert (record["phantoms"], record["first_seed"], record["limit"]) == (PHANTOMS, 100_000, 0.01)
    for row in record["table"]:
        for name, value in row["recall"].items():
            assert record["all_patches"]["recall"][name] - value == pytest.approx(row["recall_loss"][name], abs=2e-5)
        assert row["broken_limits"] == broken_limits(row)
        assert 0 <= min(row["top10_agreement"].values()) <= max(row["top10_agreement"].values()) <= 1
    # 95 % of 16 patches are 15, and fewer change more.
    agreements = [row["top10_agreement"]["image_to_report"] for row in record["table"]]
    assert agreements[0] > agreements[-1]
    assert found.fingerprint == bundle.fingerprint
    assert [check.name for check in verify(found) if not check.ok] == []
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False)
    assert done.returncode == 0
    # Once more replaces it, and a precision that is added later keeps it.
    assert add_budget(folder, phantoms=PHANTOMS, budgets=(0.5,)).manifest["patch_budget"]["table"][0]["budget"] == 0.5


def test_a_bundle_that_cannot_be_measured_stays_as_it_was(bundle: Bundle, tmp_path: Path, capsys):
    folder = tmp_path / "tiny"
    shutil.copytree(bundle.path, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert budget.main([str(folder), "--phantoms", "3"]) == 1
    assert "--phantoms must be from 20 to 500000, got 3" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"in \(0, 1\]"):
        add_budget(folder, phantoms=PHANTOMS, budgets=(0.5, 0.0))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "image.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"image\.onnx is damaged"):
        add_budget(folder, phantoms=PHANTOMS)


def row(share: float, *, recall: float = 0.0, finding: float = 0.0) -> dict:
    losses = {"image_to_report_r1": 0.5, "image_to_report_r10": recall, "report_to_image_r10": 0.0}
    found = {"budget": share, "recall_loss": losses, "finding_recall_loss": {"lung nodule": finding, "pacemaker": -0.2}}
    return found | {"broken_limits": broken_limits(found)}


def test_the_recommended_budget_is_the_smallest_down_to_which_all_lose_little():
    good, bad = row(0.9, recall=0.0099, finding=0.0099), row(0.8, recall=0.01)
    assert (good["broken_limits"], bad["broken_limits"]) == ([], ["image_to_report_r10: 1.00 points"])
    assert row(0.8, finding=0.0123)["broken_limits"] == ["recall of lung nodule: 1.23 points"]
    assert row(0.8, finding=float("nan"))["broken_limits"] == ["recall of lung nodule: nan points"]
    assert recommended([good, row(0.85)]) == 0.85
    assert recommended([row(0.85), good]) == 0.85
    # One that passes below one that fails passed by chance.
    assert recommended([good, bad, row(0.7)]) == 0.9
    assert recommended([bad, row(0.7)]) == 1.0
    assert recommended([]) == 1.0


def test_the_recall_of_a_finding_is_the_share_of_it_among_as_many_as_there_are(items: HeldOut):
    pairs = [replace(items.pairs[0], findings=text) for text in ("left lung nodule", "", "pacemaker;lung nodule", "")]
    few = replace(items, pairs=pairs)
    images = np.eye(4, DIM, dtype=np.float32)

    def encode(texts) -> np.ndarray:
        asked = [[0.9, 0.8, 0.1, 0.0] if "nodule" in text else [0.0, 0.0, 1.0, 0.0] for text in texts]
        return np.pad(np.array(asked, dtype=np.float32), ((0, 0), (0, DIM - 4)))

    assert finding_recalls(images, few, encode) == {"lung nodule": 0.5, "pacemaker": 1.0}


def test_the_patches_of_a_budget_are_those_that_are_served(bundle: Bundle, items: HeldOut):
    part = within(items, 0.5)
    assert part.patches.shape == (PHANTOMS, 8, 16)
    assert part.texts is items.texts
    for number in (0, 7):
        assert np.array_equal(part.patches[number], items.patches[number][part.positions[number]])
    assert within(items, 1.0) is items


def test_the_controls_take_as_many_patches_and_other_ones(items: HeldOut):
    found = {name: within(items, 0.5, choice).positions for name, choice in budget_benchmark.CHOICES.items()}
    assert all(positions.shape == (PHANTOMS, 8) for positions in found.values())
    assert all((np.diff(positions, axis=1) > 0).all() for positions in found.values())
    assert len({positions.tobytes() for positions in found.values()}) == 4
    assert len({row.tobytes() for row in found["even spread"]}) == 1


def test_the_benchmarks_end_with_their_figures(bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    given = ["--bundle", str(bundle.path), "--rounds", "1", "--seconds", "0.002", "--out", str(tmp_path / "out.json")]
    monkeypatch.setattr("sys.argv", ["budget", *given, "--phantoms", str(PHANTOMS)])
    budget_benchmark.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == json.loads((tmp_path / "out.json").read_text())
    assert [(one["budget"], one["patches"]) for one in told["speed"]] == [
        (1.0, 16), (0.75, 12), (0.5, 8), (0.35, 6), (0.25, 4),
    ]  # fmt: skip
    assert all(one["images_per_second"] > 0 for one in told["speed"])
    assert [len(rows) for rows in told["retrieval"].values()] == [5, 4, 4, 4]
    assert set(told["retrieval"]["as served"][0]["recall_loss"].values()) == {0.0}
    monkeypatch.setattr("sys.argv", ["towers", *given])
    towers.main()
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {one["batch"] for one in told["bundles"]["tiny"]["uses"]} == {1, 4, 8, 16}
    options = {one["option"]: one for one in told["bundles"]["tiny"]["options"]}
    assert options.keys() == towers.OPTIONS.keys()
    assert options["as served"]["over_as_served"] == 1.0


def test_the_bundle_that_ships_recommends_what_it_measured(phantom_folder: Path, tmp_path: Path):
    shipped = Bundle.open()
    record = shipped.manifest["patch_budget"]
    assert shipped.recommended_budget == recommended(record["table"])
    assert record["phantoms"] >= 1000
    index = tmp_path / "index"
    files = sorted(phantom_folder.glob("*.dcm"))[:2]
    run_cli("embed-images", *files, "--index", index, "--patch-budget", "recommended")
    with Index.open(index) as store:
        assert store.provenance("image") == {("fp32", shipped.recommended_budget)}
    told = json.loads(run_cli("info", "--index", index, "--json").stdout)
    assert told["recommended_patch_budget"] == shipped.recommended_budget
