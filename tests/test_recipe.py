"""The recipe for MIMIC-CXR at its real size: two steps over a small tree in the layout of MIMIC-CXR-JPG, on a CPU."""

import json
import math
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from train import checkpoint
from train.config import load_config
from train.loop import train
from trees import small_mimic

RECIPE = Path(__file__).parents[1] / "train" / "configs" / "mimic_cxr_vitb16.toml"


@pytest.mark.slow
def test_the_recipe_takes_two_steps_on_a_cpu(tmp_path):
    images, reports = tmp_path / "jpg", tmp_path / "jpg"
    small_mimic(images, training=2, validation=2, size=320)
    config = load_config(
        RECIPE,
        [
            f'data.cache="{tmp_path / "cache"}"', f'data.radiographs.images="{images}"',
            f'data.radiographs.reports="{reports}"', "optim.steps=2", "optim.batch_size=2", "optim.unmasked_steps=0",
            "optim.warmup_steps=1", "run.device=cpu", "run.compile=false", "run.workers=0", "run.log_every=1",
        ],
    )  # fmt: skip
    with Path("/dev/null").open("w") as sink:
        train(config, tmp_path / "run", console=Console(file=sink))
    lines = [json.loads(line) for line in (tmp_path / "run" / checkpoint.METRICS).read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2]
    assert all(math.isfinite(line[name]) for line in steps for name in ("contrastive", "image", "report", "norm"))
    assert steps[0]["contrastive"] == pytest.approx(math.log(2), abs=1.0)
    assert lines[-1]["kind"] == "evaluation"
    survey = json.loads((tmp_path / "run" / "data.json").read_text())
    assert survey
    with safe_open(tmp_path / "run" / checkpoint.MODEL, framework="pt") as weights:
        assert weights.get_slice("image_tower.vit.pos_embed").get_shape() == [1, 196, 768]
        assert weights.get_slice("image_tower.vit.blocks.11.mlp.fc1.weight").get_shape() == [3072, 768]
        assert weights.get_slice("text_tower.bert.encoder.layer.11.output.dense.weight").get_shape() == [768, 3072]
