"""The parity gate: an exported tower must give what the torch model gives, or there is no bundle.

Each tower runs as the wheel will run it, over batch sizes, lengths, paddings and patch counts; the table of what was
measured goes into the manifest. A model from elsewhere is asked as well, as its authors run it: its own preprocessing in
RGB, its own tokenizer, its own forward pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mcr_infer import phantom
from mcr_infer.errors import BundleError
from mcr_infer.inference.bundle import TEXT_INPUTS, TOWER_OUTPUTS
from mcr_infer.inference.preprocess import INPUT_NAMES, Preprocess
from mcr_infer.inference.tokenizer import ReportTokenizer
from mcr_infer.inference.tower import Side, Tower
from mcr_infer.inference.verify import EXACT, MIN_COSINE_ROWS, Parity, compare, invariance, parity

BATCHES = (1, 2, 5)
SHORT_TEXTS = (3, 17)
"""Token counts beside the longest that the tower takes."""

_FIRST_WORD = 5
"""Ids below are special tokens: [PAD] [UNK] [CLS] [SEP] [MASK]."""

PICTURES = ((512, 512), (512, 387), (301, 512), (61, 47))
"""Rows and columns cut out of phantoms for a model from elsewhere: square, tall, wide, and smaller than most towers take."""

ORIGIN_REPORTS = range(40)
"""Seeds of phantoms whose reports a tokenizer from elsewhere has to split as its own library does."""

ORIGIN_SENTENCES = (
    "Bilateral pleural effusion",
    "NO ACUTE CARDIOPULMONARY ABNORMALITY.",
    "A 5 mm nodule in the right upper lobe; follow-up CT in 3-6 months (see above).",
    "Heart size: 52% of the thorax.\nLungs: clear\tPleura: no effusion, no pneumothorax",
    "Röntgenaufnahme, œdème, 37 °C, 2 µm, ±, ½",
    "ET tube's tip 4.5cm above the carina -- it's well positioned",
    '___ year old woman with "chest pain" & dyspnoea',
    "x",
)

Arrays = dict[str, NDArray[Any]]


class DualEncoder(Protocol):
    """What can be exported: a torch model with the two encoders, each giving embedding, local and weights."""

    def encode_image(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed patches [N, K, P*P] at positions [N, K], or pixels [N, S, S]: [N, D] of unit length, [N, K, D], [N, K]."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Embed tokens [N, T]: [N, D] of unit length, [N, T, D], [N, T] with 0 at padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """A model from elsewhere as its own library runs it: the other side of the comparison."""

    embed_pictures: Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
    """Grey pictures [H, W] to embeddings [N, D], through its own preprocessing and three channels."""

    embed_texts: Callable[[Sequence[str]], NDArray[np.float32]]
    """Texts to embeddings [N, D], through its own tokenizer."""

    token_ids: Callable[[Sequence[str]], NDArray[np.int64]]
    """Texts to token ids [N, T], filled up to the most that the tower takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case of the table: a batch of `batch` items of `length` patches or tokens."""

    tower: Side
    batch: int
    length: int
    parity: Parity
    """Against the torch model."""

    rows_min_cosine: float
    """Between each row in its batch and the same row alone, without padding."""

    padding_min_cosine: float | None
    """Between the batch and the same batch with other words under its padding; None without padding."""

    @property
    def failures(self) -> list[str]:
        """The limits that this case breaks, in words."""
        found = list(self.parity.failures)
        if not self.rows_min_cosine >= MIN_COSINE_ROWS:
            found.append(f"cosine of a row in its batch and alone {self.rows_min_cosine:.7f}, limit {MIN_COSINE_ROWS}")
        if self.padding_min_cosine is not None and not self.padding_min_cosine >= MIN_COSINE_ROWS:
            found.append(f"cosine under other padding {self.padding_min_cosine:.7f}, limit {MIN_COSINE_ROWS}")
        return found


def gate(
    model: DualEncoder, towers: dict[Side, Tower], *, preprocess: Preprocess, max_tokens: int, vocab_size: int
) -> list[dict[str, object]]:
    """Measure every case and return the table; raises `BundleError` with every limit that was broken."""
    rows = [
        _measure(model, towers[side], side, inputs)
        for side, inputs in _cases(preprocess, max_tokens=max_tokens, vocab_size=vocab_size)
    ]
    broken = [
        f"{row.tower} tower, batch {row.batch}, length {row.length}: {'; '.join(row.failures)}"
        for row in rows
        if row.failures
    ]
    if broken:
        raise BundleError("the exported towers do not match the model, no bundle was written:\n" + "\n".join(broken))
    return [_rounded(row) for row in rows]


def gate_origin(
    origin: Origin, towers: dict[Side, Tower], *, preprocess: Preprocess, tokenizer: ReportTokenizer
) -> dict[str, dict[str, object]]:
    """Compare pictures and sentences, all the way to their embeddings, with a model from elsewhere; return the figures.

    Raises `BundleError` where the tokenizer splits a sentence differently or an embedding strays beyond the limits of fp32.
    """
    made = [phantom.make(seed) for seed in ORIGIN_REPORTS]
    texts = [*ORIGIN_SENTENCES, *(one.report.text for one in made), " ".join(one.report.text for one in made)]
    ids, mask = tokenizer.encode(texts)
    wanted = origin.token_ids(texts)
    filled = np.full_like(wanted, tokenizer.pad_id)
    filled[:, : ids.shape[1]] = ids
    for text, row, expected in zip(texts, filled, wanted, strict=True):
        if not np.array_equal(row, expected):
            raise BundleError(
                f"the tokenizer of the bundle would give {row.tolist()[:24]} for {text[:80]!r}, the model's own gives "
                f"{expected.tolist()[:24]}: no bundle was written"
            )
    pictures = [
        np.round(one.radiograph().pixels * 255).astype(np.uint8)[:rows, :columns]
        for one, (rows, columns) in zip(made, PICTURES, strict=False)
    ]
    cut = [preprocess.patches(picture.astype(np.float32) / np.float32(255)) for picture in pictures]
    image = preprocess.tower_inputs(np.stack([one for one, _ in cut]), np.stack([one for _, one in cut]))
    got = {
        "image": towers["image"].run(image, ("embedding",))["embedding"],
        "text": towers["text"].run({"input_ids": ids, "attention_mask": mask}, ("embedding",))["embedding"],
    }
    expected_vectors = {"image": origin.embed_pictures(pictures), "text": origin.embed_texts(texts)}
    found: dict[str, dict[str, object]] = {}
    for side, vectors in expected_vectors.items():
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        worst, cosine = compare(got[side], unit)
        if not (worst <= EXACT.max_abs and cosine >= EXACT.min_cosine):
            raise BundleError(
                f"the {side} tower does not give what the model gives as its own library runs it, no bundle was written: "
                f"max abs difference {worst:.1e}, limit {EXACT.max_abs:.0e}; cosine {cosine:.6f}, limit {EXACT.min_cosine}"
            )
        found[side] = {"items": len(unit), "max_abs": float(f"{worst:.1e}"), "min_cosine": round(cosine, 7)}
    return found


def reference(model: DualEncoder, side: Side, inputs: Arrays) -> Arrays:
    """Run the torch model: what the towers have to give."""
    encode = model.encode_image if side == "image" else model.encode_text
    names = TEXT_INPUTS if side == "text" else INPUT_NAMES["pixels" if "pixels" in inputs else "patches"]
    with torch.inference_mode():
        outputs = encode(*(torch.from_numpy(inputs[name]) for name in names))
    return {name: value.numpy() for name, value in zip(TOWER_OUTPUTS, outputs, strict=True)}


def _cases(preprocess: Preprocess, *, max_tokens: int, vocab_size: int) -> Iterator[tuple[Side, Arrays]]:
    rng = np.random.default_rng(0)
    every = preprocess.patch_count
    for batch in BATCHES:
        for length in sorted({1, max(1, every // 2), every}):
            patches = rng.random((batch, length, preprocess.patch_size**2), dtype=np.float32)
            chosen = [np.sort(rng.permutation(every)[:length]) for _ in range(batch)]
            yield "image", preprocess.tower_inputs(patches, np.stack(chosen).astype(np.int64))
        for length in sorted({min(length, max_tokens) for length in (*SHORT_TEXTS, max_tokens)}):
            # The first row is full, the others end earlier and earlier.
            ends = np.maximum(2, length - np.arange(batch) * max(1, length // 4))
            attention_mask = (np.arange(length) < ends[:, None]).astype(np.int64)
            input_ids = rng.integers(_FIRST_WORD, vocab_size, (batch, length)) * attention_mask
            yield "text", {"input_ids": input_ids, "attention_mask": attention_mask}


def _measure(model: DualEncoder, tower: Tower, side: Side, inputs: Arrays) -> Row:
    expected, got = reference(model, side, inputs), tower.run(inputs)
    mask = inputs.get("attention_mask")
    padding = None
    if mask is not None and not mask.all():
        other = {**inputs, "input_ids": np.where(mask > 0, inputs["input_ids"], _FIRST_WORD)}
        padding = compare(tower.run(other)["embedding"], got["embedding"])[1]
    return Row(
        tower=side,
        batch=got["weights"].shape[0],
        length=got["weights"].shape[1],
        parity=parity(got, expected, mask),
        rows_min_cosine=invariance(tower, inputs),
        padding_min_cosine=padding,
    )


def _rounded(row: Row) -> dict[str, object]:
    """Keep the digits that mean something: what lies below them changes from machine to machine."""
    values = asdict(row)
    values |= values.pop("parity")
    return {
        name: float(f"{value:.1e}") if name.endswith("_abs") else round(value, 7) if isinstance(value, float) else value
        for name, value in values.items()
    }
