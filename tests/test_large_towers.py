"""Towers of real size, ViT-B/16 and BERT-base, of random weights: exported, quantised, verified, built. Minutes each.

The figures that are printed stand in export/README.md. Random weights show parity, sizes and time; what a precision costs in
retrieval is measured too, but of a model that retrieves by chance.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from conftest import run_cli
from export import quantize
from export.to_onnx import export_bundle
from mcr_infer import phantom
from mcr_infer.inference.autotune import autotune
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.engine_build import RTX_ARCHITECTURES, architectures_with, build_engine
from mcr_infer.inference.engines import discard
from mcr_infer.inference.tokenizer import train_tokenizer
from mcr_infer.reports import embed_text
from train.config import load_config
from train.model import MCR

RECIPE = Path(__file__).parents[1] / "train" / "configs" / "mimic_cxr_vitb16.toml"
PRECISIONS = ("fp16", "int8", "int8-qdq", "fp8")

pytestmark = pytest.mark.nightly


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The model of the MIMIC-CXR recipe, untrained, as a bundle; each test adds its own precision to it."""
    folder = tmp_path_factory.mktemp("large")
    config = load_config(RECIPE)
    torch.manual_seed(0)
    model = MCR(config).eval()
    reports = [embed_text(phantom.make(seed, 32).report.text) for seed in range(1_000_000, 1_000_500)]
    train_tokenizer(reports, config.model.text.vocab_size).save(str(folder / "tokenizer.json"))
    start = time.perf_counter()
    export_bundle(
        model, folder / "bundle", preprocess=config.model.preprocess, tokenizer=folder / "tokenizer.json",
        max_tokens=config.model.text.max_tokens, name="large", created="2026-11-25",
    )  # fmt: skip
    print(f"\nexport and gate: {time.perf_counter() - start:.0f} s")
    yield folder / "bundle"
    # pytest keeps the folders of three runs, and this one holds gigabytes.
    shutil.rmtree(folder)


def test_fp32_is_what_the_model_computes_and_verify_passes(large: Path):
    bundle = Bundle.open(large)
    config = load_config(RECIPE)
    assert (bundle.preprocess.patch_count, bundle.max_tokens, bundle.embedding_dim) == (196, 128, 512)
    rows = bundle.manifest["parity"]
    assert {(row["tower"], row["length"]) for row in rows} == {
        *(("image", length) for length in (1, 98, 196)), *(("text", length) for length in (3, 17, 128))
    }  # fmt: skip
    for row in rows:
        assert max(row["max_abs"], row["local_max_abs"], row["weights_max_abs"]) <= 1e-4
        assert row["rows_min_cosine"] >= 0.99999
    sizes = [bundle.files[f"{side}.onnx.data"].bytes / 4 for side in ("image", "text")]
    # 86 million weights of ViT-B/16, 85 of the layers of BERT-base and its words, which are few here.
    assert 85e6 < sizes[0] < 90e6
    assert 85e6 < sizes[1] < 85e6 + 768 * (config.model.text.vocab_size + 4096)
    told = json.loads(run_cli("verify", large, "--json").stdout)
    assert told["ok"]
    for side in ("image", "text"):
        print(f"{side} tower: max abs difference {max(row['max_abs'] for row in rows if row['tower'] == side):.1e}")
    build_for_each_architecture(bundle, "fp32")


def test_the_calibration_takes_seconds_even_here(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bundle = Bundle.open(large)
    for budget in (1.0, 0.35):
        start = time.perf_counter()
        plan = autotune(bundle, device="cpu", budget=budget, cores=len(os.sched_getaffinity(0)))
        print(f"\n{budget:.0%} of the patches: {time.perf_counter() - start:.1f} s, {plan}")
        assert plan.images_per_second > 0.1


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_precision_is_measured_and_built(large: Path, precision: str, capsys: pytest.CaptureFixture):
    before = Bundle.open(large)
    start = time.perf_counter()
    arguments = [str(large), "--precision", precision, "--phantoms", "64", "--calibration-phantoms", "32"]
    # One of 64 phantoms is more than the point of recall that may be lost, and these weights retrieve by chance.
    code = quantize.main([*arguments, "--accept-loss"])
    told = capsys.readouterr()
    with capsys.disabled():
        print(f"\n{precision}: {time.perf_counter() - start:.0f} s\n{told.out}")
    assert (code, told.err) == (0, "")
    bundle = Bundle.open(large)
    found = bundle.manifest["precisions"][precision]
    assert min(row["mean_cosine"] for row in found["parity"]) >= found["limits"]["mean_cosine"]
    assert min(row["rows_min_cosine"] for row in found["parity"]) >= found["limits"]["rows_min_cosine"]
    assert [line for line in found["broken_limits"] if "cosine" in line] == []
    assert found["retrieval"]["phantoms"] == 64
    for side in ("image", "text"):
        share = bundle.files[f"{side}-{precision}.onnx.data"].bytes / before.files[f"{side}.onnx.data"].bytes
        assert share < {"fp16": 0.51}.get(precision, 0.45)
    if precision == "int8":  # made for the CPU
        assert json.loads(run_cli("verify", large, "--precision", "int8", "--json").stdout)["ok"]
    else:
        with capsys.disabled():
            build_for_each_architecture(bundle, precision)


def build_for_each_architecture(bundle: Bundle, precision: str) -> None:
    """Build both towers with TensorRT-RTX, print sizes and seconds, and hold the sizes to those of the graphs."""
    variant = bundle.variant(precision)
    files = bundle.tower_files if variant is None else variant.tower_files
    for side in ("image", "text"):
        weights = bundle.files[f"{files[side]}.data"].bytes
        for sm in architectures_with(precision, "rtx", RTX_ARCHITECTURES):
            start = time.perf_counter()
            record = build_engine(bundle, side, precision=precision, flavor="rtx", architectures=[sm])
            print(f"{record.file}: {record.bytes / 1e6:.0f} MB, {time.perf_counter() - start:.0f} s")
            # Weights are stored as they are, neither lost nor widened; the rest is code.
            assert weights < record.bytes < 1.1 * weights + 20e6
            assert record.profile.to_dict() == {"batch": "1:8:32", "patches": "1:196:196", "tokens": "1:32:128"}
            discard(bundle, record)
