"""`python -m train.evaluate RUN`: how well the checkpoint of a run retrieves among its held-out pairs.

The figures are those of `mcr-infer evaluate`, from the same code: a checkpoint and the bundle that is made of it are
judged alike. With `--masked` images and reports enter as they do in training, half hidden; the masks are drawn from the
seed of the run, so that two checkpoints see the same ones. Prompts for single findings are whole in both cases.
"""

import argparse
import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import ConfigError, McrError
from mcr_infer.evaluate import Evaluation, evaluate_pairs
from mcr_infer.pairs import Pair

if TYPE_CHECKING:
    import torch

    from mcr_infer.reports import ReportTokenizer
    from train.config import Config
    from train.data import Batch, Pairs
    from train.model import MCR

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Held-out pairs in the common space, row i from pair i."""

    images: Vectors
    """[N, D]"""
    texts: Vectors
    """[N, D]"""
    pairs: tuple[Pair, ...]
    """What evaluation knows of them; `image` is the name of the source and `report` its tokens: reports that the tower
    cannot tell apart are equal."""

    @property
    def labels(self) -> tuple[str | None, ...]:
        """The finding sets by which retrieval is judged; None where nobody labelled the pair."""
        return tuple(pair.findings for pair in self.pairs)


def embed_pairs(
    model: "MCR", pairs: "Pairs", config: "Config", *, masked: bool = False, count: int | None = None
) -> Embeddings:
    """Embed the held-out pairs, or the first `count` of them, on the model's device and in the precision of the run.

    The model is left in eval mode. Raises `ConfigError` for masked inputs of a dual stream, which contrasts whole ones.
    """
    import torch

    from train.data import collate

    if masked and config.framework == "dual_stream":
        raise ConfigError(
            "the run has framework = 'dual_stream', which contrasts whole inputs only: evaluate it without --masked"
        )
    model.eval()
    total = len(pairs) if count is None else min(count, len(pairs))
    images, texts, known = [], [], []
    for start in range(0, total, config.optim.batch_size):
        rows = range(start, min(start + config.optim.batch_size, total))
        samples = [pairs.held_out(row, masked=masked) for row in rows]
        with torch.inference_mode(), autocast(model.logit_scale.device, config):
            image, text = _embed(model, collate(samples).to(model.logit_scale.device), masked=masked)
        images.append(image.float().cpu().numpy())
        texts.append(text.float().cpu().numpy())
        known += [
            Pair(
                image=Path(sample.source),
                report=" ".join(map(str, sample.input_ids)),
                patient=pairs.patient(row),
                findings=pairs.labels(row),
            )
            for row, sample in zip(rows, samples, strict=True)
        ]
    return Embeddings(images=np.concatenate(images), texts=np.concatenate(texts), pairs=tuple(known))


def embed_texts(model: "MCR", tokenizer: "ReportTokenizer", texts: list[str], config: "Config") -> Vectors:
    """Embed whole texts, such as prompts, to unit vectors [N, D]."""
    import torch

    device = model.logit_scale.device
    ids, there = (torch.from_numpy(array).to(device) for array in tokenizer.encode(texts))
    with torch.inference_mode(), autocast(device, config):
        vectors, _, _ = model.encode_text(ids, there)
    embedded: Vectors = vectors.float().cpu().numpy()
    return embedded


def autocast(device: "torch.device", config: "Config") -> "torch.autocast":
    """Return the context in which towers run in the precision of the run."""
    import torch

    lower = torch.float16 if config.run.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, lower, enabled=config.run.precision != "fp32")


def evaluate_run(
    model: "MCR", pairs: "Pairs", tokenizer: "ReportTokenizer", config: "Config", *, masked: bool, count: int | None
) -> Evaluation:
    """Evaluate under every protocol that the labels of the pairs allow."""
    embedded = embed_pairs(model, pairs, config, masked=masked, count=count)
    return evaluate_pairs(
        embedded.images,
        embedded.texts,
        embedded.pairs,
        encode_text=lambda texts: embed_texts(model, tokenizer, list(texts), config),
    )


def _embed(model: "MCR", batch: "Batch", *, masked: bool) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Embed a batch to [N, D] each: whole inputs as they will be served, masked ones by the training pass."""
    if masked:
        output = model(batch)
        return output.image, output.text
    image, _, _ = model.encode_image(batch.patches, batch.visible)
    text, _, _ = model.encode_text(batch.input_ids, batch.attention_mask)
    return image, text


def main(arguments: list[str] | None = None) -> int:
    """Load the checkpoint, embed, print the figures, and turn our own errors into exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of python -m train")
    parser.add_argument("--masked", action="store_true", help="images and reports half hidden, as in training")
    parser.add_argument("--count", type=_positive, default=None, help="only the first COUNT held-out pairs")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where the towers run (default: cpu)")
    parser.add_argument("--threads", type=_positive, default=None, help="threads of torch (default: its own choice)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE.json", help="write the figures here, too")
    options = parser.parse_args(arguments)

    # Imported here, so that --help does not wait for torch.
    import torch
    from rich.console import Console

    from train.checkpoint import load_model
    from train.data.opening import open_held_out

    console = Console(stderr=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: torch sees no GPU here; leave the option out to evaluate on the CPU")
        model, config = load_model(options.run)
        pairs, tokenizer = open_held_out(config, options.run, console)
        # In fp32 whatever the run was trained in, as the bundle that is made of it.
        exact = dataclasses.replace(config, run=dataclasses.replace(config.run, precision="fp32"))
        result = evaluate_run(
            model.to(options.device), pairs, tokenizer, exact, masked=options.masked, count=options.count
        )
    except McrError as exc:
        console.print(f"error: {exc}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    inputs = "masked" if options.masked else "whole"
    facts = {"run": options.run.name, "source": config.data.source, "inputs": inputs}
    print(f"{options.run}: held-out pairs of {config.data.source}, {inputs} inputs.\n\n{result.markdown()}", end="")
    if options.out is not None:
        options.out.write_text(json.dumps(facts | result.to_dict(), indent=1) + "\n", encoding="utf-8")
    return 0


def _positive(text: str) -> int:
    """Parse a count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
