"""`mcr-infer verify`: a bundle or an index, told apart by what lies in it; check, print.

Light to import: the command line registers it at every start.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.options import Device, JsonOption, PrecisionName, PrecisionOption

if TYPE_CHECKING:
    from mcr_infer.check import Check


def verify(
    path: Annotated[
        Path | None, typer.Argument(help="Folder of a bundle or of an index; without it the bundle that ships.")
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option("--device", help="Device to run the towers on: cpu, or the one that the precision is for."),
    ] = None,
    precision: PrecisionOption = PrecisionName.FP32,
    json: JsonOption = False,
) -> None:
    """Check a bundle on this machine (digests, golden outputs, batches), or an index (every row, vector and file)."""
    from mcr_infer import console
    from mcr_infer.bundle import MANIFEST
    from mcr_infer.index.audit import audit, holds_parts

    if path is not None and not (path / MANIFEST).exists() and holds_parts(path):
        if device is not None:
            raise typer.BadParameter("--device says where the towers of a bundle run, and an index has none")
        checks = audit(path)
    else:
        checks = _bundle_checks(path, device, precision)
    console.show_checks(checks, as_json=json)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _bundle_checks(path: Path | None, device: Device | None, precision: PrecisionName) -> "list[Check]":
    from mcr_infer.backends.flavor import FLAVORS
    from mcr_infer.bundle import MANIFEST, Bundle
    from mcr_infer.check import Check
    from mcr_infer.engine_gate import engine_file_checks, verify_engines
    from mcr_infer.errors import BundleError
    from mcr_infer.verify import verify

    # fp32 on the CPU is what the golden outputs were compared with; other precisions know their own device.
    where = device or (Device.CPU if precision is PrecisionName.FP32 else Device.AUTO)
    try:
        opened = Bundle.open(path)
    except BundleError as error:
        return [Check(name=MANIFEST, ok=False, detail=str(error))]
    if where in FLAVORS:
        return verify_engines(opened, precision=precision, flavor=FLAVORS[where])
    return [*verify(opened, device=where, precision=precision), *engine_file_checks(opened)]
