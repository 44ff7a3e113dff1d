"""`mcr-infer demo`.

Light to import: the command line registers it at every start.
"""

from pathlib import Path
from typing import Annotated

import typer

from mcr_infer.cli.options import JsonOption


def demo(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; created if it does not exist.")],
    count: Annotated[int, typer.Option(min=1, help="Number of phantoms.")] = 80,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first phantom; the others follow.")] = 0,
    json: JsonOption = False,
) -> None:
    """Write synthetic chest radiographs as DICOM, and truth.csv, which says what each one shows. No patient is in them."""
    from mcr_infer.cli import output
    from mcr_infer.cli.progress import RunProgress
    from mcr_infer.phantom.demo import write_demo

    with RunProgress("phantoms", lambda: count) as progress:
        for _ in write_demo(folder, count=count, seed=seed):
            progress.advance()
    output.show_demo(folder, count=count, as_json=json)
