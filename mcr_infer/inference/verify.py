"""Checks of a bundle on this machine: its files, the outputs of its towers, and the engines that were built from it.

    golden inputs -> outputs here -> parity, batch invariance -> checks
    engine + golden inputs -> outputs on this GPU -> the same -> BUNDLE/engines/manifest.json

Export runs them first, `mcr-infer verify` again on the machine that serves. No engine serves before its outputs were
compared with the golden ones on that GPU: right after a build where there is one, else by `mcr-infer verify --device
tensorrt` (or tensorrt-rtx).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BackendError, BundleError, CheckResult, McrError
from mcr_infer.files import sha256_of
from mcr_infer.inference import tensorrt_api
from mcr_infer.inference.bundle import (
    CHECKSUMS,
    FULL,
    MANIFEST,
    SIDES,
    TEXT_INPUTS,
    TOWER_OUTPUTS,
    Bundle,
    Precision,
    Tolerance,
)
from mcr_infer.inference.engines import EngineManifest, EngineRecord, admit, find_record
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.inference.tensorrt_api import Flavor, import_flavor
from mcr_infer.inference.tensorrt_tower import TensorRTTower
from mcr_infer.inference.tower import Side, Tower

MAX_ABS_DIFF = 1e-4
"""Largest difference of any embedding value between two runtimes in fp32."""

MIN_COSINE = 0.9999
EXACT = Tolerance(max_abs=MAX_ABS_DIFF, min_cosine=MIN_COSINE, local_max_abs=MAX_ABS_DIFF, weights_max_abs=MAX_ABS_DIFF)
"""What fp32 holds on every runtime."""

MIN_COSINE_ROWS = 0.99999
"""Between a row of a batch and the same row alone: what a row becomes must not depend on its neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """How far the outputs of a tower are from those that they have to be. NaN breaks every limit."""

    max_abs: float
    """Largest difference of an embedding value."""

    min_cosine: float
    local_max_abs: float
    """Largest difference of a mapped patch or word, over the largest value there is; padding left out."""

    weights_max_abs: float

    @property
    def failures(self) -> list[str]:
        """The limits of fp32 that are broken, in words."""
        return self.beyond(EXACT)

    def beyond(self, limit: Tolerance) -> list[str]:
        """Name what is broken of some limits, in words."""
        limits = (
            (self.max_abs <= limit.max_abs, f"max abs difference {self.max_abs:.1e}, limit {limit.max_abs:.0e}"),
            (self.min_cosine >= limit.min_cosine, f"cosine {self.min_cosine:.6f}, limit {limit.min_cosine}"),
            (
                self.local_max_abs <= limit.local_max_abs,
                f"local {self.local_max_abs:.1e}, limit {limit.local_max_abs:.0e}",
            ),
            (
                self.weights_max_abs <= limit.weights_max_abs,
                f"weights {self.weights_max_abs:.1e}, limit {limit.weights_max_abs:.0e}",
            ),
        )
        return [text for holds, text in limits if not holds]


def verify(bundle: Bundle, *, device: str = "cpu", precision: str = FULL) -> list[CheckResult]:
    """Check every file against its digest, then tokenizer, preprocessing and both towers against the golden outputs.

    The towers of another precision than fp32 have to stay within the tolerance that the manifest records for them. On the
    CPU those that are made for other devices run as their graphs stand, which says nothing about the other device.
    Failures are values, so that one damaged file does not hide the next.
    """
    checks = [*_file_checks(bundle), CheckResult(name="fingerprint", ok=True, detail=bundle.fingerprint)]
    if all(check.ok for check in checks):
        checks += _golden_checks(bundle, device, precision)
    return checks


def compare(got: NDArray[Any], expected: NDArray[Any]) -> tuple[float, float]:
    """Return the largest absolute difference and the smallest cosine of two arrays of unit vectors [N, D].

    Both are NaN where a vector is not finite, which no limit admits: compare as `value <= limit`, never the other way.
    """
    one, two = got.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
        return float(np.abs(one - two).max()), float(((one * two).sum(axis=1) / norms).min())


def parity(
    got: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], attention_mask: NDArray[Any] | None
) -> Parity:
    """Compare all outputs of a tower with those expected; `attention_mask` [N, T] is None for images.

    Padding must have weight 0 exactly; what its local vectors are is nobody's business.
    """
    if any(got[name].shape != expected[name].shape for name in TOWER_OUTPUTS):
        shapes = [{name: list(side[name].shape) for name in TOWER_OUTPUTS} for side in (got, expected)]
        raise BundleError(f"outputs of shapes {shapes[0]} cannot match those of shapes {shapes[1]}")
    there = np.ones(got["weights"].shape, dtype=bool) if attention_mask is None else attention_mask > 0
    worst, cosine = compare(got["embedding"], expected["embedding"])
    local, wanted = got["local"][there], expected["local"][there]
    return Parity(
        max_abs=worst,
        min_cosine=cosine,
        local_max_abs=float(np.abs(local - wanted).max() / max(1.0, float(np.abs(wanted).max()))),
        weights_max_abs=float(np.abs(got["weights"] - expected["weights"] * there).max()),
    )


