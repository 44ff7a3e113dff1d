import json
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import ConfigError
from train.plot import draw, main, read_metrics, whole_spans


def train_line(step: int, *, masked: bool = True, **changes: float) -> dict[str, object]:
    parts = {"image": 1.0 / step, "report": 4.0} if masked else {}
    return {
        "kind": "train", "step": step, "loss": 6.0, "contrastive": 5.0 - step / 100, **parts, "rate": 1e-3, "waited": 0.01,
        "seconds": 1.5,
    } | changes  # fmt: skip


def evaluation_line(step: int, value: float) -> dict[str, object]:
    ways = ("image_to_report", "report_to_image")
    return {"kind": "evaluation", "step": step} | {f"{way}_r{k}": value * k / 10 for way in ways for k in (1, 5, 10)}


LINES = [
    *(train_line(step) for step in (10, 20, 30, 40)),
    evaluation_line(40, 0.5),
    *(train_line(step, masked=False, seconds=2.5) for step in (50, 60)),
    evaluation_line(60, 0.8),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "short"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return folder


def test_every_panel_shows_its_values(run: Path):
    figure = draw(read_metrics(run), "short")
    losses, recall, rate, seconds = figure.axes
    drawn = {line.get_label(): line for line in losses.lines}
    assert list(drawn) == ["contrastive (nats)", "image (squared error)", "report (nats)"]
    assert drawn["contrastive (nats)"].get_xdata().tolist() == [10, 20, 30, 40, 50, 60]
    assert drawn["contrastive (nats)"].get_ydata().tolist() == pytest.approx([4.9, 4.8, 4.7, 4.6, 4.5, 4.4])
    assert drawn["image (squared error)"].get_xdata().tolist() == [10, 20, 30, 40]
    assert len(recall.lines) == 6
    ten = next(line for line in recall.lines if line.get_label() == "R@10 image → report")
    assert ten.get_xdata().tolist() == [40, 60]
    assert ten.get_ydata().tolist() == pytest.approx([50.0, 80.0])
    assert rate.lines[0].get_ydata().tolist() == [1e-3] * 6
    assert seconds.lines[0].get_ydata().tolist() == [1.5] * 4 + [2.5] * 2
    assert [axes.get_title() for axes in figure.axes] == [
        "Losses, unweighted", "Held-out pairs", "Learning rate", "Time",
    ]  # fmt: skip
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "recall (%)", "learning rate", "seconds a step"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "step", "step"]
    # Each panel is grey where inputs were whole.
    for axes in figure.axes:
        (span,) = axes.patches
        assert (span.get_x(), span.get_width()) == (45.0, 15.0)
    assert "whole inputs" in [text.get_text() for text in losses.get_legend().get_texts()]


def test_spans_of_whole_inputs():
    masks = [True, False, False, True, False]
    lines = [train_line(10 * (i + 1), masked=masked) for i, masked in enumerate(masks)]
    assert whole_spans(lines) == [(15.0, 30), (45.0, 50)]
    assert whole_spans(lines[1:3]) == [(0.0, 30)]
    assert whole_spans(lines[:1]) == []


def test_the_command_writes_a_picture(run: Path, capsys: pytest.CaptureFixture[str]):
    from PIL import Image

    assert main([str(run)]) == 0
    out = run / "metrics.png"
    assert capsys.readouterr().out.strip() == str(out)
    with Image.open(out) as picture:
        assert picture.size == (1320, 840)
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert [0xE6, 0xE6, 0xE6] in colours.tolist()


def test_a_run_without_evaluations_or_still_writing_is_drawn(run: Path):
    path = run / "metrics.jsonl"
    path.write_text(json.dumps(LINES[0]) + "\n" + '{"kind": "train", "st')
    lines = read_metrics(path)
    assert lines == [LINES[0]]
    figure = draw(lines, "begun")
    assert [text.get_text() for text in figure.axes[1].texts] == ["no evaluation yet"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read"),
        ("", "holds no training step yet"),
        ('{"kind": "train"\n{"kind": "train", "step": 2}\n', "line 1 is not JSON"),
    ],
)
def test_what_cannot_be_drawn_is_an_error_in_one_line(
    content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ConfigError, match=words):
        read_metrics(tmp_path if content is not None else tmp_path / "metrics.jsonl")
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("error: ")
