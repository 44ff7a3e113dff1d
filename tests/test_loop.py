import dataclasses
import io
import json
import shutil
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from mcr_infer.errors import ConfigError
from train import checkpoint, loop
from train import config as cfg
from train.__main__ import main
from train.loop import train
from train.optim import learning_rate
from train.progress import progress_bar
from train.settings import dump_toml
from train.threads import advise_threads, compare_threads
from train.training_log import TrainingLog
from trees import small_mimic


def tiny(folder, **optim):
    return cfg.Config(
        model=cfg.Model(
            image=cfg.ImageTower(image_size=32, patch_size=8, width=32, depth=1, heads=2),
            text=cfg.TextTower(vocab_size=400, max_tokens=48, width=32, depth=1, heads=2, dropout=0.1),
            space=cfg.CommonSpace(embedding_dim=16),
            decoders=cfg.Decoders(image_width=16, image_heads=2, report_heads=2),
        ),
        optim=cfg.Optim(**{"steps": 6, "batch_size": 8, "warmup_steps": 2, "unmasked_steps": 2} | optim),
        data=cfg.Data(cache=str(folder), phantoms=cfg.Phantoms(size=48, train_count=50, validation_count=50)),
        run=cfg.Run(workers=0, log_every=1, evaluate_every=3, checkpoint_every=3),
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def console():
    with Path("/dev/null").open("w") as sink:
        yield Console(file=sink)


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    with Path("/dev/null").open("w") as sink:
        train(tiny(cache), run, console=Console(file=sink))
    return run


def read_metrics(run):
    return [json.loads(line) for line in (run / checkpoint.METRICS).read_text().splitlines()]


def untimed(run):
    """The lines of a log without what the clock says."""
    clocked = {"time", "seconds", "waited", "pairs_per_second", "seconds_left"}
    return [{name: value for name, value in line.items() if name not in clocked} for line in read_metrics(run)]


def same_state(one, other):
    states = [load_file(run / checkpoint.STATE) for run in (one, other)]
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def copied(run, folder):
    folder.mkdir()
    for path in run.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


class Killed(BaseException):
    pass


@pytest.mark.parametrize("extra", [{}, {"optimizer": "muon", "ema_decay": 0.9, "micro_batch": 3}], ids=["adamw", "all"])
def test_a_killed_run_goes_on_bit_for_bit(cache, finished, extra, tmp_path, console, monkeypatch):
    if extra:
        straight = tmp_path / "straight"
        train(tiny(cache, **extra), straight, console=console)
        finished = straight
    run, real = tmp_path / "killed", checkpoint.save_state

    def save_and_die(*arguments):
        real(*arguments)
        raise Killed

    run.mkdir()
    (run / checkpoint.TOKENIZER).write_bytes((finished / checkpoint.TOKENIZER).read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_state", save_and_die)
        with pytest.raises(Killed):
            train(tiny(cache, **extra), run, console=console)
    # As a kill in the middle of a write would leave it, after a step that was not saved.
    with (run / checkpoint.METRICS).open("a") as metrics:
        metrics.write('{"kind": "train", "step": 4, "loss": 1.0}\n{"kind": "tra')
    assert load_file(run / checkpoint.STATE).keys() >= {"model/logit_scale", "exp_avg/logit_scale", "step/logit_scale"}
    train(tiny(cache, **extra), run, console=console)

    assert same_state(finished, run)
    assert untimed(finished) == untimed(run)


def test_the_run_folder_holds_what_was_promised(cache, finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {"config.toml", "tokenizer.json", "state.safetensors", "model.safetensors", "metrics.jsonl"}
    lines = read_metrics(finished)
    steps = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert ["image" in line for line in steps] == [True] * 4 + [False] * 2
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [3, 6]
    model, config = checkpoint.load_model(finished)
    assert config == tiny(cache)
    assert not model.training
    weights = load_file(finished / checkpoint.MODEL)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in checkpoint.tower_state(model).items())


def test_a_finished_run_does_nothing_more(cache, finished, console):
    before = {path.name: path.read_bytes() for path in finished.iterdir()}
    train(tiny(cache), finished, console=console)
    assert {path.name: path.read_bytes() for path in finished.iterdir()} == before


def test_a_kill_between_the_files_of_a_checkpoint_loses_no_model(cache, finished, tmp_path, console, monkeypatch):
    run, real = tmp_path / "run", checkpoint.replace_file

    def write_and_die(path, content):
        real(path, content)
        if path.name in (checkpoint.MODEL, checkpoint.STATE) and len(content) > 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "replace_file", write_and_die)
        with pytest.raises(Killed):
            train(tiny(cache), run, console=console)
    assert (run / checkpoint.MODEL).exists()
    train(tiny(cache), run, console=console)
    for name in (checkpoint.MODEL, checkpoint.STATE):
        one, other = load_file(finished / name), load_file(run / name)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_another_configuration_is_refused(cache, finished, console):
    with pytest.raises(ConfigError, match=r"optim\.steps: 6 -> 5.*give another --out"):
        train(tiny(cache, steps=5), finished, console=console)
    with pytest.raises(ConfigError, match=r"started with another configuration \(optim\.warmup_steps: 2 -> 1\)"):
        train(tiny(cache, steps=9, warmup_steps=1), finished, console=console)


def test_two_processes_cannot_train_into_one_folder(cache, finished, console, monkeypatch):
    monkeypatch.setattr(checkpoint.time, "sleep", lambda _: None)
    with (
        checkpoint.open_run(finished, tiny(cache)),
        pytest.raises(ConfigError, match="another process is training into"),
    ):
        train(tiny(cache), finished, console=console)


def test_a_damaged_checkpoint_is_named(cache, finished, tmp_path, console):
    run = copied(finished, tmp_path / "run")
    (run / checkpoint.STATE).write_bytes((finished / checkpoint.STATE).read_bytes()[:1000])
    with pytest.raises(ConfigError, match=r"state\.safetensors is damaged"):
        train(tiny(cache), run, console=console)
    (run / checkpoint.MODEL).unlink()
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors"):
        checkpoint.load_model(run)


def test_the_command_names_a_typo(tmp_path, capsys, monkeypatch):
    config = tmp_path / "config.toml"
    config.write_text("[optim]\nstep = 3\n")
    monkeypatch.setattr("sys.argv", ["train", "--config", str(config), "--out", str(tmp_path / "run")])
    assert main() == 1
    assert "unknown key optim.step; the nearest known one is optim.steps" in capsys.readouterr().err


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


def resumed(config, run, **options):
    """Train, and return what was printed."""
    told = io.StringIO()
    train(config, run, console=Console(file=told, width=200), **options)
    return told.getvalue()


FLAT = {"final_fraction": 1.0, "unmasked_steps": 0}


@pytest.fixture(scope="module")
def flat(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "flat"
    train(tiny(cache, steps=9, **FLAT), run, console=Console(quiet=True))
    return run


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


def test_the_log_tells_time_pace_and_rest(cache, finished):
    lines = read_metrics(finished)
    assert all(datetime.fromisoformat(line["time"]).tzinfo is not None for line in lines)
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)
    steps = [line for line in lines if line["kind"] == "train"]
    for line in steps:
        assert line["seconds_left"] == pytest.approx((6 - line["step"]) * 8 / line["pairs_per_second"], rel=1e-3)
    assert "pairs_per_second" not in lines[-1]


def test_pace_is_that_of_recent_steps(cache):
    config, now, told, metrics = tiny(cache, steps=1000, batch_size=8), [0.0], io.StringIO(), io.StringIO()
    console = Console(file=told, width=200)
    with progress_bar(console) as progress:
        log = TrainingLog(metrics, console, progress, config, 100, clock=lambda: now[0])
        for done in range(101, 301):
            now[0] += 10.0 if done <= 200 else 0.5
            log.step(done, {"loss": 1.0})
    last = json.loads(metrics.getvalue().splitlines()[-1])
    assert (last["pairs_per_second"], last["seconds_left"]) == (16.0, 350.0)
    assert "step 300 of 1000 (16 pairs/s, 0:05:50 left): loss 1" in told.getvalue()
    assert json.loads(metrics.getvalue().splitlines()[0])["pairs_per_second"] == 0.8


def test_the_check_of_threads_changes_nothing(cache, finished, tmp_path, monkeypatch):
    def measured(work):
        for _ in range(2):
            assert work().keys() >= {"loss", "contrastive"}
        return 0.3, 0.1

    monkeypatch.setattr(loop, "compare_threads", measured)
    told = resumed(tiny(cache), tmp_path / "run", check_threads=True)
    assert "note: a step takes 0.1 s with one thread and 0.3 s" in told
    assert same_state(finished, tmp_path / "run")
    assert untimed(finished) == untimed(tmp_path / "run")


@pytest.mark.parametrize(
    ("several", "one", "advice"),
    [(0.3, 0.1, "0.1 s with one thread and 0.3 s with the 3 that torch chose: --threads 1"), (0.1, 0.3, None),
     (0.1, 0.095, None), (5.0, 1.0, None)],
)  # fmt: skip
def test_one_thread_is_advised_where_faster(several, one, advice):
    before, now = torch.get_num_threads(), [0.0]

    def work():
        now[0] += one if torch.get_num_threads() == 1 else several

    torch.set_num_threads(3)
    try:
        told = advise_threads(compare_threads(work, clock=lambda: now[0]))
        assert torch.get_num_threads() == 3
        torch.set_num_threads(1)
        assert compare_threads(work, clock=lambda: now[0]) is None
    finally:
        torch.set_num_threads(before)
    assert (told is None) if advice is None else advice in told


def test_tensorboard_shows_what_the_log_holds(cache, finished, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = copied(finished, tmp_path / "run")
    train(tiny(cache, steps=9), run, console=Console(quiet=True), tensorboard=True)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    lines = [line for line in read_metrics(run) if line["step"] > 6]
    for kind in ("train", "evaluation"):
        for name in next(line for line in lines if line["kind"] == kind).keys() - {"kind", "step", "time"}:
            shown = [(event.step, event.value) for event in events.Scalars(f"{kind}/{name}")]
            kept = [(line["step"], line[name]) for line in lines if line["kind"] == kind and name in line]
            assert [step for step, _ in shown] == [step for step, _ in kept]
            assert [value for _, value in shown] == pytest.approx([value for _, value in kept], rel=1e-4)


def test_missing_tensorboard_is_named_before_anything(cache, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"--tensorboard needs .*: pip install --group tensorboard"):
        train(tiny(cache), tmp_path / "run", console=Console(quiet=True), tensorboard=True)
    assert not (tmp_path / "run").exists()


def test_the_advice_of_the_survey_can_be_followed(tmp_path, capsys, monkeypatch):
    studies = small_mimic(tmp_path / "data", training=9, validation=2)
    (tmp_path / "data" / f"{studies[0].folder}.txt").unlink()
    config = dataclasses.replace(
        tiny(tmp_path / "cache", steps=1, unmasked_steps=0),
        data=cfg.Data(
            source="mimic_cxr_jpg", cache=str(tmp_path / "cache"),
            radiographs=cfg.Radiographs(images=str(tmp_path / "data"), cached_side=40),
        ),
    )  # fmt: skip
    (tmp_path / "config.toml").write_text(dump_toml(config))
    command = ["train", "--config", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", command)
    assert main() == 1
    advice = 'data.radiographs.missing_files = "skip"'
    assert f"leave these pairs out with {advice}" in capsys.readouterr().err
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.setattr("sys.argv", [*command, "--set", advice, "--threads", "1"])
    assert main() == 0
    assert 'missing_files = "skip"' in (tmp_path / "run" / "config.toml").read_text()
    assert json.loads((tmp_path / "run" / "data.json").read_text())["training"]["pairs"] == 8
