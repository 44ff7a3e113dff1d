"""The export of a small MCR model, once for the whole file, and the gate against towers that are wrong on purpose."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from export.parity import gate, reference
from export.to_onnx import Graph, export_tower, main, write_graph
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import WORDS, Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.ort_tower import OnnxTower
from mcr_infer.inference.tokenizer import train_tokenizer
from mcr_infer.inference.verify import verify
from tiny import IMAGE_GRAPH, MAX_TOKENS, PREPROCESS, SENTENCES, TEXT_GRAPH, VOCAB, graph, tiny_weights
from train import checkpoint
from train.config import Config as TrainConfig
from train.held_out import embed_texts
from train.model import MCR
from train.settings import dump_toml, parse

SMALL = {
    "model": {
        "image": {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "heads": 2},
        "text": {"vocab_size": 90, "max_tokens": 24, "width": 16, "depth": 1, "heads": 2},
        "space": {"embedding_dim": 12, "scorer_width": 8},
        "decoders": {"image_width": 12, "image_heads": 2, "report_heads": 2},
    }
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, with weights that were never trained."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    config = parse(TrainConfig, SMALL)
    torch.manual_seed(0)
    model = MCR(config)
    # Not the near-zero start, under which many mistakes would not show.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / checkpoint.MODEL)
    (folder / checkpoint.CONFIG).write_text(dump_toml(config))
    (folder / checkpoint.METRICS).write_text('{"step": 1, "loss": 4.0}\n')
    train_tokenizer(SENTENCES, 90).save(str(folder / checkpoint.TOKENIZER))
    (folder / WORDS).write_text("effusion\npleural\n")
    return folder


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("bundles") / "small"
    card = run / "card.md"
    card.write_text("# Small\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1795392000")
        assert main([str(run), "--out", str(out), "--notice", "never trained", "--model-card", str(card)]) == 0
    return Bundle.open(out)


def test_the_bundle_is_described(bundle: Bundle, run: Path):
    assert (bundle.name, bundle.notice, bundle.created) == ("small", "never trained", "2026-11-23")
    assert (bundle.embedding_dim, bundle.max_tokens, bundle.preprocess.patch_count) == (12, 24, 16)
    assert sorted(bundle.files) == [
        "MODEL_CARD.md", "golden.npz", "image.onnx", "image.onnx.data", "text.onnx", "text.onnx.data", "tokenizer.json",
        "training.jsonl", "words.txt",
    ]  # fmt: skip
    assert bundle.vocabulary().words == {"effusion", "pleural"}
    assert bundle.manifest["training"]["model"]["space"]["embedding_dim"] == 12
    assert bundle.verified("training.jsonl").read_text() == (run / checkpoint.METRICS).read_text()


def test_the_parity_table_covers_batches_lengths_and_padding(bundle: Bundle):
    rows = bundle.manifest["parity"]
    cases = {(row["tower"], row["batch"], row["length"]) for row in rows}
    assert cases == {("image", b, k) for b in (1, 2, 5) for k in (1, 8, 16)} | {
        ("text", b, t) for b in (1, 2, 5) for t in (3, 17, 24)
    }
    assert max(row["max_abs"] for row in rows) < 1e-5
    assert min(row["min_cosine"] for row in rows) > 0.99999
    assert min(row["rows_min_cosine"] for row in rows) > 0.99999
    padded = [row for row in rows if row["padding_min_cosine"] is not None]
    assert len(padded) == 6
    assert all(row["tower"] == "text" and row["padding_min_cosine"] > 0.99999 for row in padded)


def test_the_graphs_are_plain_whole_and_named(bundle: Bundle):
    # ViT: two norms a block and one at the end; MLP a block; the map: one GELU and one norm. BERT: two a layer, one before.
    wanted = {"image.onnx": (2 * 2 + 1 + 1, 2 + 1), "text.onnx": (1 + 2 * 1 + 1, 1 + 1)}
    for name, counts in wanted.items():
        model = onnx.load(bundle.verified(name))
        operators = [node.op_type for node in model.graph.node]
        assert (operators.count("LayerNormalization"), operators.count("Gelu")) == counts
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]
        alone = onnx.load(bundle.verified(name), load_external_data=False)
        outside = {
            entry.value for one in alone.graph.initializer for entry in one.external_data if entry.key == "location"
        }
        assert outside == {f"{name}.data"}
        assert (bundle.path / f"{name}.data").stat().st_mode == (bundle.path / name).stat().st_mode
        assert bundle.files[name].bytes < 60_000
        axes = {
            value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }
        length = {"image.onnx": "patches", "text.onnx": "tokens"}[name]
        assert axes["embedding"] == ["batch", 12]
        assert axes["local"] == ["batch", length, 12]
        assert axes["weights"] == ["batch", length]
    assert axes["input_ids"] == axes["attention_mask"] == ["batch", "tokens"]


def test_no_file_tells_of_the_machine_that_made_it(bundle: Bundle, run: Path):
    for path in bundle.path.iterdir():
        content = path.read_bytes()
        for trace in (str(Path.cwd()), str(run.parent), sys.prefix, ".py", "stack_trace"):
            assert trace.encode() not in content, f"{path.name} holds {trace}"


def test_the_bundle_gives_what_the_checkpoint_gives(bundle: Bundle, run: Path):
    model, _ = checkpoint.load_model(run)
    texts = [*SENTENCES, "heart"]
    encoder = TextEncoder(bundle, device="cpu", threads=1, long_text="truncate")
    ids, mask = encoder._tokenizer.encode(texts)
    expected = reference(model, "text", {"input_ids": ids, "attention_mask": mask})["embedding"]
    assert np.abs(encoder.encode(texts) - expected).max() < 1e-5
    pixels = np.random.default_rng(0).random((40, 30), dtype=np.float32)
    patches, positions = bundle.preprocess.patches(pixels)
    half = (patches[::2], positions[::2])
    given = {"patches": half[0][None], "positions": half[1][None]}
    got = ImageEncoder(bundle, device="cpu", threads=1).encode([half])
    assert np.abs(got - reference(model, "image", given)["embedding"]).max() < 1e-5
    # The check would not notice a model that maps everything to one point.
    assert (expected @ expected.T).min() < 0.99


def test_long_texts_of_bundle_and_checkpoint_agree(bundle: Bundle, run: Path):
    model, config = checkpoint.load_model(run)
    encoder = TextEncoder(bundle, device="cpu", threads=1)
    texts = [SENTENCES[0], " ".join([*SENTENCES, *SENTENCES[::-1]] * 3), "heart"]
    assert [len(fitted.pieces) > 1 for fitted in encoder.fit(texts)] == [False, True, False]
    expected = embed_texts(model, encoder._tokenizer, texts, config)
    assert np.abs(encoder.encode(texts) - expected).max() < 1e-5


def test_verify_repeats_the_gate_without_torch(bundle: Bundle):
    assert all(check.ok for check in verify(bundle))
    code = (
        "import sys; from pathlib import Path; from mcr_infer.inference.bundle import Bundle;"
        "from mcr_infer.inference.verify import verify;"
        f"assert all(check.ok for check in verify(Bundle.open(Path({str(bundle.path)!r}))));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "onnx", "timm", "transformers"}
    assert done.stderr == ""


@pytest.fixture(scope="module")
def text_again(run: Path) -> Graph:
    """The text tower of the run, exported a second time."""
    model, config = checkpoint.load_model(run)
    return export_tower(model, "text", preprocess=config.model.preprocess, max_tokens=config.model.text.max_tokens)


def test_the_fingerprint_follows_the_towers_and_nothing_else(text_again: Graph, run: Path):
    model, _ = checkpoint.load_model(run)
    names = {name for name in checkpoint.tower_state(model) if ".text." in name or name.startswith("text_tower")}
    assert set(text_again.weights) == names
    assert {name.split(".")[0] for name in names} == {"text_tower", "maps", "aggregators"}


def test_the_same_tower_exports_to_the_same_bytes(bundle: Bundle, text_again: Graph, tmp_path: Path):
    write_graph(text_again.proto, tmp_path / "text.onnx")
    for name in ("text.onnx", "text.onnx.data"):
        assert (tmp_path / name).read_bytes() == bundle.verified(name).read_bytes()


def test_weights_beside_a_graph_are_verified_with_it(bundle: Bundle, tmp_path: Path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundle.path, folder)
    content = bytearray((folder / "text.onnx.data").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "text.onnx.data").write_bytes(content)
    with pytest.raises(BundleError, match=r"text\.onnx\.data is damaged or was changed"):
        open_tower(Bundle.open(folder), "text")
    open_tower(Bundle.open(folder), "image")


def test_the_manifest_names_no_path_of_the_machine_that_trained(run: Path, tmp_path: Path):
    other = tmp_path / "run"
    shutil.copytree(run, other)
    path = other / checkpoint.CONFIG
    text = path.read_text().replace('images = ""', 'images = "/data/secret-mimic"')
    assert "secret-mimic" in text
    path.write_text(text)
    assert main([str(other), "--out", str(tmp_path / "bundle")]) == 0
    assert "secret-mimic" not in (tmp_path / "bundle" / "manifest.json").read_text()


def test_a_run_that_is_not_there_exits_with_1(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 1
    assert "error: " in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("years of work")
    assert main([str(run), "--out", str(tmp_path / "thesis")]) == 1
    assert "no bundle that can be replaced" in capsys.readouterr().err
    other = tmp_path / "run"
    shutil.copytree(run, other)
    (other / checkpoint.METRICS).unlink()
    assert main([str(other), "--out", str(tmp_path / "out")]) == 1
    assert "metrics.jsonl cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- The gate, against towers that can be computed by hand ------------------------------------------------------------


class Tiny(nn.Module):
    """The model whose graphs stand in tiny.py."""

    def __init__(self, *, leak: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        for name, array in tiny_weights().items():
            self.register_buffer(name, torch.from_numpy(array))
        self.leak, self.dropout = leak, dropout

    def encode_image(self, patches, positions):
        local = F.dropout(patches @ self.map, self.dropout, training=True) + self.places[positions]
        return self.pool(local, torch.full(positions.shape, 1.0 / positions.shape[1]))

    def encode_text(self, input_ids, attention_mask):
        there = torch.ones_like(attention_mask) if self.leak else attention_mask
        return self.pool(self.words[input_ids], there / there.sum(dim=1, keepdim=True))

    def pool(self, local, weights):
        return F.normalize((local * weights[:, :, None]).sum(dim=1), dim=-1), local, weights


def tiny_gate(folder: Path, model: Tiny, image: str = IMAGE_GRAPH, text: str = TEXT_GRAPH, scale: float = 1.0):
    weights = tiny_weights()
    (folder / "image.onnx").write_bytes(graph(image, weights | {"map": weights["map"] * np.float32(scale)}))
    (folder / "text.onnx").write_bytes(graph(text, weights))
    towers = {side: OnnxTower(folder / f"{side}.onnx", threads=1) for side in ("image", "text")}
    return gate(model, towers, preprocess=PREPROCESS, max_tokens=MAX_TOKENS, vocab_size=VOCAB)


def test_the_gate_lets_equal_towers_pass(tmp_path: Path):
    assert max(row["max_abs"] for row in tiny_gate(tmp_path, Tiny())) < 1e-6


def test_the_gate_refuses_weights_that_moved_a_little(tmp_path: Path):
    with pytest.raises(
        BundleError, match=r"no bundle was written:\nimage tower, batch 1, length 1: max abs difference"
    ):
        tiny_gate(tmp_path, Tiny(), scale=1.002)


def test_the_gate_refuses_dropout(tmp_path: Path):
    with pytest.raises(BundleError, match=r"image tower, batch 5, length 16: max abs difference .*; cosine 0\.9"):
        tiny_gate(tmp_path, Tiny(dropout=0.1))


def test_the_gate_refuses_padding_that_leaks_even_if_torch_leaks_too(tmp_path: Path):
    leaky = TEXT_GRAPH.replace("there = Cast <to = 1> (attention_mask)", "mask = Cast <to = 1> (attention_mask)\n"
        "    none = Constant <value_float = 0.0> ()\n    gone = Mul (mask, none)\n"
        "    one = Constant <value_float = 1.0> ()\n    there = Add (gone, one)")  # fmt: skip
    with pytest.raises(
        BundleError, match=r"text tower, batch 2, length 3: .*cosine of a row in its batch and alone 0\."
    ):
        tiny_gate(tmp_path, Tiny(leak=True), text=leaky)


def test_the_gate_refuses_numbers_that_are_none(tmp_path: Path):
    broken = IMAGE_GRAPH.replace("norm = ReduceL2", "zeroed = Sub (pooled, pooled)\n    norm = ReduceL2").replace(
        "(pooled, axes)\n    embedding", "(zeroed, axes)\n    embedding"
    )
    with pytest.raises(BundleError, match="image tower, batch 1"):
        tiny_gate(tmp_path, Tiny(), image=broken)


def test_a_tower_whose_weights_were_touched_does_not_verify(bundle: Bundle, tmp_path: Path):
    """The golden outputs are the model's, so that even a graph with a fresh digest cannot pass for it."""
    folder = tmp_path / "touched"
    shutil.copytree(bundle.path, folder)
    model = onnx.load(folder / "text.onnx")
    tensor = next(one for one in model.graph.initializer if one.name.endswith("word_embeddings.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.5), tensor.name))
    onnx.save(model, folder / "text.onnx")
    with pytest.raises(BundleError, match=r"text\.onnx is damaged"):
        open_tower(Bundle.open(folder), "text")
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "text.onnx").read_bytes()
    manifest["files"]["text.onnx"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    failed = {check.name for check in verify(Bundle.open(folder)) if not check.ok}
    assert "SHA256SUMS" in failed
    names = [*manifest["files"], "manifest.json"]
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "SHA256SUMS").write_text("".join(f"{digests[name]}  {name}\n" for name in sorted(names)))
    assert {check.name for check in verify(Bundle.open(folder)) if not check.ok} == {"golden text"}


@pytest.mark.parametrize("content", [None, b""])
def test_a_run_without_words_makes_a_bundle_without(run: Path, tmp_path: Path, content: bytes | None):
    # Of an earlier release, or of fewer reports than a listed word must stand in.
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / WORDS).unlink()
    if content is not None:
        (folder / WORDS).write_bytes(content)
    assert main([str(folder), "--out", str(tmp_path / "bundle")]) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert WORDS not in bundle.files
    assert bundle.vocabulary().words is None
