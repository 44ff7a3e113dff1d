"""One protocol, one set of tests: the same graph on every runtime that can run here, CUDA's part played by a stand-in."""

import threading
from collections.abc import Callable

import numpy as np
import pytest

import drivers
from drivers import Driver, Engine
from mcr_infer.errors import BackendError
from mcr_infer.inference import tensorrt_api, tensorrt_tower
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.checked_tower import CheckedTower
from mcr_infer.inference.engine_profile import Profile
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.ort_tower import KEPT, OnnxTower
from mcr_infer.inference.tensorrt_tower import TensorRTTower
from mcr_infer.inference.tower import TensorSpec, Tower
from tiny import DIM, patches, texts, tiny_bundle, tiny_weights

KINDS = ("onnxruntime", "one shot", "bound", "rtx", "tensorrt")

Opener = Callable[[str], Tower]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(params=KINDS)
def opener(request: pytest.FixtureRequest, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Opener:
    """Open `image` or `text` on one runtime."""
    kind = request.param
    driver = Driver()

    def engine(side: str) -> Tower:
        made = Engine(driver, bundle.path / f"{side}.onnx", side, Profile.of(bundle, ()))
        monkeypatch.setattr(tensorrt_api, "import_cuda", lambda: driver)
        monkeypatch.setattr(tensorrt_tower, "import_flavor", lambda _flavor: drivers.trt_on(lambda _content: made))
        # What the driver deserialises does not matter: it gives the engine that was made.
        return TensorRTTower(bundle.path / f"{side}.onnx", flavor=kind)

    return {
        "onnxruntime": lambda side: OnnxTower(bundle.path / f"{side}.onnx", threads=1),
        "one shot": lambda side: OnnxTower(bundle.path / f"{side}.onnx", threads=1, purpose="one_shot"),
        "bound": lambda side: OnnxTower(bundle.path / f"{side}.onnx", threads=1, io_binding=True),
        "rtx": engine,
        "tensorrt": engine,
    }[kind]


def by_hand(ids: np.ndarray) -> np.ndarray:
    """Compute what the text graph computes of whole rows: the mean of the words, made a unit vector [N, D]."""
    pooled = tiny_weights()["words"][ids].mean(axis=1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def test_it_computes_the_graph_in_any_order_of_shapes(opener: Opener):
    tower = opener("text")
    # Large, small, large again: what a smaller batch leaves in buffers must not be seen.
    for seed, (batch, tokens) in enumerate(((3, 9), (1, 1), (32, 16), (1, 1), (3, 9), (3, 9), (2, 9), (3, 9))):
        inputs = texts(batch, tokens, seed)
        outputs = tower.run(inputs)
        assert list(outputs) == ["embedding", "local", "weights"]
        assert np.abs(outputs["embedding"] - by_hand(inputs["input_ids"])).max() < 1e-6
        assert np.array_equal(outputs["local"], tiny_weights()["words"][inputs["input_ids"]])
        assert np.allclose(outputs["weights"], 1 / tokens)
        assert all(array.dtype == np.float32 for array in outputs.values())


def test_it_says_what_it_takes_and_gives(opener: Opener):
    tower = opener("image")
    assert isinstance(tower, CheckedTower)
    assert tower.device in ("cpu", "tensorrt", "tensorrt-rtx")
    assert dict(tower.inputs) == {
        "patches": TensorSpec(dtype="float32", shape=(None, None, 16)),
        "positions": TensorSpec(dtype="int64", shape=(None, None)),
    }
    assert dict(tower.outputs) == {
        "embedding": TensorSpec(dtype="float32", shape=(None, DIM)),
        "local": TensorSpec(dtype="float32", shape=(None, None, DIM)),
        "weights": TensorSpec(dtype="float32", shape=(None, None)),
    }
    assert tower.run(patches(2, 5))["local"].shape == (2, 5, DIM)


def test_only_what_is_asked_for_is_given_in_that_order(opener: Opener):
    tower = opener("text")
    whole = tower.run(texts(2, 5))
    for names in (["weights"], ["weights", "embedding"]):
        some = tower.run(texts(2, 5), names)
        assert list(some) == names
        assert all(np.array_equal(some[name], whole[name]) for name in names)


def test_outputs_are_not_overwritten_by_the_next_batch(opener: Opener):
    tower = opener("text")
    first = tower.run(texts(2, 5, seed=1))
    kept = {name: array.copy() for name, array in first.items()}
    tower.run(texts(2, 5, seed=2))
    assert all(np.array_equal(first[name], kept[name]) for name in kept)


def test_inputs_that_are_not_contiguous_or_come_in_another_order_arrive_whole(opener: Opener):
    tower = opener("text")
    wide = texts(4, 12)
    cut = {name: wide[name][::2, 3:8] for name in ("attention_mask", "input_ids")}
    assert np.abs(tower.run(cut)["embedding"] - by_hand(cut["input_ids"])).max() < 1e-6


def test_threads_share_it(opener: Opener):
    tower, wrong, start = opener("text"), [], threading.Barrier(4)

    def work(seed: int) -> None:
        inputs = texts(2, 5, seed)
        start.wait()
        for _ in range(25):
            if np.abs(tower.run(inputs, ["embedding"])["embedding"] - by_hand(inputs["input_ids"])).max() > 1e-6:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": None}, r"takes \['attention_mask', 'input_ids'\], got \['attention_mask'\]"),
        ({"extra": np.zeros(1)}, r"got \['attention_mask', 'extra', 'input_ids'\]"),
        ({"input_ids": np.zeros((2, 5), np.int32)}, r"input_ids must be int64 of .*, got int32 of shape \[2, 5\]"),
        (
            {"input_ids": np.zeros((2, 5, 1), np.int64)},
            r"input_ids must be int64 of .*, got int64 of shape \[2, 5, 1\]",
        ),
        ({"input_ids": np.zeros((0, 5), np.int64)}, r"input_ids must be int64 of .*, got int64 of shape \[0, 5\]"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_the_same_words(
    opener: Opener, change: dict[str, np.ndarray | None], words: str
):
    tower = opener("text")
    inputs = {name: array for name, array in (texts(2, 5) | change).items() if array is not None}
    with pytest.raises(BackendError, match=words):
        tower.run(inputs)
    with pytest.raises(BackendError, match=r"has no output \['maps'\]; it gives \['embedding', 'local', 'weights'\]"):
        tower.run(texts(2, 5), ["maps"])
    assert tower.run(texts(2, 5), ["embedding"])["embedding"].shape == (2, DIM)


class TestBinding:
    """What only the bound session has: memory that is taken once for each shape."""

    def test_memory_is_used_again_and_bounded(self, bundle: Bundle):
        tower = OnnxTower(bundle.path / "text.onnx", threads=1, io_binding=True)
        taken = []
        real = tower._bound._onnxruntime.OrtValue

        class Counting:
            @staticmethod
            def ortvalue_from_shape_and_type(shape, *rest):
                taken.append(shape)
                return real.ortvalue_from_shape_and_type(shape, *rest)

        tower._bound._onnxruntime = type("Runtime", (), {"OrtValue": Counting})
        for _ in range(3):
            tower.run(texts(2, 5))
        # Two inputs and three outputs, whose lengths follow from the names of the graph's axes.
        assert sorted(taken) == [[2, 5], [2, 5], [2, 5], [2, 5, DIM], [2, DIM]]
        for tokens in range(1, KEPT + 10):
            tower.run(texts(1, tokens), ["embedding"])
        assert len(tower._bound._threads.kept) == KEPT

    def test_memory_of_a_failed_batch_is_not_used_again(self, bundle: Bundle):
        tower = OnnxTower(bundle.path / "text.onnx", threads=1, io_binding=True)
        tower.run(texts(2, 5))
        with pytest.raises(BackendError, match=r"text\.onnx failed on cpu.*out of data bounds"):
            tower.run({**texts(2, 5), "input_ids": np.full((2, 5), 10_000)})
        assert len(tower._bound._threads.kept) == 0
        inputs = texts(2, 5, seed=3)
        assert np.abs(tower.run(inputs)["embedding"] - by_hand(inputs["input_ids"])).max() < 1e-6

    def test_the_processor_needs_none(self, bundle: Bundle):
        assert open_tower(bundle, "text", device="cpu", threads=1)._bound is None
