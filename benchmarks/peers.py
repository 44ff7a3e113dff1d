"""What do others need for the same work? The same sentences and radiographs through networks of the same sizes, in turn.

    python -m benchmarks.peers [--quick] [--work DIR]

Sentences go through text towers of BERT-base's size, radiographs (DICOM phantoms of 1,024 pixels) through image towers of
ViT-B/16's, all of random weights: speed does not depend on them, and weights cannot be had offline. Each contender runs in a
process of its own (`benchmarks/contender.py`), in turn, several rounds; one that fails is a line with its reason. Those that
take radiographs also get a negative and a file that is cut off (`benchmarks/odd_files.py`).
Packages whose requirements contradict ours are installed into a folder of their own under --work. Vector engines are
compared in `python -m benchmarks.recall`. --quick leaves out what would have to be exported first.

The last line of stdout is one JSON document.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import large
from benchmarks.contender import IMAGES, TEXT
from benchmarks.harness import Gauge, measure, ratio
from benchmarks.odd_files import SAME, make_odd_files, run_of_ours
from benchmarks.part import Cell, Column, Figure, Options, Part, Plot, Series, Table
from benchmarks.part_command import run_alone
from mcr_infer.phantom.demo import write_demo

OVERLAYS = {
    "fastembed": ("overlay-fastembed", [["fastembed==0.9.1"]]),
    "sentence-transformers, ONNX": (
        "overlay-sentence-transformers",
        [
            ["--no-deps", "optimum-onnx==0.1.0", "optimum==2.1.0", "transformers==4.57.6", "huggingface_hub==0.36.2",
             "tokenizers==0.22.2"],
            ["httpx"],
        ],
    ),
}  # fmt: skip
"""What a contender needs that cannot be installed beside the rest: fastembed and optimum want an older huggingface_hub,
optimum an older transformers."""

_TIMEOUT = 600

ABILITIES = (
    "reads DICOM",
    "MONOCHROME1 comes out right",
    "a bad file does not end the run",
    "goes on after a kill",
    "refuses to mix two models in one index",
    "says so when a GPU that was asked for is not used",
    "without torch",
)
NOT_ONE = "no: it takes vectors"
WHAT_THEY_DO = {
    "mcr-infer": (
        "yes", "yes", "yes", "yes", "yes", "an error", "yes",
        "tests: test_dicom, test_cli, test_embed_run, test_backends, test_imports; the table above",
    ),
    "open_clip": (
        "no: PIL images", "no: left to the caller", "no file handling", "no files, no index", "no index",
        "torch raises", "no",
        "its README: create_model_and_transforms, encode_image, encode_text; the table above",
    ),
    "sentence-transformers": (
        "no: PIL images", "no: left to the caller", "no: one raises for all", "no files, no index", "no index",
        "torch raises", "no",
        "its documentation of encode; tried with 6.2: None among sentences is a ValueError for all",
    ),
    "fastembed": (
        "no: PIL images", "no: left to the caller", "no: one raises for all", "no files, no index", "no index",
        "a warning, and the CPU", "yes",
        "its source: image/onnx_image_model.py opens files of a batch by PIL unguarded, common/onnx_model.py warns",
    ),
    "faiss, usearch": (
        NOT_ONE, NOT_ONE, NOT_ONE, "no: an index is saved as a whole", "no: any vector of the dimension",
        "faiss: separate package", "yes",
        "their documentation (write_index, Index.save); measured in python -m benchmarks.recall",
    ),
    "pydicom + torch": (
        "yes", "only if the script inverts", "only if the script says so", "only if the script says so", "no index",
        "torch raises", "no",
        "benchmarks/plain.py is such a script; the table above",
    ),
}  # fmt: skip
"""By ability, and last how we know: others at the versions of the machine card."""


def prepare(work: Path, *, quick: bool) -> dict[str, str]:
    """Make what the contenders load; return why some cannot take part."""
    radiographs = work / "radiographs"
    if not radiographs.exists():
        made = work / "radiographs.part"
        shutil.rmtree(made, ignore_errors=True)
        for _ in write_demo(made, count=12, seed=0, size=1024):
            pass
        made.rename(radiographs)
    make_odd_files(work)
    if quick:
        absent = "left out of the quick run: its model would have to be exported first"
        needed = {
            "mcr-infer, text": "bert", "sentence-transformers": "sentence_transformers", "open_clip, text": "open_clip",
            "sentence-transformers, ONNX": "sentence_transformers_onnx", "fastembed": "sentence_transformers_onnx",
            "mcr-infer, DICOM": "vitb16",
        }  # fmt: skip
        return {name: absent for name, folder in needed.items() if not (work / folder).exists()}
    bundle = large.make_bundle(work / "bert")
    large.make_sentence_transformers(work / "sentence_transformers", bundle)
    large.make_open_clip(work / "open_clip", bundle)
    large.make_vit(work / "vitb16")
    failed = {}
    for name, (folder, calls) in OVERLAYS.items():
        reason = _install(work / folder, calls)
        if reason is not None:
            failed[name] = reason
    if "sentence-transformers, ONNX" not in failed:
        _export_onnx(work)
    return failed


def _install(folder: Path, calls: Sequence[Sequence[str]]) -> str | None:
    """Install packages into a folder of their own; return why that was not possible."""
    if folder.exists():
        return None
    made = folder.with_suffix(".part")
    shutil.rmtree(made, ignore_errors=True)
    for wanted in calls:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(made), *wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return f"cannot be installed: {(done.stderr.strip().splitlines() or ['pip failed'])[-1][:120]}"
    made.rename(folder)
    return None


def _export_onnx(work: Path) -> None:
    """Let sentence-transformers export its model; fastembed takes the same file."""
    out = work / "sentence_transformers_onnx"
    if out.exists():
        return
    source = work / "sentence_transformers_4"
    shutil.copytree(work / "sentence_transformers", source, dirs_exist_ok=True)
    # The release of transformers that its exporter wants does not know the class that ours wrote.
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    program = (
        "import sys; from sentence_transformers import SentenceTransformer; "
        "SentenceTransformer(sys.argv[1], device='cpu', backend='onnx').save_pretrained(sys.argv[2])"
    )
    environment = _environment(work, "sentence-transformers, ONNX")
    subprocess.run(
        [sys.executable, "-c", program, str(source), str(out)], env=environment, check=True, capture_output=True
    )


def _environment(work: Path, name: str) -> dict[str, str]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if name in OVERLAYS:
        places = [str((work / OVERLAYS[name][0]).resolve()), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
    return environment


def _once(name: str, work: Path, seconds: float) -> dict[str, Any] | str:
    """Run a contender; return what it measured, or why it failed."""
    command = [sys.executable, "-m", "benchmarks.contender", name, "--work", str(work), "--seconds", str(seconds)]
    try:
        done = subprocess.run(
            command, env=_environment(work, name), capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return f"took longer than {_TIMEOUT} s"
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or [f'exit code {done.returncode}'])[-1][:120]}"
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _odd(seen: Mapping[str, Sequence[Mapping[str, Any]]], failed: Mapping[str, str], whole: str) -> Table:
    """Say what became of the odd files; `whole` is the run of our command over all of them."""
    rows: list[tuple[Cell, ...]] = [("mcr-infer embed-images", "as mcr-infer, DICOM", "", whole)]
    for name in IMAGES:
        if name in failed or name not in seen:
            rows.append((name, failed.get(name, "it did not run"), None, None))
            continue
        cosine, cut = seen[name][0]["negative_cosine"], seen[name][0]["cut"]
        rows.append((name, "the same vector" if cosine >= SAME else "another vector", f"{cosine:.4f}", cut))
    return Table(
        title="Odd radiographs, tested here",
        columns=(
            Column(name="contender"),
            Column(name="the same radiograph as MONOCHROME1"),
            Column(name="cosine"),
            Column(name="a file that is cut off"),
        ),
        rows=tuple(rows),
        note="Random weights look alike to each other: what counts is whether the vector is the same.",
    )


def run(options: Options) -> Part:
    """Measure every contender, in turn."""
    started = time.perf_counter()
    work = options.work
    failed: dict[str, str] = prepare(work, quick=options.quick)
    rounds, seconds = (1, 1.0) if options.quick else (3, 3.0)
    seen: dict[str, list[dict[str, Any]]] = {}
    contenders = [*TEXT, *IMAGES]
    with Gauge() as gauge:
        for turn in range(rounds):
            for name in contenders[turn:] + contenders[:turn]:
                if name in failed:
                    continue
                found = _once(name, work, seconds)
                if isinstance(found, str):
                    failed[name] = found
                else:
                    seen.setdefault(name, []).append(found)
            gauge.tick()
        whole = run_of_ours(make_odd_files(work))
    tables, plots, figures = [], [], {}
    for title, names, unit in (("Sentences", TEXT, "sentences/s"), ("Radiographs from DICOM", IMAGES, "radiographs/s")):
        ours = next(iter(names))
        rows: list[tuple[Cell, ...]] = []
        bars = []
        for name in names:
            if name in failed:
                rows.append((name, failed[name], None, None, None))
                continue
            of = {key: [one[key] for one in seen[name]] for key in ("items_per_second", "first_seconds", "peak_mib")}
            base = [] if ours in failed else [one["items_per_second"] for one in seen[ours]]
            rate = measure(of["items_per_second"], seed=options.seed)
            beside = ratio(of["items_per_second"], base, seed=options.seed) if base else None
            rows.append((name, rate, beside, measure(of["first_seconds"]), round(max(of["peak_mib"]))))
            bars.append((name, rate))
            key = f"peers.{name}".replace(" ", "_").replace(",", "")
            figures[f"{key}.rate"] = Figure(measure=rate, unit=unit, better="higher")
            if base and name != ours:
                headline = ""
                if name == "sentence-transformers":
                    headline = "as many sentences a second as sentence-transformers, towers of BERT-base's size"
                over = ratio(base, of["items_per_second"], seed=options.seed)
                figures[f"{key}.ours_over"] = Figure(measure=over, unit="×", better="higher", headline=headline)
            figures[f"{key}.first"] = Figure(measure=measure(of["first_seconds"]), unit="s", better="lower")
        columns = (
            Column(name="contender"),
            Column(name="rate", unit=unit, better="higher"),
            Column(name="over ours", better="higher"),
            Column(name="from nothing to the first vector", unit="s", better="lower"),
            Column(name="peak memory", unit="MiB", better="lower"),
        )
        tables.append(Table(title=title, columns=columns, rows=tuple(rows)))
        if bars:
            points = tuple((float(place), rate.value, rate.low, rate.high) for place, (_, rate) in enumerate(bars))
            plots.append(
                Plot(
                    title=title, kind="bar", x=Column(name="contender"), y=Column(name="rate", unit=unit, better="higher"),
                    series=(Series(name=title.lower(), points=points),), x_names=tuple(name for name, _ in bars),
                )
            )  # fmt: skip
    tables.append(_odd(seen, failed, whole))
    abilities = tuple((name, *cells) for name, cells in WHAT_THEY_DO.items())
    tables.append(
        Table(
            title="What each of them does",
            columns=(Column(name=""), *(Column(name=one) for one in ABILITIES), Column(name="how we know")),
            rows=abilities,
            note="Vector engines are measured in the part on recall.",
        )
    )
    return Part(
        name="peers",
        title="Others at the same work",
        question="How fast are others with networks of the same sizes, and what do they leave to their caller?",
        command="python -m benchmarks.peers",
        tables=tuple(tables),
        plots=tuple(plots),
        figures=figures,
        notes=("Random weights throughout: this compares speed, not what is found.",),
        flags=gauge.flags(),
        seconds=time.perf_counter() - started,
    )


if __name__ == "__main__":
    run_alone(run)
