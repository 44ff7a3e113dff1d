"""`python -m train --config FILE.toml --out RUN`: train a model, or go on with the run that is there."""

import argparse
import json
from pathlib import Path

from mcr_infer.cli import streams


def main() -> int:
    """Parse, train, and turn our own errors into exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m train", description="Train Masked Contrastive Reconstruction.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see train/configs")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder; an existing one is resumed")
    parser.add_argument("--threads", type=_positive, default=None, help="threads of torch (default: its own choice)")
    parser.add_argument(
        "--init-from", type=Path, metavar="RUN", help="start with the weights and the tokenizer of another run"
    )
    parser.add_argument("--tensorboard", action="store_true", help="write TensorBoard events to RUN/tensorboard, too")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. optim.steps=100"
    )
    arguments = parser.parse_args()

    # Imported here, so that --help does not wait for torch.
    import torch
    from rich.console import Console

    from mcr_infer.errors import McrError
    from train.config import load_config
    from train.loop import train

    console = Console(stderr=True)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    overrides = list(arguments.set)
    if arguments.init_from is not None:
        overrides.append(f"run.init_from={json.dumps(str(arguments.init_from))}")
    try:
        train(
            load_config(arguments.config, overrides),
            arguments.out,
            console=console,
            tensorboard=arguments.tensorboard,
            check_threads=arguments.threads is None,
        )
    except McrError as exc:
        for line in f"error: {exc}".split("\n"):  # faults of a data set stand on a line each
            console.print(streams.printable(line), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from the last checkpoint")
        return 130
    return 0


def _positive(text: str) -> int:
    """Parse a count of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    streams.run(main)
