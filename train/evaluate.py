"""`python -m train.evaluate RUN`: how well the checkpoint of a run retrieves among its held-out pairs.

The figures are those of `mcr-infer evaluate`, from the same code: a checkpoint and the bundle that is made of it are
judged alike. With `--masked` images and reports enter as they do in training, half hidden; the masks are drawn from the
seed of the run, so that two checkpoints see the same ones. Prompts for single findings are whole in both cases.
"""

import argparse
import dataclasses
import json
from pathlib import Path

from mcr_infer.cli import streams
from mcr_infer.errors import ConfigError, McrError


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

    from mcr_infer.evaluation.protocols import evaluate_pairs
    from train.checkpoint import load_model
    from train.data.opening import open_held_out
    from train.held_out import embed_pairs, embed_texts

    console = Console(stderr=True)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        if options.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("--device cuda: torch sees no GPU here; leave the option out to evaluate on the CPU")
        model, config = load_model(options.run)
        if options.masked and config.framework == "dual_stream":
            raise ConfigError(
                f"--masked: {options.run} is a dual stream, which contrasts whole inputs; leave the option out"
            )
        pairs, tokenizer = open_held_out(config, options.run, console)
        # In fp32 whatever the run was trained in, as the bundle that is made of it.
        exact = dataclasses.replace(config, run=dataclasses.replace(config.run, precision="fp32"))
        model.to(options.device)
        embedded = embed_pairs(model, pairs, exact, masked=options.masked, count=options.count)
        result = evaluate_pairs(
            embedded.images,
            embedded.texts,
            embedded.pairs,
            encode_text=lambda texts: embed_texts(model, tokenizer, list(texts), exact),
        )
    except McrError as exc:
        for line in f"error: {exc}".split("\n"):  # faults of a data set stand on a line each
            console.print(streams.printable(line), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    inputs = "masked" if options.masked else "whole"
    facts = {"run": options.run.name, "source": config.data.source, "inputs": inputs}
    if options.out is not None:
        options.out.write_text(json.dumps(facts | result.to_dict(), indent=1) + "\n", encoding="utf-8")
    streams.say(f"{options.run}: held-out pairs of {config.data.source}, {inputs} inputs.")
    print(f"\n{result.markdown()}", end="")
    return 0


def _positive(text: str) -> int:
    """Parse a count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    streams.run(main)
