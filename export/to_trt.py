"""Build TensorRT engines into a bundle: `python export/to_trt.py BUNDLE`, from any folder, without torch.

The building lives in the wheel (`mcr-infer build-engine`), since engines are built on the machine that serves; this is its
front for those who work in a checkout.
"""

import typer

from mcr_infer.cli import streams
from mcr_infer.cli.bundle import build_engine
from mcr_infer.errors import McrError


def main() -> int:
    """Run the command line; an error of ours becomes one line on stderr and exit code 1."""
    try:
        typer.run(build_engine)
    except McrError as error:
        streams.say(f"error: {error}", to_stderr=True)
        return 1
    return 0


if __name__ == "__main__":
    streams.run(main)
