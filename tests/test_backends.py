import re
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import BackendError, BundleError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tower import TensorSpec, installed_runtime
from tiny import DIM, IMAGE_GRAPH, TEXT_GRAPH, graph, tiny_bundle, tiny_weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def text_inputs(batch: int = 2, tokens: int = 5) -> dict[str, np.ndarray]:
    ids = np.arange(batch * tokens, dtype=np.int64).reshape(batch, tokens)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def install(folder: Path, *names: str) -> list[str]:
    """Lay down the metadata that pip writes for a distribution."""
    for name in names:
        info = folder / f"{name.replace('-', '_')}-1.32.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.32.0\n")
    return [str(folder)]


def test_the_runtime_is_one_or_an_error_that_names_the_line_to_type(tmp_path: Path):
    assert installed_runtime() == "onnxruntime"
    for name in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / name
        folder.mkdir()
        assert installed_runtime(install(folder, name)) == name
    with pytest.raises(BackendError, match=re.escape("pip install 'mcr-infer[cpu]'")):
        installed_runtime([str(tmp_path)])
    with pytest.raises(
        BackendError, match=re.escape("pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'mcr-")
    ):
        installed_runtime(install(tmp_path, "onnxruntime", "onnxruntime-gpu"))


@pytest.mark.parametrize("purpose", ["one_shot", "bulk"])
def test_a_tower_computes_its_graph(bundle: Bundle, purpose: str):
    tower = open_tower(bundle, "text", device="cpu", threads=1, purpose=purpose)
    inputs = text_inputs()
    inputs["attention_mask"][1, 3:] = 0
    outputs = tower.run(inputs)
    assert list(outputs) == ["embedding", "local", "weights"]
    words = tiny_weights()["words"]
    pooled = np.stack([words[0:5].mean(axis=0), words[5:8].mean(axis=0)])
    assert np.abs(outputs["embedding"] - pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).max() < 1e-6
    assert np.array_equal(outputs["local"], words[inputs["input_ids"]])
    assert outputs["weights"][1].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert list(tower.run(inputs, ["weights"])) == ["weights"]
    assert tower.inputs["input_ids"] == TensorSpec(dtype="int64", shape=(None, None))
    assert tower.outputs["embedding"] == TensorSpec(dtype="float32", shape=(None, DIM))


def test_the_device_asked_for_is_the_device_used_or_an_error(bundle: Bundle):
    path = bundle.verified("text.onnx")
    assert OnnxTower(path, device="cpu").device == "cpu"
    with pytest.raises(BackendError, match="unknown device 'gpu': choose one of auto, cpu, cuda"):
        OnnxTower(path, device="gpu")
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this runtime is built with CUDA")
    assert OnnxTower(path, device="auto").device == "cpu"
    with pytest.raises(BackendError, match=r"built without it: pip uninstall .* or choose --device cpu"):
        OnnxTower(path, device="cuda")


def test_threads_are_as_many_as_asked_for_and_do_not_spin(bundle: Bundle):
    tower = OnnxTower(bundle.verified("text.onnx"), threads=3)
    options = tower._session.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(BackendError, match="threads must be at least 1, got 0"):
        OnnxTower(bundle.verified("text.onnx"), threads=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": None}, r"takes \['attention_mask', 'input_ids'\], got \['attention_mask'\]"),
        ({"extra": np.zeros(1)}, r"got \['attention_mask', 'extra', 'input_ids'\]"),
        ({"input_ids": np.zeros((2, 5), np.int32)}, r"input_ids must be int64 of shape \[any, any\].*got int32"),
        ({"input_ids": np.zeros((2, 5, 1), np.int64)}, r"got int64 of shape \[2, 5, 1\]"),
        ({"input_ids": np.zeros((0, 5), np.int64)}, r"not empty, got int64 of shape \[0, 5\]"),
        ({"attention_mask": np.ones((2, 4), np.int64)}, r"text\.onnx failed on cpu"),
        ({"input_ids": np.full((2, 5), 10_000)}, r"text\.onnx failed on cpu.*out of data bounds"),
    ],
)
def test_inputs_that_do_not_fit_are_named(bundle: Bundle, change: dict[str, np.ndarray | None], message: str, capfd):
    tower = open_tower(bundle, "text")
    inputs = {name: array for name, array in (text_inputs() | change).items() if array is not None}
    with pytest.raises(BackendError, match=message):
        tower.run(inputs)
    assert capfd.readouterr() == ("", "")  # said once, in our words


def test_patches_of_another_size_are_refused(bundle: Bundle):
    tower = open_tower(bundle, "image")
    with pytest.raises(BackendError, match=r"patches must be float32 of shape \[any, any, 16\]"):
        tower.run({"patches": np.zeros((1, 2, 25), np.float32), "positions": np.zeros((1, 2), np.int64)})
    with pytest.raises(BackendError, match=r"has no output \['maps'\]"):
        tower.run({"patches": np.zeros((1, 2, 16), np.float32), "positions": np.zeros((1, 2), np.int64)}, ["maps"])


@pytest.mark.parametrize("content", [b"", b"not a graph", b"\x00" * 1000])
def test_what_is_no_graph_is_an_error_of_the_bundle(tmp_path: Path, content: bytes, capfd):
    path = tmp_path / "image.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"image\.onnx is not a graph that ONNX Runtime can load"):
        OnnxTower(path)
    assert capfd.readouterr() == ("", "")


def test_a_graph_that_the_manifest_does_not_describe_is_refused(tmp_path: Path):
    other = TEXT_GRAPH.replace("float[batch, tokens] weights", "float[batch, tokens] share").replace("weights", "share")
    bundle = tiny_bundle_with_graph(tmp_path / "a", other)
    with pytest.raises(BundleError, match=r"text\.onnx is not the text tower that the manifest describes"):
        open_tower(bundle, "text")
    swapped = tiny_bundle_with_graph(tmp_path / "b", IMAGE_GRAPH)
    with pytest.raises(BundleError, match=r"text\.onnx is not the text tower"):
        open_tower(swapped, "text")


def tiny_bundle_with_graph(out: Path, text: str) -> Bundle:
    """Replace the text tower and its digest, as a careless hand might."""
    import dataclasses
    import hashlib

    from mcr_infer.inference.bundle import FileRecord

    bundle = tiny_bundle(out)
    content = graph(text, tiny_weights())
    (out / "text.onnx").write_bytes(content)
    record = FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return dataclasses.replace(bundle, files={**bundle.files, "text.onnx": record})