def golden_inputs(bundle: Bundle, golden: Mapping[str, NDArray[Any]], side: Side) -> dict[str, NDArray[Any]]:
    """Take the golden inputs of one tower, by the names of its inputs; those of images lie in patches always."""
    if side == "image":
        return bundle.preprocess.tower_inputs(golden["image.patches"], golden["image.positions"])
    return {name: golden[f"text.{name}"] for name in TEXT_INPUTS}


def invariance(tower: Tower, inputs: Mapping[str, NDArray[Any]]) -> float:
    """Return the smallest cosine between the rows of a batch and the same rows alone, their padding taken off."""
    together = tower.run(inputs, ("embedding",))["embedding"]
    alone = []
    for row in range(len(together)):
        one = {name: array[row : row + 1] for name, array in inputs.items()}
        if "attention_mask" in one:
            length = int(one["attention_mask"].sum())
            one = {name: array[:, :length] for name, array in one.items()}
        alone.append(tower.run(one, ("embedding",))["embedding"])
    return compare(together, np.concatenate(alone))[1]


def rows_limit(variant: Precision | None) -> float:
    """Return the smallest cosine between a row in its batch and the same row alone; `variant` None is fp32."""
    return MIN_COSINE_ROWS if variant is None or variant.rows_min_cosine is None else variant.rows_min_cosine


def _file_checks(bundle: Bundle) -> Iterator[CheckResult]:
    for name, record in sorted(bundle.files.items()):
        try:
            bundle.verified(name)
            yield CheckResult(name=f"file {name}", ok=True, detail=f"{record.bytes} bytes, SHA-256 {record.sha256}")
        except BundleError as error:
            yield CheckResult(name=f"file {name}", ok=False, detail=str(error))
    yield _checksums_check(bundle)


def _checksums_check(bundle: Bundle) -> CheckResult:
    """Only the manifest has no other digest; the rest of the list has to say what the manifest says."""
    path = bundle.path / CHECKSUMS
    try:
        content = path.read_bytes()
        manifest = sha256_of(bundle.path / MANIFEST)
    except OSError as exc:
        why = f"{path} cannot be read ({exc.strerror}): nothing confirms {MANIFEST}; copy or export the bundle again"
        return CheckResult(name=CHECKSUMS, ok=False, detail=why)
    lines = {name: f"{record.sha256}  {name}" for name, record in bundle.files.items()}
    lines[MANIFEST] = f"{manifest}  {MANIFEST}"
    # Not splitlines: a flipped bit makes another kind of line break of a newline.
    listed = content.decode("utf-8", "replace").removesuffix("\n").split("\n")
    wrong = sorted(name for name, line in lines.items() if line not in listed)
    wrong += [repr(line[:80]) for line in listed if line not in lines.values()]
    detail = f"{len(lines)} files" if not wrong else f"{path} does not agree on {', '.join(wrong)}"
    return CheckResult(name=CHECKSUMS, ok=not wrong, detail=detail)


def _golden_checks(bundle: Bundle, device: str, precision: str) -> Iterator[CheckResult]:
    try:
        golden = bundle.golden()
        missing = [key for key in _golden_keys() if key not in golden]
        if missing:
            raise BundleError(f"golden.npz lacks {', '.join(missing)}; export the bundle again")
        yield _preprocess_check(bundle, golden)
        yield _tokenizer_check(bundle, golden)
        yield _words_check(bundle)
    except McrError as error:
        yield CheckResult(name="golden inputs", ok=False, detail=str(error))
        return
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        try:
            variant = bundle.variant(precision)
            stands = device == "cpu" and variant is not None and device not in variant.runtimes
            tower = open_tower(bundle, side, device=device, precision=precision, purpose="proof" if stands else "bulk")
            where = f"{precision} on {tower.device}" + (", the graph as it stands" if stands else "")
            inputs = golden_inputs(bundle, golden, side)
            expected = {name: golden[f"{side}.{name}"] for name in TOWER_OUTPUTS}
            found = parity(tower.run(inputs), expected, inputs.get("attention_mask"))
            broken = found.beyond(EXACT if variant is None else variant.tolerance[side])
            rows, limit = invariance(tower, inputs), rows_limit(variant)
        except McrError as error:
            yield CheckResult(name=f"golden {side}", ok=False, detail=str(error))
            continue
        yield CheckResult(
            name=f"golden {side}",
            ok=not broken,
            detail=f"{where}: "
            + ("; ".join(broken) or f"max abs difference {found.max_abs:.1e}, min cosine {found.min_cosine:.7f}"),
        )
        yield CheckResult(
            name=f"batch invariance {side}",
            ok=rows >= limit,
            detail=f"{where}: min cosine of a row in its batch and alone {rows:.7f}"
            + ("" if rows >= limit else f", limit {limit}"),
        )


