import io
import json
import sys
from datetime import datetime

import pytest
import torch
from rich.console import Console

from mcr_infer.errors import ConfigError
from runs import copied, read_metrics, resumed, same_state, tiny, untimed
from train import loop
from train.loop import train
from train.progress import progress_bar
from train.threads import advise_threads, compare_threads
from train.training_log import TrainingLog

pytestmark = pytest.mark.usefixtures("few_texts")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def finished(cache, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "straight"
    resumed(tiny(cache), run)
    return run


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
