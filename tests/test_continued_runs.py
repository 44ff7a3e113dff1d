import dataclasses
import shutil

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mcr_infer.errors import ConfigError
from runs import Killed, copied, read_metrics, resumed, same_state, tiny, untimed
from train import checkpoint
from train import config as cfg
from train.loop import train
from train.optim import learning_rate

pytestmark = pytest.mark.usefixtures("few_texts")

FLAT = {"final_fraction": 1.0, "unmasked_steps": 0}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    resumed(tiny(cache), run)
    return run


@pytest.fixture(scope="module")
def flat(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "flat"
    train(tiny(cache, steps=9, **FLAT), run, console=Console(quiet=True))
    return run


def test_resuming_needs_the_state_alone(cache, flat, tmp_path):
    """A damaged model file is written again at the next checkpoint."""
    run = copied(flat, tmp_path / "run")
    (run / checkpoint.MODEL).write_bytes(b"damaged")
    train(tiny(cache, steps=10, **FLAT), run, console=Console(quiet=True))
    assert checkpoint.load_model(run)[1].optim.steps == 10


def test_raised_steps_go_on_from_the_end(cache, finished, tmp_path):
    longer = tiny(cache, steps=9)
    run = copied(finished, tmp_path / "run")
    told = resumed(longer, run)
    assert "resumed at step 6 of 9" in told
    assert "optim.steps raised from 6 to 9" in told
    assert [line["step"] for line in read_metrics(run) if line["kind"] == "train"] == list(range(1, 10))
    assert untimed(run)[: len(read_metrics(finished))] == untimed(finished)
    rates = [line["rate"] for line in untimed(run) if line["kind"] == "train"][6:]
    assert rates == pytest.approx([learning_rate(step, longer.optim) for step in (6, 7, 8)], rel=1e-4)
    assert ["image" in line for line in untimed(run) if line["kind"] == "train"] == [True] * 4 + [False] * 2 + [
        True, False, False,
    ]  # fmt: skip
    assert checkpoint.load_model(run)[1] == longer
    assert "finished at step 9: raise optim.steps" in resumed(longer, run)
    with pytest.raises(ConfigError, match=r"optim\.steps: 9 -> 6"):
        train(tiny(cache), run, console=Console(quiet=True))


@pytest.mark.parametrize("killed_at", [3, 6])
def test_raised_steps_of_a_flat_schedule_repeat(cache, flat, killed_at, tmp_path, monkeypatch):
    """Without decay and unmasked steps the schedules agree, so a raised run is the longer one bit for bit."""
    run, real = tmp_path / "run", checkpoint.save_state

    def save_and_die(*arguments):
        real(*arguments)
        if arguments[3] == killed_at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(tiny(cache, steps=6, **FLAT), run, console=Console(quiet=True))
    assert f"resumed at step {killed_at} of 9" in resumed(tiny(cache, steps=9, **FLAT), run)
    assert same_state(flat, run)


def earlier(config, run):
    """Make a run folder as an earlier release left it: long texts were cut, and the configuration does not say so."""
    cut = dataclasses.replace(config, data=dataclasses.replace(config.data, long_text="truncate"))
    train(cut, run, console=Console(quiet=True))
    path = run / checkpoint.CONFIG
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if not line.startswith("long_text")))
    return cut


def test_earlier_runs_go_on_cutting_long_texts(cache, tmp_path):
    config = tiny(cache)
    run = tmp_path / "run"
    cut = earlier(config, run)
    with pytest.raises(ConfigError, match=r"data\.long_text: truncate -> impression-first.*data\.long_text=truncate"):
        resumed(config, run)
    assert checkpoint.load_model(run)[1] == cut
    longer, straight = dataclasses.replace(cut, optim=tiny(cache, steps=8).optim), tmp_path / "straight"
    resumed(cut, straight)
    for folder in (run, straight):
        assert "resumed at step 6 of 8" in resumed(longer, folder)
    assert same_state(run, straight)
    assert checkpoint.load_model(run)[1] == longer
    other = tmp_path / "other"
    resumed(config, other)
    assert untimed(other)[0] != untimed(straight)[0]  # there are long texts among these


def started(cache, run, **changes):
    """A configuration that starts with the weights of a run."""
    return dataclasses.replace(tiny(cache, **changes), run=dataclasses.replace(tiny(cache).run, init_from=str(run)))


def test_weights_of_another_run_are_the_start(cache, finished, tmp_path, monkeypatch):
    source, run = copied(finished, tmp_path / "source"), tmp_path / "run"
    config = started(cache, source, ema_decay=0.9)
    seen, real = [], checkpoint.save_state

    def save_and_die(folder, learner, average, step):
        real(folder, learner, average, step)
        seen.append(step)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(config, run, console=Console(quiet=True))
    assert seen == [0]
    given, taken = load_file(finished / checkpoint.MODEL), load_file(run / checkpoint.MODEL)
    assert given.keys() == taken.keys()
    assert all(torch.equal(given[name], taken[name]) for name in given)
    state = load_file(run / checkpoint.STATE)
    assert not any(name.startswith("exp_avg") for name in state)
    assert all(torch.equal(given[name], state[f"average/{name}"]) for name in given)
    assert (run / checkpoint.TOKENIZER).read_bytes() == (finished / checkpoint.TOKENIZER).read_bytes()

    # What the other run does from here on does not matter.
    shutil.rmtree(source)
    train(config, run, console=Console(quiet=True))
    copied(finished, source)
    told = resumed(config, tmp_path / "straight")
    assert f"starting from the weights of {source}" in told
    assert same_state(run, tmp_path / "straight")
    assert untimed(run) == untimed(tmp_path / "straight")
    assert untimed(run)[0]["rate"] == pytest.approx(learning_rate(0, config.optim), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"space": cfg.CommonSpace(embedding_dim=8)}, r"model\.space\.embedding_dim: 16 -> 8"),
        (
            {"image": cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=2, heads=2)},
            r"model\.image\.depth: 1 -> 2",
        ),
        (
            {"image": cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=1, heads=2, pixel_mean=0.3)},
            r"model\.image\.pixel_mean: 0\.45 -> 0\.3",
        ),
        (
            {"space": cfg.CommonSpace(embedding_dim=16, aggregation="gem")},
            r"model\.space\.aggregation: attention -> gem",
        ),
        (
            {"decoders": cfg.Decoders(image_width=8, image_heads=2, report_heads=2)},
            r"model\.decoders\.image_width: 16 -> 8",
        ),
        ({"text_mode": "drop"}, r"masking\.text_mode: mask -> drop"),
    ],
)
def test_start_of_another_architecture_is_refused(cache, finished, change, named, tmp_path):
    config = started(cache, finished)
    if "text_mode" in change:
        config = dataclasses.replace(config, masking=cfg.Masking(**change))
    else:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **change))
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match=rf"--init-from .*straight: .*another architecture \({named}\)"):
        train(config, run, console=Console(quiet=True))
    assert list(run.iterdir()) == []
    train(started(cache, finished), run, console=Console(quiet=True))


def test_start_that_is_no_run_is_named(cache, finished, tmp_path):
    for folder, words in ((tmp_path, "cannot read the configuration"), (tmp_path / "begun", "holds no model")):
        folder.mkdir(exist_ok=True)
        if folder.name == "begun":
            (folder / checkpoint.CONFIG).write_bytes((finished / checkpoint.CONFIG).read_bytes())
        with pytest.raises(ConfigError, match=words):
            train(started(cache, folder), tmp_path / "run", console=Console(quiet=True))
