"""The gate of engines: no engine serves before its outputs were compared with the golden ones on the GPU that it serves on.

    engine + golden inputs -> outputs on this GPU -> parity, batch invariance -> BUNDLE/engines/manifest.json

It runs right after a build where there is a GPU, and in `mcr-infer verify --device tensorrt` (or tensorrt-rtx) elsewhere.
"""

from collections.abc import Iterator

from mcr_infer.backends import Side, cuda
from mcr_infer.backends.engines import EngineManifest, EngineRecord, admit, find_record
from mcr_infer.backends.flavor import Flavor, import_flavor
from mcr_infer.backends.tensorrt import TensorRTTower
from mcr_infer.bundle import FULL, TOWER_OUTPUTS, Bundle
from mcr_infer.check import Check
from mcr_infer.errors import BackendError, McrError
from mcr_infer.verify import EXACT, golden_inputs, invariance, parity, rows_limit, verify


def gate(bundle: Bundle, record: EngineRecord, *, sm: str) -> EngineRecord:
    """Measure an engine on this GPU, of architecture `sm`, and admit it there; return its new record.

    Raises `BackendError` when it breaks a limit of its precision (an earlier admission on this architecture is withdrawn),
    or does not run; the profile has to take the golden inputs and single rows of them.
    """
    tower = TensorRTTower(
        EngineManifest.read(bundle).path(record), flavor=record.flavor, host_code=record.version_compatible
    )
    golden, variant = bundle.golden(), bundle.variant(record.precision)
    inputs = golden_inputs(bundle, golden, record.tower)
    expected = {name: golden[f"{record.tower}.{name}"] for name in TOWER_OUTPUTS}
    found = parity(tower.run(inputs), expected, inputs.get("attention_mask"))
    rows = invariance(tower, inputs)
    broken = found.beyond(EXACT if variant is None else variant.tolerance[record.tower])
    limit = rows_limit(variant)
    if not rows >= limit:
        broken.append(f"a row in its batch and alone: cosine {rows:.6f}, limit {limit}")
    if broken:
        admit(bundle, record, sm, None)
        raise BackendError(
            f"engine {record.file} failed the parity check on {sm} and was not enabled: {'; '.join(broken)}; "
            "report the versions of driver and TensorRT, or serve with --device cuda"
        )
    measured = {
        "max_abs": found.max_abs,
        "min_cosine": found.min_cosine,
        "local_max_abs": found.local_max_abs,
        "weights_max_abs": found.weights_max_abs,
        "rows_min_cosine": rows,
    }
    return admit(bundle, record, sm, measured)


def verify_engines(bundle: Bundle, *, precision: str = FULL, flavor: Flavor = "tensorrt") -> list[Check]:
    """Check the bundle itself, on the CPU, then every engine file, then measure the engines of this GPU and admit them."""
    checks = verify(bundle)
    if all(check.ok for check in checks):
        checks += [*engine_file_checks(bundle), *_engine_checks(bundle, precision, flavor)]
    return checks


def engine_file_checks(bundle: Bundle) -> Iterator[Check]:
    """Check the manifest of the engines and every engine file against its digest; needs neither GPU nor TensorRT."""
    try:
        manifest = EngineManifest.read(bundle)
    except BackendError as error:
        yield Check(name="engines", ok=False, detail=str(error))
        return
    for record in manifest.engines:
        try:
            manifest.path(record)
            detail = f"{record.bytes} bytes, SHA-256 {record.sha256}"
            yield Check(name=f"file engines/{record.file}", ok=True, detail=detail)
        except BackendError as error:
            yield Check(name=f"file engines/{record.file}", ok=False, detail=str(error))


def _engine_checks(bundle: Bundle, precision: str, flavor: Flavor) -> Iterator[Check]:
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        try:
            version, gpu = str(import_flavor(flavor).__version__), cuda.find_gpu()
            if gpu is None:
                raise BackendError(
                    "this machine has no GPU or no driver (nvidia-smi tells): run verify where it serves"
                )
            record = find_record(bundle, side, precision, gpu.sm, version, flavor=flavor, unverified=True)
            values = gate(bundle, record, sm=gpu.sm).parity[gpu.sm]
        except McrError as error:
            yield Check(name=f"engine {side}", ok=False, detail=str(error))
            continue
        yield Check(
            name=f"engine {side}",
            ok=True,
            detail=f"{record.file} on {gpu.name}: max abs difference {values['max_abs']:.1e}, min cosine "
            f"{values['min_cosine']:.7f}, of a row in its batch and alone {values['rows_min_cosine']:.7f}",
        )
