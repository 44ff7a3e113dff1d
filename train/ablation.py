"""What each part of the method brings: a grid of short training runs on phantoms, alike but for one or two values.

    python -m train.ablation                       # makes what is missing, seed by seed; may be killed at any time
    python -m train.ablation --seeds 0 --only mcr dual_stream
    python -m train.ablation --summary             # no training: the tables, from the runs that are there

A finished run is one line of train/results/proof_runs.jsonl and is never made again; one that was killed goes on from its
checkpoint in the folder given by --runs. The summary over seeds is train/results/proof.json, with the time and memory
ratios that benchmarks.frameworks measured.
"""

import argparse
import hashlib
import json
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).parent
BASE = ROOT / "configs" / "proof.toml"
RUNS = ROOT / "results" / "proof_runs.jsonl"
SUMMARY = ROOT / "results" / "proof.json"
FRAMEWORKS = ROOT / "results" / "frameworks.json"

KINDS = ("attention", "mean", "max", "gem")
IMAGE_RATIOS = (0.0, 0.25, 0.5, 0.75, 0.9)
TEXT_RATIOS = (0.0, 0.15, 0.3, 0.5)
ALONE = {"contrastive": ("image", "report"), "image": ("contrastive", "report"), "report": ("contrastive", "image")}

TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "frameworks": {
        "mcr": (),
        "dual_stream": ("framework=dual_stream",),
    },
    "mapping": {
        f"{order}-{kind}": (f"model.space.mapping={order}", f"model.space.aggregation={kind}")
        for kind in KINDS
        for order in ("before", "after")
    },
    "image mask ratio": {f"image-{ratio}": (f"masking.image_ratio={ratio}",) for ratio in IMAGE_RATIOS},
    "text mask ratio": {f"text-{ratio}": (f"masking.text_ratio={ratio}",) for ratio in TEXT_RATIOS},
    "unmasked phase": {"with": (), "without": ("optim.unmasked_steps=0",)},
    # Reconstruction alone has no use for whole inputs: those runs stay masked to the end.
    "losses": {
        "all": (),
        **{
            f"{name} alone": (
                *(f"loss.{other}_weight=0.0" for other in others),
                *(() if name == "contrastive" else ("optim.unmasked_steps=0",)),
            )
            for name, others in ALONE.items()
        },
    },
}
"""Each table: rows and what they change of the base. The same changes are the same run, whatever their names."""


def main() -> int:
    """Make the runs that are missing, then write the summary and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m train.ablation", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=None, metavar="ROW", help="rows of the tables, such as image-0.75")
    parser.add_argument("--runs", type=Path, default=Path("runs/proof"), help="where unfinished runs lie")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--summary", action="store_true", help="train nothing")
    options = parser.parse_args()
    tables = with_equal_time(TABLES)
    if not options.summary:
        chosen = {changes for rows in tables.values() for name, changes in rows.items() if _asked(name, options.only)}
        for seed in options.seeds:
            for changes in sorted(chosen):
                make_run(changes, seed, options.runs, options.threads)
    finished = read_runs()
    summary = summarise(tables, finished)
    SUMMARY.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print("\n\n".join(table(name, rows) for name, rows in summary["tables"].items()))
    return 0


def with_equal_time(tables: dict[str, dict[str, tuple[str, ...]]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Add the dual stream stopped, its schedule shortened, where MCR would be done: by the measured seconds a step.

    In the unmasked phase both take the same pass; it costs what the dual stream takes longer than MCR in the masked one.
    """
    from train.config import load_config

    measured = json.loads(FRAMEWORKS.read_text(encoding="utf-8"))["proof"]
    mcr, dual = measured["mcr"]["seconds"], measured["dual_stream"]["seconds"]
    optim = load_config(BASE).optim
    share = optim.unmasked_steps / optim.steps
    whole = share * (dual - mcr)
    ratio = ((1.0 - share) * mcr + whole) / ((1.0 - share) * dual + whole)
    lengths = ("steps", "warmup_steps", "unmasked_steps")
    shorter = tuple(f"optim.{name}={round(getattr(optim, name) * ratio)}" for name in lengths)
    row = {"dual_stream, equal time": ("framework=dual_stream", *shorter)}
    return tables | {"frameworks": tables["frameworks"] | row}


