"""Fixtures that several files share: phantoms on disk, their index by the bundle that ships, a bundle of a small MCR."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import HealthCheck, settings
from typer.testing import CliRunner

from mcr_infer.cli.app import app
from mcr_infer.errors import McrError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.phantom.demo import write_demo

# How long an example takes depends on what else the machine does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Give each worker of pytest-xdist its share of the cores; by default, each would start an OpenMP thread per core."""
    if workers := config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Generator[None, bool | None, bool | None]:
    """Undo `torch.set_num_threads`, which benchmarks and commands call: on busy cores it slows later tests down tenfold."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        return (yield)
    finally:
        if torch is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)


def run_cli(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run mcr-infer in a process of its own and expect an exit code."""
    command = [sys.executable, "-m", "mcr_infer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


def invoke(*arguments: str | Path, code: int = 0, input: str | None = None) -> Result:
    """Run mcr-infer in this process, which is faster, where a process of its own would prove nothing more."""
    done = CliRunner().invoke(app, list(map(str, arguments)), input=input)
    if isinstance(done.exception, McrError):  # which `main` maps
        done.exit_code = done.exception.exit_code
        done.stderr_bytes += f"error: {done.exception}\n".encode()
    elif done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == code, f"exit {done.exit_code}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


def words(text: str) -> str:
    """Take the frame and the line breaks out of what wrong usage prints."""
    return " ".join(text.replace("│", " ").split())


def json_lines(text: str) -> list[dict]:
    """Parse output of --json."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantoms as DICOM with truth.csv; tests must not change it."""
    folder = tmp_path_factory.mktemp("phantoms") / "dicoms"
    for _ in write_demo(folder, count=24, seed=500, size=256):
        pass
    return folder


@pytest.fixture(scope="session")
def phantom_index(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the phantoms and their reports; tests must not change it."""
    index = tmp_path_factory.mktemp("index") / "mcr-index"
    run_cli("embed-images", phantom_folder, "--index", index)
    run_cli("embed-reports", phantom_folder / "truth.csv", "--index", index)
    return index


@pytest.fixture(scope="module")
def few_texts() -> Iterator[None]:
    """Train the tokenizers of runs in this process on 1,000 phantom texts: 20,000 take longer than a tiny run."""
    from train.data import opening

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "TOKENIZER_TEXTS", 1_000)
        yield


@pytest.fixture(scope="session")
def kept_index(phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the phantoms with their patches; tests must not change it."""
    index = tmp_path_factory.mktemp("kept") / "index"
    run_cli("embed-images", phantom_folder, "--index", index, "--keep-locals")
    return index


@pytest.fixture(scope="session")
def foreign_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Bundle]]:
    """By kind, a small model as its library saves it, and our bundle of it; tests must not change them."""
    from foreign_bundles import made_once

    return made_once(tmp_path_factory)


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small MCR as a bundle in fp32 alone, its weights never trained; an engine lies in it. Tests must not change it."""
    import torch

    from export.to_onnx import export_bundle
    from mcr_infer.inference.tokenizer import train_tokenizer
    from tiny import SENTENCES
    from train.config import Config
    from train.model import MCR
    from train.settings import parse

    folder = tmp_path_factory.mktemp("small")
    config = parse(
        Config,
        {
            "model": {
                "image": {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "heads": 2},
                "text": {"vocab_size": 90, "max_tokens": 24, "width": 16, "depth": 1, "heads": 2},
                "space": {"embedding_dim": 12, "scorer_width": 8},
                "decoders": {"image_width": 12, "image_heads": 2, "report_heads": 2},
            }
        },
    )
    torch.manual_seed(0)
    model = MCR(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    train_tokenizer(SENTENCES, 90).save(str(folder / "tokenizer.json"))
    bundle = export_bundle(
        model, folder / "small", preprocess=config.model.preprocess, tokenizer=folder / "tokenizer.json",
        max_tokens=24, name="small", created="2026-11-23",
    )  # fmt: skip
    (bundle.path / "engines").mkdir()
    (bundle.path / "engines" / "image-fp32-sm86.engine").write_bytes(b"engine")
    return bundle
