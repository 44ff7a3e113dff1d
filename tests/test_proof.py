import json

import pytest

from benchmarks import frameworks
from train import ablation
from train.config import load_config


def test_every_row_of_every_table_is_a_valid_configuration():
    for rows in ablation.TABLES.values():
        for changes in rows.values():
            load_config(ablation.BASE, list(changes))


def test_the_base_is_one_run_whichever_table_asks_for_it():
    tables = ablation.TABLES
    base = {
        ablation.effective(tables[title][name])
        for title, name in (
            ("frameworks", "mcr"), ("mapping", "before-attention"), ("image mask ratio", "image-0.5"),
            ("text mask ratio", "text-0.15"), ("unmasked phase", "with"), ("losses", "all"),
        )
    }  # fmt: skip
    assert base == {()}
    rows = {ablation.effective(changes) for rows in tables.values() for changes in rows.values()}
    # The base, the dual stream, 7 other mappings, 4 + 3 other ratios, no unmasked phase, 3 losses alone.
    assert len(rows) == 1 + 1 + 7 + 4 + 3 + 1 + 3


def test_the_name_of_a_run_is_what_it_was_told():
    keys = {ablation.run_key(("a=1", "b=2"), 0), ablation.run_key(("b=2", "a=1"), 0)}
    assert len(keys) == 1
    assert ablation.run_key(("a=1",), 0) not in keys
    assert ablation.run_key(("a=1", "b=2"), 1) not in keys


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "RUNS", tmp_path / "runs.jsonl")
    monkeypatch.setattr(ablation, "FRAMEWORKS", tmp_path / "frameworks.json")
    seconds = {"mcr": {"seconds": 1.0}, "dual_stream": {"seconds": 2.0}}
    measured = {"proof": {"time_ratio": 0.5, "memory_ratio": 0.25} | seconds}
    (tmp_path / "frameworks.json").write_text(json.dumps(measured))
    lines = []
    for seed, recall in ((0, 0.10), (1, 0.20), (2, 0.30)):
        figures = {f"{way}_r{k}": recall for way in ("image_to_report", "report_to_image") for k in (1, 5, 10)}
        lines.append({"key": ablation.run_key((), seed), "changes": [], "seed": seed, "steps": 600, **figures})
    (tmp_path / "runs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def test_the_summary_averages_over_seeds_and_keeps_gaps_visible(results):
    tables = ablation.with_equal_time(ablation.TABLES)
    # 400 masked steps of 1 s and 100 whole ones of 1 s, against 2 s and 1 s: 500 / 900 of the schedule.
    assert tables["frameworks"]["dual_stream, equal time"][1:] == (
        "optim.steps=278", "optim.warmup_steps=22", "optim.unmasked_steps=56",
    )  # fmt: skip
    summary = ablation.summarise(tables, ablation.read_runs())
    assert (summary["time_ratio"], summary["memory_ratio"]) == (0.5, 0.25)
    mcr = summary["retrieval"]["mcr"]
    assert mcr["seeds"] == [0, 1, 2]
    assert mcr["image_to_report_r10"] == {"mean": 20.0, "sd": 10.0}
    assert summary["retrieval"]["dual_stream"] == {"changes": ("framework=dual_stream",), "seeds": []}
    printed = ablation.table("frameworks", summary["tables"]["frameworks"])
    assert "| mcr | 3 | 20.0 ± 10.0 | 20.0 ± 10.0 | 20.0 ± 10.0 | 20.0 ± 10.0 |" in printed
    assert "| dual_stream | 0 |  |  |  |  |" in printed


def test_a_random_batch_has_the_shapes_and_ratios_of_its_configuration():
    config = load_config(ablation.BASE)
    batch = frameworks.random_batch(config, 3, 24)
    assert batch.patches.shape == (3, 36, 256)
    assert batch.visible.shape == batch.hidden.shape == (3, 18)
    assert batch.targets.shape == (3, 18, 256)
    assert batch.input_ids.shape == (3, 24)
    assert batch.word_mask.sum(dim=1).tolist() == [3, 3, 3]
    assert ((batch.masked_ids == 4) == batch.word_mask).all()