def make_run(changes: tuple[str, ...], seed: int, runs: Path, threads: int) -> None:
    """Train one run, unless it is finished, and append its figures."""
    import torch
    from rich.console import Console

    from train.checkpoint import METRICS
    from train.config import load_config
    from train.loop import train

    changes = effective(changes)
    key = run_key(changes, seed)
    if key in read_runs():
        return
    torch.set_num_threads(threads)
    config = load_config(BASE, [*changes, f"run.seed={seed}"])
    print(f"seed {seed}: {' '.join(changes) or 'the base'}", file=sys.stderr, flush=True)
    train(config, runs / key, console=Console(quiet=True))
    lines = [json.loads(line) for line in (runs / key / METRICS).read_text(encoding="utf-8").splitlines()]
    training = [line for line in lines if line["kind"] == "train"]
    losses = {name: line[name] for line in training for name in ("contrastive", "image", "report") if name in line}
    recall = {name: value for name, value in lines[-1].items() if name.startswith(("image_to", "report_to"))}
    facts = {"key": key, "changes": changes, "seed": seed, "steps": config.optim.steps, "losses": losses, **recall}
    with RUNS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(facts) + "\n")


def effective(changes: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out changes that change nothing: the base is one run, whichever table asks for it."""
    from train.config import load_config

    base = load_config(BASE)
    return tuple(change for change in changes if load_config(BASE, [change]) != base)


def run_key(changes: tuple[str, ...], seed: int) -> str:
    """Name a run by what it was told: the base configuration, what is changed of it, and the seed."""
    text = "\n".join([BASE.read_text(encoding="utf-8"), *sorted(changes), str(seed)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def read_runs() -> dict[str, dict[str, object]]:
    """Return the finished runs by their names."""
    if not RUNS.exists():
        return {}
    lines = RUNS.read_text(encoding="utf-8").splitlines()
    return {run["key"]: run for run in map(json.loads, lines)}


def summarise(tables: dict[str, dict[str, tuple[str, ...]]], finished: dict[str, dict[str, object]]) -> dict:  # type: ignore[type-arg]
    """Average every row over its seeds; recall in per cent, with the standard deviation over seeds."""
    frameworks = json.loads(FRAMEWORKS.read_text(encoding="utf-8"))
    found = {}
    for title, rows in tables.items():
        found[title] = {name: _row(effective(changes), finished) for name, changes in rows.items()}
    return {
        "time_ratio": frameworks["proof"]["time_ratio"],
        "memory_ratio": frameworks["proof"]["memory_ratio"],
        "retrieval": {name: found["frameworks"][name] for name in found["frameworks"]},
        "measured": frameworks,
        "tables": found,
    }


def _row(changes: tuple[str, ...], finished: dict[str, dict[str, object]]) -> dict[str, object]:
    """Collect the seeds of one row."""
    runs = [run for run in finished.values() if run["key"] == run_key(changes, int(str(run["seed"])))]
    row: dict[str, object] = {"changes": changes, "seeds": sorted(int(str(run["seed"])) for run in runs)}
    if not runs:
        return row
    row["steps"] = runs[0]["steps"]
    for direction in ("image_to_report", "report_to_image"):
        for k in (1, 5, 10):
            values = [100.0 * float(str(run[f"{direction}_r{k}"])) for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            row[f"{direction}_r{k}"] = {
                "mean": round(statistics.mean(values), 1),
                "sd": None if spread is None else round(spread, 1),
            }
    return row


def table(title: str, rows: dict[str, dict[str, object]]) -> str:
    """Write one table in Markdown."""
    head = f"### {title}\n\n| | seeds | R@1 i→r | R@10 i→r | R@1 r→i | R@10 r→i |\n|---|---|---|---|---|---|"
    lines = []
    for name, row in rows.items():
        cells = []
        for column in ("image_to_report_r1", "image_to_report_r10", "report_to_image_r1", "report_to_image_r10"):
            value = row.get(column)
            if not isinstance(value, dict):
                cells.append("")
            else:
                cells.append(f"{value['mean']:.1f}" + ("" if value["sd"] is None else f" ± {value['sd']:.1f}"))
        seeds = row["seeds"]
        assert isinstance(seeds, list)
        lines.append(f"| {name} | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join([head, *lines])


def _asked(name: str, only: list[str] | None) -> bool:
    return only is None or name in only


if __name__ == "__main__":
    sys.exit(main())
