"""Telemetry of other libraries is off in every process, before the first import of a library that has one."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dicoms
import mcr_infer
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.pipeline.decoding import DecodePool
from mcr_infer.sources import PlainFile
from mcr_infer.telemetry import SWITCHES

ROOT = Path(mcr_infer.__file__).parents[1]
PACKAGES = ("mcr_infer", "train", "export", "benchmarks")
TALKATIVE = {
    "onnxruntime", "transformers", "huggingface_hub", "hf_xet", "tokenizers", "timm", "open_clip", "sentence_transformers",
    "ray", "openvino",
}  # fmt: skip
HOSTILE = {
    "ORT_DISABLE_TELEMETRY": "0",
    "HF_HUB_DISABLE_TELEMETRY": "0",
    "DO_NOT_TRACK": "0",
    "RAY_USAGE_STATS_ENABLED": "1",
}


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter that has inherited none of the variables."""
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT, env=kept | variables
    )


def kept_ids(home: Path, code: str, *, count: int, **variables: str) -> str:
    """Run code in an empty home, and return what it said; telemetry that is on keeps an id of the device at once."""
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    for name in ("CI", "GITHUB_ACTIONS", "TF_BUILD", "XDG_CACHE_HOME"):
        kept.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT,
        env=kept | {"HOME": str(home), "TMPDIR": str(home)} | variables,
    )  # fmt: skip
    assert len(list(home.rglob("*deviceid"))) == count
    return done.stderr


def imported(tree: ast.AST) -> set[str]:
    """Top-level names of the modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_module_that_loads_telemetry_lies_below_its_switch():
    sources = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    talkative = {path for path in sources if imported(ast.parse((ROOT / path).read_text())) & TALKATIVE}
    assert {path.parts[0] for path in talkative} == set(PACKAGES)
    for package in PACKAGES[1:]:
        first = next(
            node
            for node in ast.parse((ROOT / package / "__init__.py").read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
        assert ast.unparse(first) == "import mcr_infer"
    # A file that is run by its path is not imported through its package.
    texts = [ROOT / "Makefile", *ROOT.glob("*.md"), *(ROOT / path for path in sources)]
    scripts = {Path(name) for text in texts for name in re.findall(r"python3? (\w+/\w+\.py)", text.read_text())}
    assert scripts == {Path("export/to_trt.py"), Path("benchmarks/demo.py")}
    assert not scripts & talkative


def test_the_switch_itself_loads_nothing_but_the_standard_library():
    for name in ("__init__.py", "telemetry.py"):
        tree = ast.parse((ROOT / "mcr_infer" / name).read_text())
        assert imported(ast.Module(tree.body, [])) <= sys.stdlib_module_names | {"mcr_infer"}


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("variables", [{}, HOSTILE], ids=["unset", "inherited as on"])
def test_importing_a_package_switches_telemetry_off(package: str, variables: dict[str, str]):
    told = python(f"import {package}, os; print({{name: os.environ[name] for name in {list(SWITCHES)}}})", **variables)
    assert ast.literal_eval(told.stdout) == SWITCHES


def test_the_libraries_take_the_switches_for_a_no():
    told = python("import mcr_infer, huggingface_hub.constants as hub; print(hub.HF_HUB_DISABLE_TELEMETRY)", **HOSTILE)
    assert told.stdout == "True\n"


def test_what_a_user_says_of_the_hub_is_kept():
    code = (
        "import mcr_infer, os; print(*(os.environ.get(name) for name in ('HF_HUB_OFFLINE', 'HF_ENDPOINT', 'HF_HOME')))"
    )
    given = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://hub.example.org", "HF_HOME": "/models"}
    assert python(code, **given).stdout == "1 https://hub.example.org /models\n"
    assert python(code, **dict.fromkeys(given, "")).stdout.split() == []


@pytest.mark.parametrize("off", ["1", "true", "Yes", " ON ", "y"])
def test_onnxruntime_keeps_no_device_id_for_this_value(off: str, tmp_path: Path):
    kept_ids(tmp_path, "import onnxruntime", ORT_DISABLE_TELEMETRY=off, count=0)


def test_onnxruntime_imported_after_us_keeps_no_device_id(tmp_path: Path):
    assert kept_ids(tmp_path, "import mcr_infer, onnxruntime", count=0, ORT_DISABLE_TELEMETRY="0") == ""


def test_onnxruntime_imported_before_us_is_warned_of_once(tmp_path: Path):
    code = "import onnxruntime\nimport mcr_infer\nimport mcr_infer.errors, train, export"
    for value in ("", "0", "off", "2"):
        told = kept_ids(tmp_path, code, count=1, ORT_DISABLE_TELEMETRY=value)
        assert told.startswith("<string>:2: TelemetryWarning: onnxruntime was imported before mcr_infer")
        assert told.count("TelemetryWarning") == 1


def test_onnxruntime_imported_before_us_and_off_is_no_warning(tmp_path: Path):
    for value in ("1", "TRUE", "yes"):
        assert kept_ids(tmp_path, "import onnxruntime, mcr_infer", count=0, ORT_DISABLE_TELEMETRY=value) == ""


def environment_of(pid: int) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(os.fsdecode(entry).split("=", 1) for entry in entries if b"=" in entry)


def test_decode_workers_inherit_the_switches(tmp_path: Path):
    path = dicoms.write(tmp_path / "one.dcm", dicoms.picture())
    with DecodePool(Preprocess(image_size=32, patch_size=8), workers=2, slots=4) as pool:
        pool.submit(PlainFile(path=str(path))).result()
        workers = [int(pid) for pid in Path("/proc/self/task").glob("*/children") for pid in pid.read_text().split()]
        environments = [environment_of(pid) for pid in workers]
    assert environments
    assert all(SWITCHES.items() <= environment.items() for environment in environments)


SPAWNED = """
import multiprocessing, os, train
from mcr_infer.telemetry import SWITCHES
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print({name: pool.apply(os.getenv, (name,)) for name in SWITCHES} == SWITCHES)
"""


def test_spawned_processes_of_training_inherit_the_switches(tmp_path: Path):
    script = tmp_path / "spawn.py"
    script.write_text(SPAWNED)
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True,
        env=kept | {"PYTHONPATH": str(ROOT), "ORT_DISABLE_TELEMETRY": "0"},
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_the_contenders_of_benchmarks_inherit_the_switches(tmp_path: Path):
    from benchmarks.networks import OVERLAYS, Networks

    networks = Networks.of(tmp_path, small=True)
    for name in ("open_clip, text", *OVERLAYS):
        assert SWITCHES.items() <= networks.environment(name).items()
