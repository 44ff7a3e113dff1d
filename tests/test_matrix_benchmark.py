"""The matrix of ways to run a tower: the same network everywhere, a reason where there is none, no other network timed."""

import pytest
import torch

from benchmarks import large, matrix
from benchmarks.harness import Gauge
from benchmarks.part import Measure, Options
from benchmarks.roofline import Architecture, threads_to_try
from benchmarks.ways import Way, ways
from mcr_infer.inference.bundle import Bundle

SIZES = {
    "image": {"image_size": 32, "patch_size": 8, "width": 16, "depth": 2, "heads": 2},
    "text": {"vocab_size": 1500, "max_tokens": 24, "width": 16, "depth": 1, "heads": 2},
    "space": {"embedding_dim": 12, "scorer_width": 8},
    "decoders": {"image_width": 12, "image_heads": 2, "report_heads": 2},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return large.exported(tmp_path_factory.mktemp("made") / "tiny", SIZES, name="tiny", words=1500)


def _subject(bundle: Bundle, model: torch.nn.Module) -> matrix.Subject:
    return matrix.Subject(
        name="tiny", side="image", bundle=bundle, model=model, architecture=Architecture.of("tiny", SIZES["image"]),
        shapes=(matrix.Shape(batch=1, tokens=16), matrix.Shape(batch=3, tokens=5)), costs={"int8": "0.1, 0.2"},
    )  # fmt: skip


@pytest.mark.parametrize("side", ["image", "text"])
def test_every_way_runs_the_same_network_or_says_why_not(bundle: Bundle, side):
    model = matrix._model(SIZES)
    opened = {way.name: way for way in ways(bundle, model, side, threads=1, compiled=False)}
    inputs = {
        "image": _subject(bundle, model).inputs(matrix.Shape(batch=2, tokens=7)),
        "text": {"input_ids": torch.tensor([[2, 7, 9, 3]]).numpy(), "attention_mask": torch.ones(1, 4).long().numpy()},
    }[side]
    base = opened["torch eager, fp32"].run(inputs)
    assert (base * base).sum(axis=1) == pytest.approx(1.0)
    least = {"ONNX Runtime CPU, fp32": 0.999999, "torch eager, bf16": 0.999, "torch eager, fp16": 0.9999,
             "torch eager, int8": 0.99}  # fmt: skip
    for name, bound in least.items():
        assert (opened[name].run(inputs) * base).sum(axis=1).min() >= bound, name
    reasons = {name: way.why_not for name, way in opened.items() if way.call is None}
    assert reasons["ONNX Runtime CPU, int8"] == "the bundle tiny has no towers in int8, only in fp32"
    assert reasons["torch.compile, fp32"] == "left out of the quick run: compiling takes a minute"
    assert len(opened) == len(reasons) + 5 + (4 if torch.cuda.is_available() else 0)
    if not torch.cuda.is_available():
        assert reasons["torch eager CUDA, fp16"] == "PyTorch finds no GPU"
        assert reasons["ONNX Runtime CUDA, fp16"] == reasons["ONNX Runtime CUDA, fp32"]
        assert opened["TensorRT, fp32"].on_gpu


def test_a_way_runs_or_has_a_reason():
    with pytest.raises(ValueError, match="TensorRT, fp16 either runs or has a reason"):
        Way(backend="TensorRT", precision="fp16")
    with pytest.raises(ValueError, match="TensorRT, fp16 does not run here: no GPU"):
        Way(backend="TensorRT", precision="fp16", why_not="no GPU").run({})


def test_another_network_is_named_and_not_timed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(matrix, "_TARGET_SECONDS", 0.0)
    options = Options(quick=True)
    torch.manual_seed(1)
    with Gauge() as gauge:
        rows, missing, figures = matrix._rows(_subject(bundle, matrix._model(SIZES)), options, gauge)
        other = matrix._model(SIZES)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.5 * torch.randn_like(parameter))
        wrong_rows, wrong, _ = matrix._rows(_subject(bundle, other), options, gauge)
    backends = {(row[1], row[2]) for row in rows}
    assert ("ONNX Runtime CPU", "fp32") in backends
    assert ("ONNX Runtime CPU", "fp32") not in missing
    assert [row[3:5] for row in rows if row[1:3] == ("ONNX Runtime CPU", "fp32")] == [(1, 16), (3, 5)]
    assert all(len(row) == len(matrix.COLUMNS) for row in rows)
    assert isinstance(figures["matrix.tiny.ONNX_Runtime_CPU.fp32.1x16"].measure, Measure)
    assert ("ONNX Runtime CPU", "fp32") not in {(row[1], row[2]) for row in wrong_rows}
    assert wrong["ONNX Runtime CPU", "fp32"].startswith("not the same network as in PyTorch: cosine ")


def test_what_a_precision_costs_is_what_the_manifest_says():
    shipped = Bundle.open()
    loss = shipped.manifest["precisions"]["int8"]["retrieval"]["recall_loss"]
    first, second = map(float, matrix.retrieval_costs(shipped)["int8"].split(", "))
    assert first == pytest.approx(100 * loss["image_to_report_r10"], abs=0.05)
    assert second == pytest.approx(100 * loss["report_to_image_r10"], abs=0.05)
    way = Way(backend="torch eager", precision="int8", why_not="not opened here")
    subject = _subject(shipped, torch.nn.Identity())
    assert matrix._cost(subject, way) == "not measured"
    assert matrix._cost(subject, Way(backend="ONNX Runtime CPU", precision="int8", why_not="not opened")) == "0.1, 0.2"


def test_threads_are_doubled_up_to_the_cores():
    assert [threads_to_try(cores) for cores in (1, 2, 6, 8)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8]]
