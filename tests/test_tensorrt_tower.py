"""The tower on TensorRT as far as a machine without a GPU can show it: a stand-in for the driver, everything else real."""

import gc
import inspect
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorrt_rtx
from cuda.bindings import runtime

import drivers
from drivers import Driver, Engine
from mcr_infer.cli.bundle import FlavorName, TowerName
from mcr_infer.cli.bundle import build_engine as build_command
from mcr_infer.errors import BackendError
from mcr_infer.inference import engines, tensorrt_api, tensorrt_tower
from mcr_infer.inference.bundle import TEXT_INPUTS, Bundle
from mcr_infer.inference.engine_build import build_engine
from mcr_infer.inference.engines import EngineManifest
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tensorrt_tower import CAPTURED, TensorRTTower, open_engine
from mcr_infer.inference.tower import TensorSpec
from mcr_infer.inference.verify import validate_engine, verify_engines
from tiny import DIM, patches, texts, tiny_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    bundle = tiny_bundle(tmp_path / "tiny")
    for side in ("image", "text"):
        build_engine(bundle, side, flavor="rtx", architectures=["sm86"])
    return bundle


@pytest.fixture
def driver(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A machine with an imaginary sm86, on which the engines of the bundle load."""
    driver = Driver()
    driver.engines = {
        record.tower: Engine(driver, bundle.path / f"{record.tower}.onnx", record.tower, record.profile)
        for record in EngineManifest.read(bundle).engines
    }

    def load(content: bytes) -> Engine | None:
        files = (bundle.path / "engines").glob("*.engine")
        sides = [file.name.split("-")[0] for file in files if file.read_bytes() == content]
        return driver.engines[sides[0]] if sides else None

    monkeypatch.setattr(tensorrt_api, "import_cuda", lambda: driver)
    monkeypatch.setattr(tensorrt_tower, "import_flavor", lambda _flavor: drivers.trt_on(load))
    return driver


def path_of(bundle: Bundle, side: str) -> Path:
    return bundle.path / "engines" / f"{side}-fp32-sm86.rtx.engine"


def test_the_stand_in_offers_nothing_that_the_real_bindings_lack():
    for name, ours in (("runtime", Driver), ("engine", Engine), ("context", drivers.Context)):
        public = {one for one in vars(ours) if not one.startswith("_")} - {"enqueue"}
        assert public - set(dir(drivers.REAL[name])) == set()
        assert len(public) >= 5
    for method, own in inspect.getmembers(Driver, inspect.isfunction):
        if method.startswith("cuda"):
            # The first line of the real one says which arguments it takes.
            line = getattr(runtime, method).__doc__.splitlines()[0]
            assert line.count(",") + (not line.endswith("()")) == len(inspect.signature(own).parameters) - 1, line


@pytest.mark.parametrize("flavor", ["rtx", "tensorrt"])
@pytest.mark.parametrize("side", ["image", "text"])
def test_a_tower_gives_what_its_graph_gives(bundle: Bundle, driver: Driver, side: str, flavor: str):
    tower = TensorRTTower(path_of(bundle, side), flavor=flavor)
    reference = OnnxTower(bundle.path / f"{side}.onnx", threads=1)
    assert (dict(tower.inputs), dict(tower.outputs)) == (reference.inputs, reference.outputs)
    assert tower.outputs["embedding"] == TensorSpec(dtype="float32", shape=(None, DIM))
    assert tower.device == {"rtx": "tensorrt-rtx", "tensorrt": "tensorrt"}[flavor]
    make = {"image": patches, "text": texts}[side]
    # Large, small, large again: what a smaller batch leaves in the buffers must not be seen.
    for seed, (batch, length) in enumerate(((3, 9), (1, 1), (32, 16), (1, 1), (3, 9), (1, 1), (3, 9), (3, 9))):
        inputs = make(batch, length, seed)
        expected, got = reference.run(inputs), tower.run(inputs)
        assert list(got) == list(expected)
        for name, value in expected.items():
            assert got[name].dtype == value.dtype
            assert np.array_equal(got[name], value)
        (one,) = tower.run(inputs, ["embedding"]).items()
        assert one[0] == "embedding"
        assert np.array_equal(one[1], expected["embedding"])


def test_a_shape_that_comes_again_is_captured_with_a_context_of_its_own(bundle: Bundle, driver: Driver):
    tower, engine = TensorRTTower(path_of(bundle, "text")), driver.engines["text"]
    tower.run(texts(2, 5))
    assert (driver.launches, len(driver.graphs), len(engine.contexts)) == (0, 0, 1)
    tower.run(texts(2, 5))
    assert (driver.launches, len(driver.graphs), len(engine.contexts)) == (0, 1, 2)
    kernels = driver.kernels
    for seed in range(3):
        tower.run(texts(2, 5, seed))
    assert (driver.launches, len(driver.graphs), len(engine.contexts)) == (3, 1, 2)
    assert driver.kernels - kernels == 3
    tower.run(texts(2, 5), ["embedding"])
    assert len(driver.graphs) == 1, "other outputs are other copies, seen once so far"
    assert len({context.scratch for context in engine.contexts}) == 1
    strategies = tensorrt_rtx.ExecutionContextAllocationStrategy
    assert {context.how for context in engine.contexts} == {strategies.USER_MANAGED}
    for tokens in range(1, 21):
        for _ in range(3):
            tower.run(texts(1, tokens))
    assert len(driver.graphs) == CAPTURED


def test_rtx_captures_its_graphs_itself(bundle: Bundle, driver: Driver):
    tower, engine = TensorRTTower(path_of(bundle, "text"), flavor="rtx"), driver.engines["text"]
    for _ in range(4):
        tower.run(texts(2, 5))
    assert (len(engine.contexts), driver.launches, driver.graphs) == (1, 0, {})
    assert engine.contexts[0].how.cuda_graph_strategy == tensorrt_rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE


def test_every_thread_has_its_own_lane_and_gives_it_back(bundle: Bundle, driver: Driver):
    tower = TensorRTTower(path_of(bundle, "text"))
    expected = {seed: OnnxTower(bundle.path / "text.onnx", threads=1).run(texts(2, 5, seed)) for seed in range(4)}
    wrong, start = [], threading.Barrier(4)

    def work(seed: int) -> None:
        start.wait()
        for _ in range(20):
            got = tower.run(texts(2, 5, seed))
            wrong.extend(name for name in got if not np.array_equal(got[name], expected[seed][name]))
        start.wait()
        lanes.append(len(driver.streams))
        start.wait()

    lanes: list[int] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, lanes) == ([], [4, 4, 4, 4])
    gc.collect()
    assert (driver.memory, driver.streams, driver.graphs) == ({}, {}, {})
    tower.run(texts(2, 5))
    assert len(driver.streams) == 1
    tower = None
    gc.collect()
    assert (driver.memory, driver.streams, driver.graphs) == ({}, {}, {})


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        ("cudaMalloc", "take .* bytes of the GPU: cudaErrorMemoryAllocation"),
        ("execute_async_v3", "could not start a batch"),
        ("cudaStreamSynchronize", "finish a batch: cudaErrorLaunchFailure"),
    ],
)
def test_a_failure_of_the_driver_is_an_error_and_leaves_nothing_behind(
    bundle: Bundle, driver: Driver, failing: str, words: str
):
    tower = TensorRTTower(path_of(bundle, "text"))
    driver.fail = failing
    with pytest.raises(BackendError, match=words) as failed:
        tower.run(texts(2, 5))
    del failed
    gc.collect()
    assert (driver.memory, driver.streams, driver.graphs) == ({}, {}, {})
    driver.fail = None
    assert tower.run(texts(2, 5))["embedding"].shape == (2, DIM)


def test_a_failure_while_a_graph_is_recorded_ends_the_recording(bundle: Bundle, driver: Driver, monkeypatch):
    tower = TensorRTTower(path_of(bundle, "text"))
    tower.run(texts(2, 5))
    begin = driver.cudaStreamBeginCapture

    def begin_and_fail(stream, mode):
        driver.fail = "execute_async_v3"
        return begin(stream, mode)

    monkeypatch.setattr(driver, "cudaStreamBeginCapture", begin_and_fail)
    with pytest.raises(BackendError, match="could not start a batch"):
        tower.run(texts(2, 5))
    gc.collect()
    assert (driver.streams, driver.graphs) == ({}, {})


def test_what_does_not_fit_the_profile_is_refused(bundle: Bundle, driver: Driver):
    tower = TensorRTTower(path_of(bundle, "text"))
    for inputs, words in (
        (texts(33, 5), r"from \[1, 1\] to \[32, 24\], got int64 of shape \[33, 5\]; change --batch-size, or build"),
        (texts(2, 25), r"got int64 of shape \[2, 25\]"),
        (texts(0, 5), r"got int64 of shape \[0, 5\]"),
        ({name: array.astype(np.int32) for name, array in texts(2, 5).items()}, "must be int64"),
        ({"input_ids": texts(2, 5)["input_ids"]}, r"takes \['attention_mask', 'input_ids'\], got \['input_ids'\]"),
    ):
        with pytest.raises(BackendError, match=words):
            tower.run(inputs)
    with pytest.raises(BackendError, match=r"has no output \['logits'\]"):
        tower.run(texts(2, 5), ["logits"])


def test_verify_measures_the_engines_and_admits_them(bundle: Bundle, driver: Driver):
    with pytest.raises(BackendError, match="its parity was never measured on sm86"):
        open_engine(bundle, "text", flavor="rtx")
    checks = verify_engines(bundle, flavor="rtx")
    assert [check for check in checks if not check.ok] == []
    assert [check.name for check in checks[-2:]] == ["engine image", "engine text"]
    assert "image-fp32-sm86.rtx.engine on Imaginary GPU: max abs difference" in checks[-2].detail
    for record in EngineManifest.read(bundle).engines:
        assert record.verified
        assert record.parity["sm86"]["max_abs"] <= 1e-6
        assert record.parity["sm86"]["rows_min_cosine"] >= 0.99999
    golden = bundle.golden()
    tower = open_engine(bundle, "text", flavor="rtx")
    got = tower.run({name: golden[f"text.{name}"] for name in TEXT_INPUTS})
    assert np.abs(got["embedding"] - golden["text.embedding"]).max() <= 1e-6


def test_an_engine_that_computes_something_else_is_not_admitted(bundle: Bundle, driver: Driver):
    verify_engines(bundle, flavor="rtx")
    engine = driver.engines["text"]
    honest = engine.tower.run

    class Wrong:
        inputs = engine.tower.inputs

        def run(self, inputs):
            outputs = honest(inputs)
            turned = outputs["embedding"] + np.float32(1e-3)
            return {**outputs, "embedding": turned}

    engine.tower = Wrong()
    record = next(one for one in EngineManifest.read(bundle).engines if one.tower == "text")
    with pytest.raises(BackendError, match=r"not enabled: .*max abs difference 1\.0e-03, limit 1e-04"):
        validate_engine(bundle, record, sm="sm86")
    assert [one.verified for one in EngineManifest.read(bundle).engines] == [True, False]
    with pytest.raises(BackendError, match="never measured"):
        open_engine(bundle, "text", flavor="rtx")


def test_a_build_beside_a_gpu_is_measured_at_once(bundle: Bundle, driver: Driver, capsys, monkeypatch):
    def build(*arch: str) -> None:
        build_command(bundle.path, flavor=FlavorName.RTX, tower=[TowerName.TEXT], arch=list(arch), json=True)

    build("sm86")
    entry = json.loads(capsys.readouterr().out)
    assert (entry["verified"], entry["sm"]) == (True, ["sm86"])
    assert entry["parity"]["sm86"]["min_cosine"] >= 0.99999
    build("sm80")
    assert json.loads(capsys.readouterr().out)["verified"] is False
    monkeypatch.setattr("mcr_infer.inference.verify.rows_limit", lambda _: 1.1)
    with pytest.raises(BackendError, match="a row in its batch and alone"):
        build("sm86")
    assert [one.file for one in EngineManifest.read(bundle).engines] == [
        "image-fp32-sm86.rtx.engine",
        "text-fp32-sm80.rtx.engine",
    ]
    assert not path_of(bundle, "text").exists()


def test_the_gpu_is_described(driver: Driver):
    assert tensorrt_api.find_gpu() == tensorrt_api.Gpu(sm="sm86", name="Imaginary GPU")
    driver.sm = "120"
    assert tensorrt_api.find_gpu().sm == "sm120"
    assert engines.engine_file("image", "fp32", "tensorrt", ("sm120",)) == "image-fp32-sm120.engine"
