import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mcr_infer.errors import BackendError, UsageError
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.inference.bundle import Bundle, FileRecord
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from tiny import DIM, PREPROCESS, SENTENCES, TEXT_GRAPH, graph, tiny_bundle, tiny_weights


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def radiograph(seed: int, height: int = 30, width: int = 22) -> Radiograph:
    pixels = np.random.default_rng(seed).random((height, width), dtype=np.float32)
    return Radiograph(pixels=pixels, source="png")


def test_radiographs_become_unit_vectors_in_their_order(bundle: Bundle):
    encoder = ImageEncoder(bundle, device="cpu", threads=1)
    images = [radiograph(seed) for seed in range(5)]
    vectors = encoder.encode_radiographs(images)
    assert (vectors.shape, vectors.dtype) == ((5, DIM), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    alone = np.concatenate([encoder.encode_radiographs([image]) for image in images])
    assert (vectors * alone).sum(axis=1).min() > 0.99999
    assert np.array_equal(vectors, encoder.encode([encoder.preprocess.patches(image.pixels) for image in images]))
    assert (encoder.device, encoder.precision, encoder.embedding_dim) == ("cpu", "fp32", DIM)
    assert encoder.fingerprint == bundle.fingerprint


def test_pixels_that_are_not_square_are_made_square(bundle: Bundle):
    encoder = ImageEncoder(bundle)
    image = dataclasses.replace(radiograph(6), aspect=2.0)
    expected = encoder.encode([PREPROCESS.patches(image.pixels, aspect=2.0)])
    assert np.array_equal(encoder.encode_radiographs([image]), expected)


def test_an_image_vector_is_what_the_graph_says(bundle: Bundle):
    patches, positions = PREPROCESS.patches(radiograph(1).pixels)
    weights = tiny_weights()
    mean = (patches @ weights["map"] + weights["places"][positions]).mean(axis=0)
    got = ImageEncoder(bundle).encode([(patches, positions)])[0]
    assert np.abs(got - mean / np.linalg.norm(mean)).max() < 1e-6


def test_fewer_patches_are_taken_and_mixed_counts_are_not(bundle: Bundle):
    encoder = ImageEncoder(bundle)
    patches, positions = PREPROCESS.patches(radiograph(2).pixels)
    assert encoder.encode([(patches[3:9], positions[3:9])]).shape == (1, DIM)
    with pytest.raises(BackendError, match=r"one patch count, got \[6, 16\]"):
        encoder.encode([(patches, positions), (patches[3:9], positions[3:9])])
    for wrong in (positions + 1, positions - 1):
        with pytest.raises(BackendError, match=r"positions must lie in \[0, 16\)"):
            encoder.encode([(patches, wrong)])


def test_texts_keep_their_order_whatever_their_length(bundle: Bundle):
    encoder = TextEncoder(bundle, device="cpu", threads=1)
    texts = [" ".join(SENTENCES[row % 4].split()[: 1 + row % 7]) for row in range(100)]
    vectors = encoder.encode(texts)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert vectors.shape == (100, DIM)
    assert (vectors * alone).sum(axis=1).min() > 0.99999
    assert np.abs(vectors - alone).max() < 1e-6


def test_mapped_parts_come_from_the_same_run_without_padding(bundle: Bundle):
    weights = tiny_weights()
    images, texts = ImageEncoder(bundle), TextEncoder(bundle)
    batch = [PREPROCESS.patches(radiograph(seed).pixels) for seed in range(3)]
    vectors, locals = images.encode_with_locals(batch)
    assert np.array_equal(vectors, images.encode(batch))
    for (patches, positions), local in zip(batch, locals, strict=True):
        assert np.abs(local.vectors - (patches @ weights["map"] + weights["places"][positions])).max() < 1e-5
        assert local.weights == pytest.approx(np.full(16, 1 / 16))
    asked = [SENTENCES[1], "effusion", SENTENCES[3]]
    vectors, locals = texts.encode_with_locals(asked)
    assert np.abs(vectors - texts.encode(asked)).max() < 1e-6
    fitted = texts.fit(asked)
    assert [len(text.pieces) for text in fitted] == [1, 1, 2]
    assert [len(local.weights) for local in locals] == [sum(map(len, text.pieces)) for text in fitted]
    for vector, local in zip(vectors, locals, strict=True):
        pooled = local.weights @ local.vectors
        assert pooled / np.linalg.norm(pooled) == pytest.approx(vector, abs=1e-5)
    assert [part.shape for part in (images.encode_with_locals([])[0], texts.encode_with_locals([])[0])] == [
        (0, DIM)
    ] * 2


def test_parts_that_are_not_finite_never_leave(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    # The embedding is sound; a weight below 0 is not.
    spoilt = TEXT_GRAPH.replace(
        "    weights = Div (there, count)", "    shares = Div (there, count)\n    weights = Neg (shares)"
    )
    encoder = TextEncoder(with_text_tower(bundle, graph(spoilt, tiny_weights())))
    assert encoder.encode(["effusion"]).shape == (1, DIM)
    with pytest.raises(BackendError, match=r"the tower on cpu gave no mapped parts that can be used: .* at least 0"):
        encoder.encode_with_locals(["effusion"])


def test_more_texts_than_one_window(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    encoder = TextEncoder(bundle)
    texts = [SENTENCES[row % 4] for row in range(23)]
    whole = encoder.encode(texts)
    monkeypatch.setattr("mcr_infer.inference.encoder._TEXT_WINDOW", 5)
    # The last bit may depend on where a batch lies in memory.
    assert np.allclose(whole, encoder.encode(texts), rtol=0, atol=1e-6)


def test_nothing_gives_nothing(bundle: Bundle):
    assert ImageEncoder(bundle).encode([]).shape == (0, DIM)
    assert ImageEncoder(bundle).encode_radiographs([]).shape == (0, DIM)
    assert TextEncoder(bundle).encode([]).shape == (0, DIM)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": np.nan}, "1 of 1 embeddings on cpu are not unit vectors"),
        ({"words": 0.0}, "not unit vectors"),
    ],
)
def test_a_vector_that_is_not_finite_never_leaves(tmp_path: Path, change: dict[str, float], message: str):
    bundle = tiny_bundle(tmp_path / "tiny")
    weights = tiny_weights()
    weights["words"][:] = change["words"]
    with pytest.raises(BackendError, match=message):
        TextEncoder(with_text_tower(bundle, graph(TEXT_GRAPH, weights))).encode(["left pneumothorax"])


def test_a_vector_that_is_not_of_length_one_never_leaves(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    longer = TEXT_GRAPH.replace("embedding = Div (pooled, norm)", "embedding = Identity (pooled)")
    with pytest.raises(BackendError, match=r"the first has norm \d\.\d+\): run mcr-infer verify"):
        TextEncoder(with_text_tower(bundle, graph(longer, tiny_weights()))).encode(["left pneumothorax"])


def with_text_tower(bundle: Bundle, content: bytes) -> Bundle:
    (bundle.path / "text.onnx").write_bytes(content)
    record = FileRecord(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
    return dataclasses.replace(bundle, files={**bundle.files, "text.onnx": record})


def test_modules_load_no_runtime_before_a_tower_is_opened():
    names = ("inference.bundle", "inference.encoder", "inference.ort_tower", "evaluation.protocols", "inference.verify")
    modules = ", ".join(f"mcr_infer.{name}" for name in names)
    code = f"import sys, {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {"onnxruntime", "torch", "timm", "transformers", "onnx", "pydicom", "safetensors"}


def test_what_is_no_list_of_inputs_is_refused(bundle: Bundle):
    images, texts = ImageEncoder(bundle), TextEncoder(bundle)
    with pytest.raises(UsageError, match=r"encode\(\['left pneumothorax'\]\)"):
        texts.encode("left pneumothorax")
    with pytest.raises(UsageError, match=r"read_image\(path, rendering='voi'\)"):
        images.encode_radiographs(["x.dcm"])
    with pytest.raises(UsageError, match="got one Radiograph"):
        images.encode_radiographs(radiograph(1))
    with pytest.raises(UsageError, match="got one str"):
        images.encode_radiographs("x.dcm")
