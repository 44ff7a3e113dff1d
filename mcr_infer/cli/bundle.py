"""`mcr-infer build-engine`, which `export/to_trt.py` fronts in a checkout, and `mcr-infer verify`, of bundles and indexes.

Light to import: the command line registers them at every start.
"""

import json as codec
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcr_infer.cli.options import Device, JsonOption, PrecisionName, PrecisionOption

if TYPE_CHECKING:
    from mcr_infer.errors import CheckResult
    from mcr_infer.inference.bundle import Bundle
    from mcr_infer.inference.engines import EngineRecord

_MEBIBYTE = 2**20


class FlavorName(StrEnum):
    """Which TensorRT builds."""

    TENSORRT = "tensorrt"
    RTX = "rtx"


class TowerName(StrEnum):
    """Which tower is built."""

    IMAGE = "image"
    TEXT = "text"


def build_engine(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a bundle; without it the one that ships.")] = None,
    flavor: Annotated[
        FlavorName, typer.Option(help="tensorrt builds on the GPU that serves; rtx ahead of time, without a GPU.")
    ] = FlavorName.TENSORRT,
    precision: Annotated[
        list[str] | None, typer.Option(help="Repeat for several; without it all that the bundle has for TensorRT.")
    ] = None,
    tower: Annotated[list[TowerName] | None, typer.Option(help="image or text; without it both.")] = None,
    arch: Annotated[
        list[str] | None, typer.Option(help="rtx: architectures to build for; without it sm80, sm86 and sm89.")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(help="Smallest:usual:largest of an axis, as batch=1:8:32, patches=1:196:196 or tokens=1:32:128."),
    ] = None,
    workspace: Annotated[int | None, typer.Option(min=1, help="Most scratch memory on the GPU, in MiB.")] = None,
    timing_cache: Annotated[Path | None, typer.Option(help="File that speeds up the next build.")] = None,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="Run on every GPU from Ampere on; slower.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Run on later versions of TensorRT; slower.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Build TensorRT engines into a bundle. With a GPU they are measured at once; without one they are marked unverified."""
    from mcr_infer.cli.output import note
    from mcr_infer.inference import engine_build
    from mcr_infer.inference.bundle import Bundle
    from mcr_infer.inference.engine_profile import Profile

    chosen = Bundle.open(bundle)
    named = [one.lower() for text in arch or () for one in text.split(",") if one]
    for name in precision or _for_tensorrt(chosen):
        targets: Sequence[str] = named
        if not precision and name in engine_build.SMALLEST_ARCHITECTURE:
            targets = engine_build.architectures_with(name, flavor.value, named)
            if not targets:
                note(f"{name} is left out: its arithmetic begins with sm{engine_build.SMALLEST_ARCHITECTURE[name]}")
                continue
        for side in tower or list(TowerName):
            record = engine_build.build_engine(
                chosen,
                side.value,
                precision=name,
                flavor=flavor.value,
                architectures=targets,
                profile=Profile.of(chosen, profile or ()),
                workspace_bytes=None if workspace is None else workspace * _MEBIBYTE,
                timing_cache=timing_cache,
                hardware_compatible=hardware_compatible,
                version_compatible=version_compatible,
            )
            _show(chosen, *_measured(chosen, record), as_json=json)


def _for_tensorrt(bundle: "Bundle") -> list[str]:
    return [bundle.precision, *(name for name, one in bundle.precisions.items() if "tensorrt" in one.runtimes)]


def _measured(bundle: "Bundle", record: "EngineRecord") -> tuple["EngineRecord", str]:
    """Run the gate where the engine fits the GPU of this machine; return the record and what came of it.

    An engine that fails the gate is deleted, and its `BackendError` raised.
    """
    from mcr_infer.errors import BackendError
    from mcr_infer.inference.engines import discard
    from mcr_infer.inference.tensorrt_api import find_gpu

    try:
        gpu = find_gpu()
    except BackendError as error:
        return record, f"unverified ({error})"
    if gpu is None:
        return record, "unverified (no GPU here)"
    if gpu.sm not in record.architectures:
        return record, f"unverified (the GPU here is {gpu.sm})"
    from mcr_infer.inference.verify import validate_engine

    try:
        admitted = validate_engine(bundle, record, sm=gpu.sm)
    except BackendError:
        discard(bundle, record)
        raise
    return admitted, f"verified on {gpu.name}: max abs difference {admitted.parity[gpu.sm]['max_abs']:.1e}"


def _show(bundle: "Bundle", record: "EngineRecord", state: str, *, as_json: bool) -> None:
    import shlex

    from mcr_infer.cli.output import note
    from mcr_infer.cli.streams import say
    from mcr_infer.inference.engines import FOLDER
    from mcr_infer.inference.tensorrt_api import DEVICES

    if as_json:
        print(codec.dumps(record.to_dict()))
    else:
        say(f"{bundle.path / FOLDER / record.file}  {record.bytes / _MEBIBYTE:.1f} MiB  {state}")
    if not record.parity:
        options = f"--device {DEVICES[record.flavor]} --precision {record.precision}"
        note(f"before {record.file} serves: mcr-infer verify {shlex.quote(str(bundle.path))} {options}")


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
    from mcr_infer.cli import output
    from mcr_infer.index.audit import audit, holds_parts
    from mcr_infer.inference.bundle import MANIFEST

    if path is not None and not (path / MANIFEST).exists() and holds_parts(path):
        if device is not None:
            raise typer.BadParameter("--device says where the towers of a bundle run, and an index has none")
        checks = audit(path)
    else:
        checks = _bundle_checks(path, device, precision)
    output.show_checks(checks, as_json=json)
    raise typer.Exit(0 if all(check.ok for check in checks) else 1)


def _bundle_checks(path: Path | None, device: Device | None, precision: PrecisionName) -> "list[CheckResult]":
    from mcr_infer.errors import BundleError, CheckResult
    from mcr_infer.inference.bundle import MANIFEST, Bundle
    from mcr_infer.inference.tensorrt_api import FLAVORS
    from mcr_infer.inference.verify import engine_file_checks, verify, verify_engines

    # fp32 on the CPU is what the golden outputs were compared with; other precisions know their own device.
    where = device or (Device.CPU if precision is PrecisionName.FP32 else Device.AUTO)
    try:
        opened = Bundle.open(path)
    except BundleError as error:
        return [CheckResult(name=MANIFEST, ok=False, detail=str(error))]
    if where in FLAVORS:
        return verify_engines(opened, precision=precision, flavor=FLAVORS[where])
    return [*verify(opened, device=where, precision=precision), *engine_file_checks(opened)]
