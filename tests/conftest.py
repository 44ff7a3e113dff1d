"""Fixtures that several files share: phantoms on disk, and an index of them made by the bundle that ships."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcr_infer.phantom.demo import write_demo


def run_cli(*arguments: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run mcr-infer in a process of its own and expect an exit code."""
    command = [sys.executable, "-m", "mcr_infer", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, f"exit {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done


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