def _golden_keys() -> list[str]:
    outputs = [f"{side}.{name}" for side in SIDES for name in TOWER_OUTPUTS]
    texts = [f"text.{name}" for name in (*TEXT_INPUTS, "sentences")]
    return ["image.pixels", "image.patches", "image.positions", *texts, *outputs]


def _preprocess_check(bundle: Bundle, golden: Mapping[str, NDArray[Any]]) -> CheckResult:
    """Another Pillow must resize as the one did that the bundle was made with."""
    pixels = golden["image.pixels"].astype(np.float32) / np.float32(255)
    patches = np.stack([bundle.preprocess.patches(image)[0] for image in pixels])
    expected = golden["image.patches"]
    worst = float(np.abs(patches - expected).max()) if patches.shape == expected.shape else float("inf")
    return CheckResult(
        name="golden preprocessing", ok=worst <= 1e-5, detail=f"max abs difference of pixels {worst:.2e}"
    )


def _words_check(bundle: Bundle) -> CheckResult:
    """Say by which rule unknown words are recognized; the digest of the list is checked with the other files."""
    words = bundle.vocabulary().words
    detail = (
        "none listed: unknown words are recognized by their spelling alone" if words is None else f"{len(words)} words"
    )
    return CheckResult(name="training words", ok=True, detail=detail)


def _tokenizer_check(bundle: Bundle, golden: Mapping[str, NDArray[Any]]) -> CheckResult:
    input_ids, _ = bundle.tokenizer().encode([str(text) for text in golden["text.sentences"]])
    same = np.array_equal(input_ids, golden["text.input_ids"])
    return CheckResult(
        name="golden tokens",
        ok=same,
        detail=f"{len(input_ids)} sentences" if same else "the tokenizer splits the golden sentences differently",
    )


def validate_engine(bundle: Bundle, record: EngineRecord, *, sm: str) -> EngineRecord:
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


def verify_engines(bundle: Bundle, *, precision: str = FULL, flavor: Flavor = "tensorrt") -> list[CheckResult]:
    """Check the bundle itself, on the CPU, then every engine file, then measure the engines of this GPU and admit them."""
    checks = verify(bundle)
    if all(check.ok for check in checks):
        checks += [*engine_file_checks(bundle), *_engine_checks(bundle, precision, flavor)]
    return checks


def engine_file_checks(bundle: Bundle) -> Iterator[CheckResult]:
    """Check the manifest of the engines and every engine file against its digest; needs neither GPU nor TensorRT."""
    try:
        manifest = EngineManifest.read(bundle)
    except BackendError as error:
        yield CheckResult(name="engines", ok=False, detail=str(error))
        return
    for record in manifest.engines:
        try:
            manifest.path(record)
            detail = f"{record.bytes} bytes, SHA-256 {record.sha256}"
            yield CheckResult(name=f"file engines/{record.file}", ok=True, detail=detail)
        except BackendError as error:
            yield CheckResult(name=f"file engines/{record.file}", ok=False, detail=str(error))


def _engine_checks(bundle: Bundle, precision: str, flavor: Flavor) -> Iterator[CheckResult]:
    sides: tuple[Side, ...] = ("image", "text")
    for side in sides:
        try:
            version, gpu = str(import_flavor(flavor).__version__), tensorrt_api.find_gpu()
            if gpu is None:
                raise BackendError(
                    "this machine has no GPU or no driver (nvidia-smi tells): run verify where it serves"
                )
            record = find_record(bundle, side, precision, gpu.sm, version, flavor=flavor, unverified=True)
            values = validate_engine(bundle, record, sm=gpu.sm).parity[gpu.sm]
        except McrError as error:
            yield CheckResult(name=f"engine {side}", ok=False, detail=str(error))
            continue
        yield CheckResult(
            name=f"engine {side}",
            ok=True,
            detail=f"{record.file} on {gpu.name}: max abs difference {values['max_abs']:.1e}, min cosine "
            f"{values['min_cosine']:.7f}, of a row in its batch and alone {values['rows_min_cosine']:.7f}",
        )
