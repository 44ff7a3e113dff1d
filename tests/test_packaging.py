"""What is promised around the wheel: the folder for machines without a network, and the images that are made of it.

The wheelhouse itself is made and installed without a network by `.ci/wheel-smoke`.
"""

import fnmatch
import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.parametrize("extras", ["codecs", "cpu,gpu", "gpu,codecs,cpu", ""])
def test_a_wheelhouse_has_exactly_one_runtime(extras):
    done = make("wheelhouse", f"EXTRAS={extras}", "WHEELHOUSE=/nonexistent")
    assert done.returncode == 2
    assert f"EXTRAS={extras}: name one of cpu and gpu, and not both" in done.stderr
    assert "pip" not in done.stdout


def test_hnswlib_is_compiled_for_any_processor_and_never_taken_from_a_cache():
    told = make("--dry-run", "--always-make", "wheelhouse", "EXTRAS=gpu,codecs", "WHEELHOUSE=/nonexistent").stdout
    (compiled,) = [line for line in told.splitlines() if "wheel" in line and line.endswith(" hnswlib")]
    assert compiled.startswith("HNSWLIB_NO_NATIVE=1 ")
    assert "--no-cache-dir" in compiled
    assert "--only-binary hnswlib" in told
    assert "[gpu,codecs]" in told


def instructions(name: str) -> list[tuple[str, list[str]]]:
    text = (ROOT / name).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], shlex.split(line)[1:]) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]


def ignored(path: str) -> bool:
    """Judge a path of the checkout as .dockerignore does: the last line that matches decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch.fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            verdict = not line.startswith("!")
    return verdict


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_is_made_of_files_and_targets_that_exist(name):
    steps = instructions(name)
    taken = [part for kind, parts in steps if kind == "COPY" and "--from=build" not in parts for part in parts[:-1]]
    assert all((ROOT / path).exists() and not ignored(path) for path in taken)
    assert ignored("wheelhouse/x.whl")
    assert ignored(".venv-dev/bin/python")
    assert ignored("demo/dicoms")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    needed = [project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml", "Makefile"]
    assert set(needed + project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(taken)
    (extras,) = [parts[0].removeprefix("EXTRAS=") for kind, parts in steps if kind == "ARG"]
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert ["make", "wheelhouse", "EXTRAS=$EXTRAS"] in [parts for kind, parts in steps if kind == "RUN"]
    entry = [parts for kind, parts in steps if kind == "ENTRYPOINT"]
    assert entry == [["[mcr-infer]"]]
    assert "mcr-infer" in project["project"]["scripts"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_last_stage_has_no_compiler_no_network_and_no_root(name):
    steps = instructions(name)
    last = steps[max(place for place, (kind, _) in enumerate(steps) if kind == "FROM") :]
    commands = " ".join(" ".join(parts) for kind, parts in last if kind == "RUN")
    assert not re.search(r"apt-get|pip|curl|wget", commands)
    assert [parts for kind, parts in last if kind == "USER"] == [["mcr"]]
    assert "useradd --create-home --uid 1000 mcr" in commands
    assert [parts[0] for kind, parts in steps if kind == "FROM"] == ["python:3.11-slim-bookworm"] * 2
    assert "Not built by us yet" in (ROOT / name).read_text(encoding="utf-8")
