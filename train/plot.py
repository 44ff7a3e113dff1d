"""`python -m train.plot RUN`: the log of a run as one figure: losses, recall, learning rate, seconds a step.

The figure is drawn from `metrics.jsonl` alone, while the run goes on, too. Steps that saw whole inputs, recognised by their
missing reconstruction losses, lie on grey.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.cli import streams
from mcr_infer.errors import ConfigError, McrError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METRICS = "metrics.jsonl"

_LOSSES = {"contrastive": ("nats", "#1b6ca8"), "image": ("squared error", "#d1750c"), "report": ("nats", "#2e8b57")}
_RECALL = {1: "#1b6ca8", 5: "#d1750c", 10: "#2e8b57"}
_WAYS = {"image_to_report": ("image → report", "-"), "report_to_image": ("report → image", "--")}
_GREY = "#e6e6e6"

Line = dict[str, Any]


def read_metrics(path: Path) -> list[Line]:
    """Read the lines of a log, or of the log in a run folder; a last line that is not finished yet is left out.

    Raises `ConfigError` when there is no log, when it is damaged, or when it holds no training step.
    """
    path = path / METRICS if path.is_dir() else path
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read ({exc.strerror}): name a run folder that holds {METRICS}") from exc
    lines: list[Line] = []
    rows = text.splitlines()
    for number, row in enumerate(rows, start=1):
        try:
            lines.append(json.loads(row))
        except json.JSONDecodeError as exc:
            if number == len(rows) and not text.endswith("\n"):
                break  # The run is writing it right now, or was killed while it did.
            raise ConfigError(f"{path}: line {number} is not JSON ({exc})") from exc
    if not any(line.get("kind") == "train" for line in lines):
        raise ConfigError(f"{path} holds no training step yet: it has {len(lines)} lines")
    return lines


def whole_spans(lines: Sequence[Line]) -> list[tuple[float, float]]:
    """Return the spans of steps (first, last) that saw whole inputs: training lines without a reconstruction loss.

    A span begins halfway between the last masked line and its own first one: where exactly, the log does not say.
    """
    spans: list[tuple[float, float]] = []
    before, inside = 0, False
    for line in (line for line in lines if line["kind"] == "train"):
        whole = "image" not in line and "report" not in line
        if whole and not inside:
            spans.append(((before + line["step"]) / 2 if before else 0.0, line["step"]))
        elif whole:
            spans[-1] = (spans[-1][0], line["step"])
        before, inside = line["step"], whole
    return spans


def draw(lines: Sequence[Line], title: str) -> "Figure":
    """Draw the four panels of a log."""
    # Imported here, so that --help does not wait for it; without pyplot there is no display and no state.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 7.0), dpi=120, layout="constrained")
    figure.suptitle(title, fontsize=12)
    (losses, recall), (rate, seconds) = figure.subplots(2, 2, sharex=True)
    training = [line for line in lines if line["kind"] == "train"]
    evaluations = [line for line in lines if line["kind"] == "evaluation"]

    for name, (unit, colour) in _LOSSES.items():
        _plot(losses, training, name, label=f"{name} ({unit})", color=colour)
    losses.set(title="Losses, unweighted", ylabel="loss", yscale="log")
    _plain_log(losses)

    for k, colour in _RECALL.items():
        for way, (words, style) in _WAYS.items():
            _plot(
                recall,
                evaluations,
                f"{way}_r{k}",
                100.0,
                label=f"R@{k} {words}",
                color=colour,
                linestyle=style,
                marker=".",
            )
    recall.set(title="Held-out pairs", ylabel="recall (%)", ylim=(0, 100))
    if not recall.lines:
        recall.text(0.5, 0.5, "no evaluation yet", transform=recall.transAxes, ha="center", color="#666666")

    _plot(rate, training, "rate", color="#1b6ca8")
    rate.set(title="Learning rate", ylabel="learning rate", xlabel="step")
    rate.set_ylim(bottom=0)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))

    for name, words, colour in (("seconds", "step", "#1b6ca8"), ("waited", "waiting for data", "#d1750c")):
        steps, values = _series(training, name)
        seconds.plot(steps, values, linestyle="none", marker=".", markersize=3, alpha=0.35, color=colour)
        seconds.plot(steps, _running_median(values), color=colour, label=f"{words}, running median")
    seconds.set(title="Time", ylabel="seconds a step", xlabel="step")
    seconds.set_ylim(bottom=0)

    spans = whole_spans(lines)
    for panel in (losses, recall, rate, seconds):
        for first, last in spans:
            panel.axvspan(first, last, color=_GREY, zorder=0, label="whole inputs" if panel is losses else None)
        panel.grid(visible=True, color="#d8d8d8", linewidth=0.6)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(0, max(line["step"] for line in lines))
        if any(not each.get_label().startswith("_") for each in panel.lines):
            panel.legend(fontsize=8, frameon=False, ncols=2 if panel is recall else 1)
    return figure


def _plot(panel: "Axes", lines: Sequence[Line], name: str, factor: float = 1.0, **style: Any) -> None:
    """Draw one value over the steps that have it; where the log pauses, so does the line."""
    steps, values = _series(lines, name)
    if len(steps):
        panel.plot(steps, factor * values, linewidth=1.4, **style)


def _series(lines: Sequence[Line], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values [n] of the lines that have a value of this name."""
    found = [(line["step"], line[name]) for line in lines if name in line]
    table = np.array(found, dtype=np.float64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _running_median(values: NDArray[np.float64], width: int = 9) -> NDArray[np.float64]:
    """Return the median of up to `width` neighbours of each value [n]; at the ends there are fewer."""
    half = width // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _plain_log(panel: "Axes") -> None:
    """Label a logarithmic axis with plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    panel.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(ScalarFormatter())
    panel.yaxis.set_minor_formatter(NullFormatter())


def main(arguments: list[str] | None = None) -> int:
    """Read, draw, save, and turn our own errors into exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m train.plot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help=f"run folder, or a file like its {METRICS}")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.png", help="where to write (default: metrics.png beside the log)"
    )
    options = parser.parse_args(arguments)
    folder = options.run if options.run.is_dir() else options.run.parent
    out = options.out or folder / "metrics.png"
    try:
        figure = draw(read_metrics(options.run), options.run.name)
    except McrError as exc:
        streams.say(f"error: {exc}", to_stderr=True)
        return 1
    figure.savefig(out)
    streams.say(str(out))
    return 0


if __name__ == "__main__":
    streams.run(main)
