"""Building an engine: a verified graph of a bundle -> TensorRT or TensorRT-RTX -> a file and its record.

The precision lives in the graph: networks are strongly typed (on request in TensorRT 10, always in 11), so what is built
computes in the types that the graph names and in no other. TF32 is off: it keeps 10 bits of the mantissa, and fp32 would
miss its parity.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcr_infer.errors import BackendError
from mcr_infer.files import atomic_write
from mcr_infer.inference import tensorrt_api
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.engine_profile import Profile
from mcr_infer.inference.engines import (
    EngineManifest,
    EngineRecord,
    changing,
    engine_file,
    source_digest,
)
from mcr_infer.inference.tensorrt_api import Flavor, import_flavor, keep_log
from mcr_infer.inference.tower import Side

RTX_ARCHITECTURES = ("sm80", "sm86", "sm89")
"""What TensorRT-RTX builds for when nothing is named: A100, the RTX 30 and A series, the RTX 40 and Ada series."""

SMALLEST_ARCHITECTURE = {"fp8": 89}
"""By precision, where its arithmetic begins: fp8 with Ada. TensorRT builds the others for all that it knows."""


def takes(precision: str, sm: str) -> bool:
    """Whether an architecture such as `sm86` computes in a precision."""
    return int(sm[2:]) >= SMALLEST_ARCHITECTURE.get(precision, 0)


def architectures_with(precision: str, flavor: Flavor, architectures: Sequence[str]) -> tuple[str, ...]:
    """Return which of the architectures that `build_engine` would build for compute in a precision.

    Raises `BackendError` as `build_engine` does where the GPU is missing or another one is meant.
    """
    meant = (tuple(architectures) or RTX_ARCHITECTURES) if flavor == "rtx" else (_this_gpu(architectures),)
    return tuple(sm for sm in meant if takes(precision, sm))


def build_engine(
    bundle: Bundle,
    side: Side,
    *,
    precision: str = "fp32",
    flavor: Flavor = "tensorrt",
    architectures: Sequence[str] = (),
    profile: Profile | None = None,
    workspace_bytes: int | None = None,
    timing_cache: Path | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
) -> EngineRecord:
    """Build the engine of one tower into the bundle and return its record, unverified until its parity is measured.

    `architectures` are such as `sm86`: those that TensorRT-RTX builds for, those of `RTX_ARCHITECTURES` that compute in
    the precision where none is named; with TensorRT only the GPU of this machine can be meant. `profile` None is
    `Profile.of(bundle)`. `workspace_bytes` bounds the scratch memory on the GPU. `timing_cache` is a file that a build
    reads, if it is there, and writes.
    Raises `BackendError` when the runtime or the GPU is missing, an option does not go with the flavour, an architecture
    does not compute in the precision, or the graph cannot be parsed or built; the words of TensorRT are in the message.
    `BundleError` when the graph is damaged.
    """
    trt = import_flavor(flavor)
    if flavor == "rtx":
        _refuse_for_rtx(hardware_compatible, version_compatible, timing_cache)
        targets = tuple(dict.fromkeys(architectures)) or architectures_with(precision, flavor, ())
        _refuse_unknown(trt, targets)
    else:
        targets = (_this_gpu(architectures),)
    _refuse_without_arithmetic(precision, targets)
    file = engine_file(side, precision, flavor, targets)
    graph = bundle.verified_tower(side, precision)
    shapes = profile or Profile.of(bundle)
    log = keep_log(trt)
    builder = _builder(trt, log)
    network = builder.create_network(_strongly_typed(trt))
    _parse(trt, network, graph, log)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    _add_profile(builder, network, config, side, shapes)
    if flavor == "rtx":
        config.num_compute_capabilities = len(targets)
        for index, sm in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, sm.upper()), index)
    if workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    if hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if timing_cache is not None:
        _read_timings(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{graph} cannot be built for {', '.join(targets)}: {log.errors()}")
    content = bytes(plan)
    record = EngineRecord(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        tower=side,
        precision=precision,
        flavor=flavor,
        architectures=targets,
        runtime_version=str(trt.__version__),
        profile=shapes,
        source_sha256=source_digest(bundle, side, precision),
        hardware_compatible=hardware_compatible,
        version_compatible=version_compatible,
    )
    with changing(bundle) as folder:
        atomic_write(folder / record.file, content)
        EngineManifest.read(bundle).with_engine(record).write()
        if timing_cache is not None:
            atomic_write(timing_cache, bytes(config.get_timing_cache().serialize()))
    return record


def _read_timings(config: Any, file: Path) -> None:
    try:
        known = file.read_bytes() if file.exists() else b""
    except OSError as exc:
        raise BackendError(f"timing cache {file} cannot be read: {exc.strerror}") from exc
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        raise BackendError(
            f"timing cache {file} is of another GPU or version of TensorRT: name another file or delete it"
        )


def _refuse_for_rtx(hardware_compatible: bool, version_compatible: bool, timing_cache: Path | None) -> None:
    for given, option, instead in (
        (hardware_compatible, "hardware compatibility", "name every architecture with --arch"),
        (version_compatible, "version compatibility", "build again after an upgrade: it takes seconds"),
        (timing_cache is not None, "timing cache", "it times nothing while it builds"),
    ):
        if given:
            raise BackendError(f"TensorRT-RTX has no {option}: {instead}")


def _refuse_unknown(trt: Any, targets: tuple[str, ...]) -> None:
    known = sorted(
        (name.lower() for name in trt.ComputeCapability.__members__ if name.startswith("SM")),
        key=lambda sm: int(sm[2:]),
    )
    unknown = [sm for sm in targets if sm not in known]
    if unknown:
        raise BackendError(
            f"TensorRT-RTX {trt.__version__} does not build for {', '.join(unknown)}, only for {', '.join(known)}; "
            "elsewhere build with --flavor tensorrt on the GPU that serves"
        )


def _refuse_without_arithmetic(precision: str, targets: tuple[str, ...]) -> None:
    unable = [sm for sm in targets if not takes(precision, sm)]
    if unable:
        raise BackendError(
            f"GPUs of {', '.join(unable)} have no arithmetic in {precision}, which begins with "
            f"sm{SMALLEST_ARCHITECTURE[precision]}: choose another --precision there, such as int8-qdq or fp16"
        )


def _this_gpu(architectures: Sequence[str]) -> str:
    gpu = tensorrt_api.find_gpu()
    if gpu is None:
        raise BackendError(
            "TensorRT builds on the GPU that serves, and this machine has no GPU or no driver (nvidia-smi tells): build "
            "there, or ahead of time with --flavor rtx"
        )
    other = [sm for sm in architectures if sm != gpu.sm]
    if other:
        raise BackendError(
            f"TensorRT builds for the GPU of this machine, {gpu.sm} ({gpu.name}), not for {', '.join(other)}: leave out "
            "--arch, use --hardware-compatible, or build ahead of time with --flavor rtx"
        )
    return gpu.sm


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except (TypeError, RuntimeError) as exc:
        raise BackendError(f"{trt.__name__} {trt.__version__} does not start ({exc}; {log.errors()})") from exc


def _strongly_typed(trt: Any) -> int:
    """Return the flags of a network; TensorRT 11 ignores the flag that 10 needs."""
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _parse(trt: Any, network: Any, graph: Path, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    # From the file: the weights lie beside it.
    if parser.parse_from_file(str(graph)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    operators = sorted({error.node_operator() for error in errors if error.node_operator()})
    # For an operator that it does not know, the description is the bare value of a check.
    reasons = [f"{error.node_name()}: {error.desc()}" for error in errors if error.desc() not in ("", "false")]
    if operators:
        reasons.insert(0, f"it does not take the operators {', '.join(operators)} as they stand there")
    raise BackendError(
        f"{trt.__name__} {trt.__version__} cannot parse {graph}: {' | '.join(reasons)[:900] or log.errors()}; this "
        "precision is not for TensorRT, choose another --precision"
    )


def _add_profile(builder: Any, network: Any, config: Any, side: Side, profile: Profile) -> None:
    shapes = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes.set_shape(tensor.name, *profile.shapes(side, tuple(tensor.shape)))
    if config.add_optimization_profile(shapes) < 0:
        raise BackendError(f"the {side} tower does not take the profile {profile.to_dict()}")
