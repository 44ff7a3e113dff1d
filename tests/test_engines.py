"""Engines with the real TensorRT-RTX, which builds without a GPU; nothing here can run one."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tensorrt_rtx

from conftest import json_lines
from mcr_infer.errors import BackendError, BundleError, ConfigError
from mcr_infer.inference import tensorrt_api
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.engine_build import RTX_ARCHITECTURES, build_engine
from mcr_infer.inference.engine_profile import Profile, Span
from mcr_infer.inference.engines import EngineManifest, EngineRecord, admit, discard, find_engine, source_digest
from mcr_infer.inference.tensorrt_api import import_flavor
from mcr_infer.inference.tensorrt_tower import TensorRTTower, open_engine
from mcr_infer.inference.verify import verify_engines
from tiny import TEXT_GRAPH, tiny_bundle

ROOT = Path(__file__).parents[1]
VERSION = tensorrt_rtx.__version__
PARITY = {"max_abs": 1e-6, "min_cosine": 1.0}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with an engine of each tower for three architectures; tests must not change it."""
    bundle = tiny_bundle(tmp_path_factory.mktemp("built") / "tiny")
    for side in ("image", "text"):
        build_engine(bundle, side, flavor="rtx")
    return bundle


@pytest.fixture
def bundle(built: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the same that a test may change."""
    shutil.copytree(built.path, tmp_path / "a bundle")
    return Bundle.open(tmp_path / "a bundle")


def find(bundle: Bundle, sm: str = "sm86", version: str = VERSION, *, unverified: bool = True) -> Path:
    return find_engine(bundle, "image", "fp32", sm, version, flavor="rtx", unverified=unverified)


def test_the_engines_of_both_towers_serve_the_three_architectures(built: Bundle):
    manifest = EngineManifest.read(built)
    assert [record.file for record in manifest.engines] == [
        "image-fp32-sm80-sm86-sm89.rtx.engine",
        "text-fp32-sm80-sm86-sm89.rtx.engine",
    ]
    assert RTX_ARCHITECTURES == ("sm80", "sm86", "sm89")
    for record in manifest.engines:
        content = manifest.path(record).read_bytes()
        assert (record.bytes, record.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert (record.precision, record.flavor, record.runtime_version) == ("fp32", "rtx", VERSION)
        assert record.architectures == RTX_ARCHITECTURES
        assert record.profile == Profile.of(built)
        assert not record.verified
        graph = built.files[f"{record.tower}.onnx"].sha256
        assert record.source_sha256 == hashlib.sha256(f"{graph}  {record.tower}.onnx\n".encode()).hexdigest()
        for sm in RTX_ARCHITECTURES:
            path = find_engine(built, record.tower, "fp32", sm, VERSION, flavor="rtx", unverified=True)
            assert path == built.path / "engines" / record.file


@pytest.mark.parametrize("sm", ["sm80", "sm86", "sm89"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_the_bundle_that_ships_builds_for_each_architecture(tmp_path: Path, side: str, sm: str):
    shutil.copytree(Bundle.open().path, tmp_path / "shipped")
    shipped = Bundle.open(tmp_path / "shipped")
    record = build_engine(shipped, side, flavor="rtx", architectures=[sm])
    assert record.file == f"{side}-fp32-{sm}.rtx.engine"
    graph = sum(size.bytes for name, size in shipped.files.items() if name.startswith(f"{side}.onnx"))
    # fp32 weights are stored as they are: the engine is smaller than the graph only if it lost some.
    assert record.bytes > 0.9 * graph
    profile = record.profile.to_dict()
    most = shipped.preprocess.patch_count, shipped.max_tokens
    assert profile == {"batch": "1:8:32", "patches": f"1:{most[0]}:{most[0]}", "tokens": f"1:32:{most[1]}"}


def test_an_engine_with_one_changed_byte_is_refused_with_the_command_that_mends_it(bundle: Bundle):
    path = find(bundle)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BackendError, match="is damaged or was changed") as refused:
        find(bundle)
    command = (
        f"mcr-infer build-engine '{bundle.path}' --tower image --precision fp32 --flavor rtx --arch sm80,sm86,sm89"
    )
    assert str(refused.value).endswith(command)
    path.unlink()
    with pytest.raises(BackendError, match="No such file or directory"):
        find(bundle)
    build_engine(bundle, "image", flavor="rtx")
    assert find(bundle) == path


def test_another_architecture_or_version_is_refused(bundle: Bundle):
    with pytest.raises(BackendError, match="built for sm80, sm86, sm89, this GPU is sm120") as refused:
        find(bundle, "sm120")
    assert str(refused.value).endswith("--tower image --precision fp32 --flavor rtx --arch sm120")
    with pytest.raises(BackendError, match=re.escape(f"built with version {VERSION}, installed is 1.8.0.1")):
        find(bundle, version="1.8.0.1")
    with pytest.raises(BackendError, match=r"no tensorrt engine of its image tower in fp32 for sm86.*none was built"):
        find_engine(bundle, "image", "fp32", "sm86", VERSION)
    with pytest.raises(BundleError, match="no towers in fp16"):
        find_engine(bundle, "image", "fp16", "sm86", VERSION)


def test_an_engine_of_another_graph_is_refused(bundle: Bundle, tmp_path: Path):
    other = tiny_bundle(tmp_path / "other", text_graph=TEXT_GRAPH.replace("there", "here"))
    shutil.copytree(bundle.path / "engines", other.path / "engines")
    assert source_digest(other, "text", "fp32") != source_digest(bundle, "text", "fp32")
    with pytest.raises(BackendError, match="built from another graph"):
        find_engine(other, "text", "fp32", "sm86", VERSION, flavor="rtx", unverified=True)
    # Its image tower is the same graph, so that engine still fits.
    assert find(other).is_file()


def test_an_engine_serves_only_where_its_parity_was_measured(bundle: Bundle):
    with pytest.raises(BackendError, match="its parity was never measured on sm86") as refused:
        find(bundle, unverified=False)
    assert str(refused.value).endswith(f"mcr-infer verify '{bundle.path}' --device tensorrt-rtx --precision fp32")
    record = EngineManifest.read(bundle).engines[0]
    record = admit(bundle, record, "sm86", PARITY)
    assert find(bundle, unverified=False).name == record.file
    assert not record.verified
    with pytest.raises(BackendError, match="never measured on sm89"):
        find(bundle, "sm89", unverified=False)
    for sm in ("sm80", "sm89"):
        record = admit(bundle, record, sm, PARITY)
    assert record in EngineManifest.read(bundle).engines
    assert record.verified
    assert not admit(bundle, record, "sm80", None).verified
    discard(bundle, record)
    assert [one.tower for one in EngineManifest.read(bundle).engines] == ["text"]
    assert not (bundle.path / "engines" / record.file).exists()


def test_compatible_engines_serve_later_gpus_and_versions(built: Bundle):
    record = replace(EngineManifest.read(built).engines[0], architectures=("sm86",), runtime_version="10.9.0.34")
    source = record.source_sha256

    def fits(one: EngineRecord, sm: str, version: str) -> bool:
        return one.misfit(source=source, sm=sm, runtime_version=version) is None

    assert fits(record, "sm86", "10.9.0.34")
    assert not fits(record, "sm90", "10.9.0.34")
    everywhere = replace(record, hardware_compatible=True)
    assert [fits(everywhere, sm, "10.9.0.34") for sm in ("sm75", "sm80", "sm90", "sm120")] == [False, True, True, True]
    later = replace(record, version_compatible=True)
    versions = ("10.8.0.43", "10.9.0.34", "10.16.1.11", "11.4.0.106", "12.0.0.1")
    assert [fits(later, "sm86", version) for version in versions] == [False, True, True, True, False]


def test_a_byte_changed_in_the_manifest_of_engines_is_caught(bundle: Bundle):
    path = bundle.path / "engines" / "manifest.json"
    text = path.read_text()
    for before, after in (('"sm89"', '"sm90"'), ('"verified": false', '"verified": true '), ("1:8:32", "1:8:33")):
        path.write_text(text.replace(before, after, 1))
        with pytest.raises(BackendError, match=r"engines/manifest\.json is damaged or was changed.*delete the folder"):
            find(bundle)
    path.write_text(text[:-5])
    with pytest.raises(BackendError, match="is not valid JSON"):
        find(bundle)
    path.write_text(json.dumps({"format_version": 2}))
    with pytest.raises(BackendError, match="is not of format_version 1"):
        find(bundle)


def test_a_manifest_of_engines_from_a_stranger_does_not_lead_out_of_the_folder(built: Bundle):
    entry = EngineManifest.read(built).engines[0].to_dict()
    assert EngineRecord.from_dict(entry, "here") == EngineManifest.read(built).engines[0]
    wrong = {
        "file": "../image.engine", "sha256": "abc", "bytes": True, "tower": "sound", "flavor": "onnx", "sm": ["sm"],
        "profile": {"batch": "1:8:32"}, "version_compatible": "yes", "parity": {"sm86": 1},
    }  # fmt: skip
    for key, value in wrong.items():
        with pytest.raises(BackendError, match=key):
            EngineRecord.from_dict({**entry, key: value}, "here")


def test_a_precision_from_a_stranger_names_no_file_elsewhere(built: Bundle):
    odd = replace(built, precision="../../fp32")
    with pytest.raises(BackendError, match=r"an engine cannot be named 'image-\.\./\.\./fp32-sm86\.rtx\.engine'"):
        build_engine(odd, "image", precision="../../fp32", flavor="rtx", architectures=["sm86"])


def test_a_profile_is_read_and_bounded(built: Bundle):
    profile = Profile.of(built, ["batch=1:16:64 tokens=2:4:8", "patches=4:8:16"])
    assert profile.batch == Span(smallest=1, usual=16, largest=64)
    assert profile.to_dict() == {"batch": "1:16:64", "patches": "4:8:16", "tokens": "2:4:8"}
    assert Profile.from_dict(profile.to_dict(), "here") == profile
    assert profile.shapes("image", (-1, -1, 16)) == ((1, 4, 16), (16, 8, 16), (64, 16, 16))
    assert profile.shapes("text", (-1, -1)) == ((1, 2), (16, 4), (64, 8))
    for change, words in {
        "rows=1:2:3": "no axis 'rows'",
        "batch=8:1:32": "runs from smallest to largest",
        "batch=0:1:2": "each at least 1",
        "batch=8": "must be smallest:usual:largest",
        "patches=1:16:17": "at most 16 patches",
        "tokens=1:8:999": "at most 24 tokens",
    }.items():
        with pytest.raises(ConfigError, match=words):
            Profile.of(built, [change])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"architectures": ["sm90"]}, "does not build for sm90, only for sm75, sm80, sm86, sm89, sm120, sm121"),
        ({"hardware_compatible": True}, "no hardware compatibility: name every architecture"),
        ({"version_compatible": True}, "no version compatibility"),
        ({"timing_cache": Path("timing")}, "no timing cache"),
        ({"flavor": "onnx"}, "unknown flavour 'onnx'"),
    ],
)
def test_what_rtx_cannot_do_is_refused(bundle: Bundle, options: dict, words: str):
    with pytest.raises(BackendError, match=words):
        build_engine(bundle, "image", **{"flavor": "rtx", **options})


def test_an_operator_that_tensorrt_does_not_know_is_named(tmp_path: Path):
    """Dynamic int8 of ONNX Runtime is such a graph."""
    odd = TEXT_GRAPH.replace(
        "local = Gather (words, input_ids)",
        "plain = Gather (words, input_ids)\n    quantised, scale, zero = DynamicQuantizeLinear (plain)\n"
        "    local = DequantizeLinear (quantised, scale, zero)",
    )
    bundle = tiny_bundle(tmp_path / "odd", text_graph=odd)
    with pytest.raises(
        BackendError, match=r"cannot parse .*text\.onnx: it does not take the operators .*DynamicQuantizeLinear"
    ):
        build_engine(bundle, "text", flavor="rtx")
    assert not (bundle.path / "engines").exists()


def test_a_damaged_graph_is_not_built(bundle: Bundle):
    graph = bundle.path / "image.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"image\.onnx is damaged"):
        build_engine(bundle, "image", flavor="rtx")


def test_missing_packages_are_named_with_the_line_that_installs_them(built: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BackendError, match=re.escape("tensorrt is not installed: pip install 'mcr-infer[tensorrt]'")
    ) as no:
        build_engine(built, "image")
    assert "download from NVIDIA" in str(no.value)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(
        BackendError, match=re.escape("tensorrt_rtx is not installed: pip install 'mcr-infer[tensorrt-rtx]'")
    ):
        import_flavor("rtx")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BackendError, match=re.escape("pip install 'mcr-infer[tensorrt]'")):
        tensorrt_api.import_cuda()


@pytest.mark.skipif(tensorrt_api.find_gpu() is not None, reason="says what happens without a GPU")
def test_without_a_gpu_nothing_runs_and_nothing_is_admitted(bundle: Bundle):
    with pytest.raises(BackendError, match="this machine has none or no driver"):
        open_engine(bundle, "image", flavor="rtx", unverified=True)
    with pytest.raises(BackendError, match=r"engine .* does not load: .*nvidia-smi"):
        TensorRTTower(find(bundle), flavor="rtx")
    checks = {check.name: check for check in verify_engines(bundle, flavor="rtx")}
    assert checks["file engines/image-fp32-sm80-sm86-sm89.rtx.engine"].ok
    assert [checks[f"engine {side}"].ok for side in ("image", "text")] == [False, False]
    assert "no GPU or no driver" in checks["engine image"].detail
    assert not any(record.parity for record in EngineManifest.read(bundle).engines)


@pytest.mark.skipif(tensorrt_api.find_gpu() is not None, reason="says what happens without a GPU")
def test_tensorrt_builds_only_on_the_gpu_that_serves(built: Bundle, monkeypatch: pytest.MonkeyPatch):
    """The refusal comes before anything of TensorRT is called but its import, so its sister may stand in."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_rtx)
    with pytest.raises(BackendError, match=r"builds on the GPU that serves.*or ahead of time with --flavor rtx"):
        build_engine(built, "image")
    monkeypatch.setattr(tensorrt_api, "find_gpu", lambda: tensorrt_api.Gpu(sm="sm90", name="Imaginary GPU"))
    with pytest.raises(
        BackendError, match=r"GPU of this machine, sm90 \(Imaginary GPU\), not for sm86: leave out --arch"
    ):
        build_engine(built, "image", architectures=["sm90", "sm86"])


def test_verify_names_the_engine_that_changed(bundle: Bundle):
    path = find(bundle)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    failed = [check for check in verify_engines(bundle, flavor="rtx") if not check.ok]
    assert failed[0].name == f"file engines/{path.name}"
    assert "is damaged or was changed" in failed[0].detail


@pytest.mark.skipif(tensorrt_api.find_gpu() is not None, reason="there the engines are verified at once")
@pytest.mark.parametrize("front", [[str(ROOT / "export" / "to_trt.py")], ["-m", "export.to_trt"]])
def test_the_script_builds_from_any_folder_without_torch(bundle: Bundle, tmp_path: Path, front: list[str]):
    shutil.rmtree(bundle.path / "engines")
    command = [
        sys.executable, "-X", "importtime", *front, str(bundle.path), "--flavor", "rtx", "--arch", "SM80,sm86",
        "--tower", "text", "--profile", "batch=1:2:4", "--json",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (entry,) = json_lines(done.stdout)
    assert (entry["file"], entry["sm"]) == ("text-fp32-sm80-sm86.rtx.engine", ["sm80", "sm86"])
    assert (entry["verified"], entry["profile"]["batch"]) == (False, "1:2:4")
    assert f"mcr-infer verify '{bundle.path}' --device tensorrt-rtx --precision fp32" in done.stderr
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert not loaded & {"torch", "onnx", "transformers", "timm", "onnxruntime"}
    assert "tensorrt_rtx_bindings" in loaded


def test_the_script_says_what_went_wrong_in_one_line(tmp_path: Path):
    command = [sys.executable, str(ROOT / "export" / "to_trt.py"), str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {tmp_path} is not a bundle")
    assert done.stderr.count("\n") == 1
