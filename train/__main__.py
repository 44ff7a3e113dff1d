"""`python -m train --config FILE.toml --out RUN`: train a model, or go on with the run that is there."""

import argparse
from pathlib import Path

from mcr_infer import output


def main() -> int:
    """Parse, train, and turn our own errors into exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m train", description="Train Masked Contrastive Reconstruction.")
    parser.add_argument("--config", type=Path, required=True, help="TOML file; see train/configs")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder; an existing one is resumed")
    parser.add_argument("--threads", type=int, default=None, help="threads of torch (default: its own choice)")
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
    try:
        train(load_config(arguments.config, arguments.set), arguments.out, console=console)
    except McrError as exc:
        for line in f"error: {exc}".split("\n"):  # faults of a data set stand on a line each
            console.print(output.printable(line), style="red", markup=False, highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("interrupted; the same command goes on from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    output.run(main)
