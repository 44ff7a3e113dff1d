"""Models of public classes become bundles: small ones with random weights, from folders, against their own libraries."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import open_clip
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessorPil, CLIPVisionConfig, RobertaConfig

import foreigners
from conftest import json_lines, run_cli
from export import from_open_clip, from_transformers
from export.patch_towers import PatchProjection
from export.quantize import add_precision
from foreign_bundles import EACH, Made
from mcr_infer.errors import BackendError
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.encoder import ImageEncoder, TextEncoder
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.verify import verify

SENTENCES = ["No acute disease.", "there is a large left pneumothorax, and the heart is enlarged " * 4, "Effusion"]


def radiographs() -> list[Radiograph]:
    """Noise on a slope, of several shapes; 8 bits, as their libraries read them."""
    found = []
    for seed, (height, width) in enumerate(((70, 50), (45, 91), (64, 64))):
        noise = np.random.default_rng(seed).integers(0, 100, (height, width)) + np.arange(width)
        found.append(Radiograph(pixels=noise.astype(np.float32) / np.float32(255), source="png"))
    return found


def pictures() -> list[Image.Image]:
    return [Image.fromarray(np.round(one.pixels * 255).astype(np.uint8)).convert("RGB") for one in radiographs()]


def unit(vectors: torch.Tensor) -> np.ndarray:
    return nn.functional.normalize(vectors, dim=-1).numpy()


# ---- What a bundle of each kind is -------------------------------------------------------------------------------------

FACTS = {
    # image input, patches, longest text, filling, what weights the image tower gives
    "clip": ("patches", 16, 30, "later", "uniform"),
    "siglip": ("patches", 16, 24, "all", "attention of the pooling head, mean of its heads"),
    "dual_encoder": ("patches", 16, 40, "none", "uniform"),
    "open_clip_vit": ("patches", 16, 20, "later", "uniform"),
    "open_clip_siglip": ("patches", 100, 24, "all", "attention of the pooling head, mean of its heads"),
    "biomed_clip": ("patches", 100, 32, "none", "uniform"),
    "open_clip_resnet": ("pixels", 1, 20, "later", "1"),
}


@pytest.mark.parametrize("kind", EACH)
def test_a_bundle_says_what_it_is_and_verifies(foreign_bundle: Made, kind: str):
    model, bundle = foreign_bundle(kind)
    image_input, patches, longest, seen, weights = FACTS[kind]
    assert bundle.preprocess.input == image_input
    assert (bundle.preprocess.patch_count, bundle.max_tokens, bundle.preprocess.bits) == (patches, longest, 8)
    assert bundle.padding is not None
    assert bundle.padding.seen == seen
    assert bundle.manifest["outputs"]["image"]["weights"] == weights
    assert bundle.notice == (
        "the towers of this bundle are those of someones-model; mcr-infer has not evaluated them on radiographs; "
        "licence: MIT"
    )
    assert bundle.verified("LICENSE").read_text() == "# Theirs\n"
    failed = [check for check in verify(bundle) if not check.ok]
    assert failed == []
    for path in bundle.path.iterdir():
        assert str(model.parent).encode() not in path.read_bytes(), f"{path.name} names a path of this machine"


@pytest.mark.parametrize("kind", EACH)
def test_the_gates_measured_every_case(foreign_bundle: Made, kind: str):
    _, bundle = foreign_bundle(kind)
    image_input, patches, longest, *_ = FACTS[kind]
    rows = bundle.manifest["parity"]
    lengths = (1,) if image_input == "pixels" else (1, patches // 2, patches)
    cases = {(row["tower"], row["batch"], row["length"]) for row in rows}
    assert cases == {("image", n, k) for n in (1, 2, 5) for k in lengths} | {
        ("text", n, t) for n in (1, 2, 5) for t in (3, 17, longest)
    }
    assert max(row["max_abs"] for row in rows) < 1e-5
    assert min(row["rows_min_cosine"] for row in rows) > 0.99999
    origin = bundle.manifest["origin_parity"]
    assert (origin["image"]["items"], origin["text"]["items"]) == (4, 49)
    assert max(one["max_abs"] for one in origin.values()) < 1e-5


@pytest.mark.parametrize("kind", EACH)
def test_a_batch_is_its_rows(foreign_bundle: Made, kind: str):
    _, bundle = foreign_bundle(kind)
    images, texts = (
        ImageEncoder(bundle, device="cpu", threads=1),
        TextEncoder(bundle, device="cpu", threads=1, long_text="truncate"),
    )
    given = radiographs()
    together = images.encode_radiographs(given)
    alone = np.concatenate([images.encode_radiographs([one]) for one in given])
    assert (together * alone).sum(axis=1).min() > 0.99999
    words = texts.encode(SENTENCES)
    apart = np.concatenate([texts.encode([one]) for one in SENTENCES])
    assert (words * apart).sum(axis=1).min() > 0.99999
    # The checks would not notice a model that maps everything to one point.
    assert (together @ together.T).min() < 0.999
    assert (words @ words.T).min() < 0.999


# ---- Against the libraries, without the gate ---------------------------------------------------------------------------


def test_clip_of_transformers_gives_what_transformers_gives(foreign_bundle: Made):
    folder, bundle = foreign_bundle("clip")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    pixels = CLIPImageProcessorPil.from_pretrained(folder)(images=pictures(), return_tensors="pt").pixel_values
    ids = tokenizer(SENTENCES, padding=True, truncation=True, max_length=30, return_tensors="pt")
    with torch.inference_mode():
        image = unit(model.get_image_features(pixel_values=pixels).pooler_output)
        text = unit(model.get_text_features(**ids).pooler_output)
    assert np.abs(ImageEncoder(bundle, device="cpu").encode_radiographs(radiographs()) - image).max() < 1e-5
    assert np.abs(TextEncoder(bundle, device="cpu", long_text="truncate").encode(SENTENCES) - text).max() < 1e-5


def test_siglip_sees_its_filling_and_no_mask_as_in_training(foreign_bundle: Made):
    folder, bundle = foreign_bundle("siglip")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(SENTENCES, padding="max_length", truncation=True, max_length=24, return_tensors="pt").input_ids
    with torch.inference_mode():
        right = unit(model.get_text_features(input_ids=ids).pooler_output)
        short = tokenizer(SENTENCES[:1], return_tensors="pt").input_ids
        wrong = unit(model.get_text_features(input_ids=short).pooler_output)
    got = TextEncoder(bundle, device="cpu", long_text="truncate").encode(SENTENCES)
    assert np.abs(got - right).max() < 1e-5
    # Unfilled, the same sentence is another vector: the rule matters.
    assert (wrong[0] * right[0]).sum() < 0.99


@pytest.mark.parametrize("kind", ["biomed_clip", "open_clip_resnet"])
def test_open_clip_gives_what_open_clip_gives(foreign_bundle: Made, kind: str):
    folder, bundle = foreign_bundle(kind)
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    with torch.inference_mode():
        image = unit(model.eval().encode_image(torch.stack([transform(one) for one in pictures()])))
        text = unit(model.encode_text(tokenizer(SENTENCES)))
    assert np.abs(ImageEncoder(bundle, device="cpu").encode_radiographs(radiographs()) - image).max() < 1e-5
    assert np.abs(TextEncoder(bundle, device="cpu", long_text="truncate").encode(SENTENCES) - text).max() < 1e-5


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("save", "settings"),
    [
        (foreigners.open_clip_vit, {"pool_type": "avg"}),
        (foreigners.open_clip_vit, {"pool_type": "avg", "final_ln_after_pool": True}),
        (foreigners.biomed_clip, {"pooler": "mean_pooler"}),
        (foreigners.biomed_clip, {"pooler": "cls_pooler"}),
        (foreigners.dual_encoder, {"vision": CLIPVisionConfig, "text": RobertaConfig}),
    ],
)
def test_other_poolings_and_parts_pass_both_gates(save: Callable[..., Path], settings: dict, tmp_path: Path):
    importer = from_transformers if save is foreigners.dual_encoder else from_open_clip
    given = [str(save(tmp_path / "model", **settings)), "--out", str(tmp_path / "bundle"), "--rendering", "minmax"]
    assert importer.main(given) == 0
    bundle = Bundle.open(tmp_path / "bundle")
    assert (bundle.preprocess.input, bundle.preprocess.rendering) == ("patches", "minmax")
    assert max(one["max_abs"] for one in bundle.manifest["origin_parity"].values()) < 1e-5


def test_an_architecture_of_the_list_takes_weights_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "weights.pt").write_bytes(b"no weights")
    given = ["ViT-B-32", "--pretrained", str(tmp_path / "weights.pt"), "--out", str(tmp_path / "out")]
    assert from_open_clip.main(given) == 1
    assert "ViT-B-32 cannot be loaded by open_clip" in capsys.readouterr().err


def test_an_rgb_convolution_folds_to_grey():
    convolution = nn.Conv2d(3, 7, kernel_size=4, stride=4).double()
    mean, std = torch.tensor(foreigners.MEAN).double(), torch.tensor(foreigners.STD).double()
    grey = torch.rand(2, 8, 12, dtype=torch.float64)
    rgb = (grey[:, None].expand(-1, 3, -1, -1) - mean[:, None, None]) / std[:, None, None]
    wanted = convolution(rgb).flatten(2).transpose(1, 2)
    cut = grey.unflatten(1, (2, 4)).unflatten(3, (3, 4)).transpose(2, 3).flatten(3).flatten(1, 2)
    got = PatchProjection(convolution, mean=mean, std=std)(cut.float())
    assert (got - wanted).abs().max() < 1e-5


# ---- Local vectors, weights, patches, filling --------------------------------------------------------------------------


def test_the_weights_of_attention_pooling_are_those_of_the_pooling(foreign_bundle: Made):
    folder, bundle = foreign_bundle("siglip")
    head = AutoModel.from_pretrained(folder).eval().vision_model.head
    patches, positions = bundle.preprocess.patches(radiographs()[0].pixels)
    got = open_tower(bundle, "image", device="cpu").run({"patches": patches[None], "positions": positions[None]})
    assert got["weights"].sum() == pytest.approx(1, abs=1e-5)
    assert got["weights"].std() > 1e-3
    assert head.attention.num_heads == 2
    # Alone, a patch has all the weight, and its local vector is the embedding before it has length 1.
    one = open_tower(bundle, "image", device="cpu").run(
        {"patches": patches[None, 5:6], "positions": positions[None, 5:6]}
    )
    assert one["weights"].tolist() == [[1.0]]
    local = one["local"][0, 0]
    assert np.abs(local / np.linalg.norm(local) - one["embedding"][0]).max() < 1e-5


def test_a_class_token_says_nothing_of_where(foreign_bundle: Made):
    _, bundle = foreign_bundle("clip")
    patches, positions = bundle.preprocess.patches(radiographs()[0].pixels)
    got = open_tower(bundle, "image", device="cpu").run(
        {"patches": patches[None, ::4], "positions": positions[None, ::4]}
    )
    assert got["local"].shape == (1, 4, 16)
    assert got["weights"].tolist() == [[0.25] * 4]


def test_a_tower_of_whole_pictures_has_one_part_and_no_budget(foreign_bundle: Made):
    _, bundle = foreign_bundle("open_clip_resnet")
    graph = onnx.load(bundle.verified("image.onnx")).graph
    shapes = {
        one.name: [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim]
        for one in (*graph.input, *graph.output)
    }
    assert shapes == {
        "pixels": ["batch", 32, 32], "embedding": ["batch", 16], "local": ["batch", 1, 16], "weights": ["batch", 1],
    }  # fmt: skip
    got = open_tower(bundle, "image", device="cpu").run({"pixels": np.zeros((2, 32, 32), dtype=np.float32)})
    assert np.array_equal(got["local"][:, 0], got["embedding"])
    assert got["weights"].tolist() == [[1.0], [1.0]]
    halves = (np.zeros((2, 512), dtype=np.float32), np.arange(2))
    with pytest.raises(BackendError, match="takes whole pictures, not 2 patches: it has no patch budget"):
        ImageEncoder(bundle, device="cpu").encode([halves])


def test_special_tokens_cannot_be_typed(foreign_bundle: Made):
    _, bundle = foreign_bundle("clip")
    ids, mask = bundle.tokenizer().encode(["a <|endoftext|> b"])
    end = ids[0, -1]
    assert mask.all()
    assert (ids[0] == end).sum() == 1


# ---- End to end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["biomed_clip", "siglip", "open_clip_resnet"])
def test_phantoms_are_embedded_and_found(foreign_bundle: Made, kind: str, phantom_folder: Path, tmp_path: Path):
    _, bundle = foreign_bundle(kind)
    index = tmp_path / "index"
    done = run_cli("embed-images", phantom_folder, "--bundle", bundle.path, "--index", index, "--json")
    assert json_lines(done.stdout)[0]["embedded"] == 24
    assert "licence: MIT" in done.stderr
    run_cli("embed-reports", phantom_folder / "truth.csv", "--index", index)
    hits = json_lines(run_cli("query", "left pneumothorax", "--index", index, "-k", "3", "--json").stdout)
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    # The score is the cosine that the encoders give.
    text = TextEncoder(bundle, device="cpu").encode(["left pneumothorax"])[0]
    from mcr_infer.images import read_image

    image = ImageEncoder(bundle, device="cpu").encode_radiographs([read_image(hits[0]["path"])])[0]
    assert hits[0]["score"] == pytest.approx(float(text @ image), abs=1e-4)
    same = phantom_folder / Path(hits[1]["path"]).name
    assert (
        json_lines(run_cli("query", "--image", same, "--index", index, "-k", "1", "--json").stdout)[0]["score"] > 0.999
    )
    checks = json_lines(run_cli("verify", bundle.path, "--json").stdout)[0]
    assert checks["ok"]


# ---- In eight bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["biomed_clip", "siglip"])
def test_a_model_from_elsewhere_is_calibrated_for_tensorrt(foreign_bundle: Made, tmp_path: Path, kind: str):
    shutil.copytree(foreign_bundle(kind)[1].path, tmp_path / "bundle")
    # What it costs in retrieval means nothing: the weights are random.
    bundle = add_precision(tmp_path / "bundle", "int8-qdq", phantoms=20, calibration_phantoms=16, accept_loss=True)
    found = bundle.manifest["precisions"]["int8-qdq"]
    assert [line for line in found["broken_limits"] if "cosine" in line] == []
    assert 0.99 <= min(row["mean_cosine"] for row in found["parity"]) < 1 - 1e-6
    assert found["calibration"] == {"phantoms": 16, "first_seed": 1_000_000}
