"""Engines of the bundle that ships in every precision for TensorRT, built by the real TensorRT-RTX, which needs no GPU."""

import hashlib
import re
import shutil
from pathlib import Path

import onnx
import pytest
import tensorrt_rtx

from conftest import json_lines, run_cli
from export.calibration import samples
from export.folder import changed_bundle, write_precision
from export.quantize import RECIPES
from export.to_onnx import write_graph
from mcr_infer.errors import BackendError, BundleError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.engine_build import RTX_ARCHITECTURES, architectures_with, build_engine
from mcr_infer.inference.engines import EngineManifest, find_engine, find_record

SIDES = ("image", "text")
VERSION = tensorrt_rtx.__version__


@pytest.fixture(scope="module")
def lower(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle that ships with fp16, int8-qdq and fp8, not measured; tests must not change it."""
    folder = tmp_path_factory.mktemp("lower") / "shipped"
    shutil.copytree(Bundle.open().path, folder)
    shipped = Bundle.open(folder)
    limits = dict.fromkeys(("max_abs", "local_max_abs", "weights_max_abs"), 0.1) | {"min_cosine": 0.9}
    with changed_bundle(shipped) as changed:
        for precision in ("fp16", "int8-qdq", "fp8"):
            files = {side: f"{side}-{precision}.onnx" for side in SIDES}
            for side, file in files.items():
                # A bundle that ships with the precision has its own files there.
                (changed / file).unlink(missing_ok=True)
                (changed / f"{file}.data").unlink(missing_ok=True)
                graph = onnx.load(shipped.verified_tower(side))
                write_graph(RECIPES[precision].convert(graph, samples(shipped, side, 16)), changed / file)
            entry = {"runtimes": list(RECIPES[precision].runtimes), "one_item": False, "accepted_loss": False}
            write_precision(changed, precision, {**files, **entry, "tolerance": dict.fromkeys(SIDES, limits)})
    return Bundle.open(folder)


@pytest.fixture
def bundle(lower: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the same that a test may change."""
    shutil.copytree(lower.path, tmp_path / "shipped", ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(tmp_path / "shipped")


@pytest.mark.parametrize("sm", RTX_ARCHITECTURES)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("precision", ["fp16", "int8-qdq"])
def test_each_precision_builds_for_each_architecture_with_dynamic_profiles(
    lower: Bundle, precision: str, side: str, sm: str
):
    record = build_engine(lower, side, precision=precision, flavor="rtx", architectures=[sm])
    assert record.file == f"{side}-{precision}-{sm}.rtx.engine"
    names = (f"{side}-{precision}.onnx", f"{side}-{precision}.onnx.data")
    # Weights are stored as they are: an engine that is smaller than them has lost some.
    assert record.bytes > lower.files[names[1]].bytes
    assert record.profile.to_dict() == {
        "batch": "1:8:32",
        "patches": f"1:{lower.preprocess.patch_count}:{lower.preprocess.patch_count}",
        "tokens": f"1:32:{lower.max_tokens}",
    }
    lines = "".join(f"{lower.files[name].sha256}  {name}\n" for name in names)
    assert record.source_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_fp8_builds_where_its_arithmetic_begins_and_nowhere_before(bundle: Bundle):
    for side in SIDES:
        record = build_engine(bundle, side, precision="fp8", flavor="rtx")
        assert record.file == f"{side}-fp8-sm89.rtx.engine"
        assert record.bytes > bundle.files[f"{side}-fp8.onnx.data"].bytes
    build_engine(bundle, "text", precision="fp8", flavor="rtx", architectures=["sm89", "sm120"])
    words = (
        "sm80, sm86 have no arithmetic in fp8, which begins with sm89: choose another --precision there, such as int8-"
    )
    with pytest.raises(BackendError, match=words):
        build_engine(bundle, "image", precision="fp8", flavor="rtx", architectures=["sm80", "sm86", "sm89"])
    assert architectures_with("fp8", "rtx", ["sm75", "sm121"]) == ("sm121",)
    assert architectures_with("int8-qdq", "rtx", ()) == RTX_ARCHITECTURES


def test_what_is_not_named_is_left_out_where_it_cannot_run_and_says_so(bundle: Bundle):
    done = run_cli("build-engine", bundle.path, "--flavor", "rtx", "--arch", "sm86", "--tower", "text", "--json")
    assert [entry["file"] for entry in json_lines(done.stdout)] == [
        f"text-{precision}-sm86.rtx.engine" for precision in ("fp32", "fp16", "int8-qdq")
    ]
    assert "fp8 is left out: its arithmetic begins with sm89" in done.stderr
    assert f"mcr-infer verify {bundle.path} --device tensorrt-rtx --precision int8-qdq" in done.stderr
    named = ("build-engine", bundle.path, "--flavor", "rtx", "--arch", "sm86", "--precision", "fp8")
    assert "sm86 have no arithmetic in fp8" in run_cli(*named, code=1).stderr


@pytest.mark.parametrize("precision", ["fp16", "int8-qdq"])
def test_a_changed_engine_or_another_version_architecture_or_graph_is_refused(bundle: Bundle, precision: str):
    record = build_engine(bundle, "text", precision=precision, flavor="rtx", architectures=["sm86"])

    def find(sm: str = "sm86", version: str = VERSION) -> Path:
        return find_engine(bundle, "text", precision, sm, version, flavor="rtx", unverified=True)

    path = find()
    assert path.name == f"text-{precision}-sm86.rtx.engine"
    with pytest.raises(BackendError, match="built for sm86, this GPU is sm80"):
        find("sm80")
    with pytest.raises(BackendError, match=re.escape(f"built with version {VERSION}, installed is 1.8.0.1")):
        find(version="1.8.0.1")
    with pytest.raises(BackendError, match="its parity was never measured on sm86"):
        find_record(bundle, "text", precision, "sm86", VERSION, flavor="rtx")
    with pytest.raises(BackendError, match=r"no rtx engine of its text tower in fp8.*none was built"):
        find_record(bundle, "text", "fp8", "sm86", VERSION, flavor="rtx")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    command = f"--tower text --precision {precision} --flavor rtx --arch sm86"
    with pytest.raises(BackendError, match=f"is damaged or was changed.*{command}"):
        find()
    assert EngineManifest.read(bundle).engines == (record,)
    weights = bundle.path / f"text-{precision}.onnx.data"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=rf"text-{precision}\.onnx\.data is damaged"):
        build_engine(bundle, "text", precision=precision, flavor="rtx", architectures=["sm86"])


def test_dynamic_int8_of_the_cpu_is_not_taken(bundle: Bundle):
    limits = dict.fromkeys(("max_abs", "local_max_abs", "weights_max_abs"), 0.1) | {"min_cosine": 0.9}
    with changed_bundle(bundle) as changed:
        files = {side: f"{side}-int8.onnx" for side in SIDES}
        for side, file in files.items():
            (changed / file).unlink(missing_ok=True)
            (changed / f"{file}.data").unlink(missing_ok=True)
            write_graph(RECIPES["int8"].convert(onnx.load(bundle.verified_tower(side)), ()), changed / file)
        entry = {"runtimes": ["cpu"], "one_item": True, "accepted_loss": False}
        write_precision(changed, "int8", {**files, **entry, "tolerance": dict.fromkeys(SIDES, limits)})
    with pytest.raises(BackendError, match=r"does not take the operators .*DynamicQuantizeLinear.*another --precision"):
        build_engine(Bundle.open(bundle.path), "text", precision="int8", flavor="rtx")
