"""How the image tower is run on this machine: calls at a time, threads within a call, radiographs in one, measured.

    bundle, precision, budget, cores -> the cache of this user -> TowerConfig
                                     -> a short measurement -> TowerConfig, remembered for this machine and bundle

What is fastest differs between machines and towers, and no rule foretells it. The calibration runs the tower on noise of the
right shape for a second or two, less thorough the slower the tower is. A plan decides about speed alone: vectors agree to
cosine 0.99999 in fp32, whatever the batch, and are equal in precisions that take one item a call.
"""

import hashlib
import json
import math
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mcr_infer.errors import BackendError
from mcr_infer.files import cache_folder, read_cache_record, write_cache_record
from mcr_infer.inference.bundle import FULL, Bundle
from mcr_infer.inference.encoder import ImageEncoder, Patches
from mcr_infer.inference.tower import installed_runtime

BATCHES = (1, 2, 4, 8, 16)
"""On a CPU."""

GPU_BATCHES = (8, 16, 32, 64)

SECONDS = 2.5
"""Nothing is begun that would probably end later than this after the start, opening the towers included."""

_SLOT = 0.12
"""Seconds that a candidate is measured for, at least; one call of a slow tower takes longer."""

_GAIN = 0.03
"""What a later candidate must be faster by: less is noise, and small batches take less memory."""

TRUSTED_SECONDS = 30 * 24 * 3600
"""A plan that was measured while the machine was busy is not kept for ever."""

_FORMAT_VERSION = 1
_COUNTS = ("threads", "intra_op_threads", "batch_size")
_MOST = 4096
"""No machine has more cores, no call more radiographs."""

_CPU_FACTS = (
    "vendor_id", "cpu family", "model", "model name", "stepping",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TowerConfig:
    """How to run an image tower: `ImageEncoder(..., threads=intra_op_threads)`, shared by `threads` threads of Python."""

    threads: int
    """Calls at a time. The runtime lets go of Python's lock while it computes."""

    intra_op_threads: int
    """Threads within a call."""

    batch_size: int
    """Radiographs in a call."""

    images_per_second: float
    """Of all calls together, as measured."""

    remembered: bool
    """False where this run has measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layout:
    """How the cores are shared out."""

    threads: int
    intra_op_threads: int


def autotune(
    bundle: Bundle,
    *,
    device: str = "auto",
    precision: str = FULL,
    budget: float = 1.0,
    cores: int,
    threads: int | None = None,
    batch_size: int | None = None,
    notify: Callable[[str], None] | None = None,
) -> TowerConfig:
    """Return the fastest plan for an image tower on `cores` cores, from memory or by a calibration of at most about 3 s.

    It takes longer only where opening the tower and a single call do.
    `threads` and `batch_size`, where they are given, stand, and only the rest is looked for. A plan that cannot be
    remembered is no error: `notify` is told, if there is one. Raises what opening and running the tower raises, and
    `ConfigError` for a budget that it does not take.
    """
    bundle.preprocess.patches_within(budget)
    started = time.perf_counter()
    if device == "auto":
        # Where it runs is known once it runs, but for a runtime that has no choice.
        cpu = installed_runtime() == "onnxruntime"
        device = "cpu" if cpu else ImageEncoder(bundle, device=device, precision=precision).device
    key = {
        "fingerprint": bundle.fingerprint,
        "precision": str(precision),
        "budget": budget,
        "device": str(device),
        "cores": cores,
        "threads": threads,
        "batch_size": batch_size,
        "cpu": cpu_model(),
        "runtime": runtime_version(),
    }
    record = _record_of(key)
    known = None if record is None else _recalled(record, key)
    if known is not None:
        return known
    layouts = _layouts(cores, threads) if device == "cpu" else [_Layout(threads=threads or 1, intra_op_threads=1)]
    batches = (batch_size,) if batch_size else BATCHES if device == "cpu" else GPU_BATCHES
    image = np.random.default_rng(0).random((bundle.preprocess.image_size,) * 2, dtype=np.float32)
    item = bundle.preprocess.patches(image, budget=budget)
    chosen = _search(
        lambda layout: ImageEncoder(bundle, device=device, precision=precision, threads=layout.intra_op_threads),
        layouts,
        batches,
        item,
        started + SECONDS,
    )
    try:
        if record is None:
            raise FileNotFoundError("no home folder")
        write_cache_record(
            record, {"format_version": _FORMAT_VERSION, "key": key, "plan": asdict(chosen), "at": int(time.time())}
        )
    except OSError as exc:
        if notify is not None:
            notify(
                f"the calibration of the image tower cannot be remembered in {cache_folder('plans') or '~/.cache'} "
                f"({exc.strerror or exc}): the next run measures again; name a folder that can be written in "
                "XDG_CACHE_HOME, or --batch-size and --threads"
            )
    return chosen


def _layouts(cores: int, threads: int | None) -> list[_Layout]:
    """Share out the cores: a call a core first, which needs no synchronisation, then fewer calls of more threads."""
    calls = [threads] if threads else sorted({cores, max(1, cores // 2), 1}, reverse=True)
    return [_Layout(threads=count, intra_op_threads=max(1, cores // count)) for count in calls]


def _search(
    opened: Callable[[_Layout], ImageEncoder],
    layouts: Sequence[_Layout],
    batches: Sequence[int],
    item: Patches,
    deadline: float,
) -> TowerConfig:
    """Compare the layouts at the smallest batch, then larger batches in the best one, as long as there is time.

    At least one candidate is measured. A later one is chosen only if it gains more than noise. Raises as the tower does.
    """
    best: TowerConfig | None = None
    chosen: ImageEncoder | None = None
    refused: BackendError | None = None
    opening = image = 0.0
    """Seconds that it took to open a tower, and that it takes a radiograph in one call."""

    def better(encoder: ImageEncoder, layout: _Layout, batch: int) -> bool:
        nonlocal best, refused, image
        try:
            # The first call allocates memory: it does not count, unless there is no time for a second.
            rate = first = throughput(encoder, layout.threads, [item] * batch, 0.0)
            if time.perf_counter() + batch * layout.threads / first < deadline:
                rate = throughput(encoder, layout.threads, [item] * batch, _SLOT)
        except BackendError as error:
            refused = error  # an engine takes the batches of its profile, and no others
            return False
        image = layout.threads / rate
        if best is not None and rate <= (1 + _GAIN) * best.images_per_second:
            return False
        best = TowerConfig(
            threads=layout.threads,
            intra_op_threads=layout.intra_op_threads,
            batch_size=batch,
            images_per_second=rate,
            remembered=False,
        )
        return True

    layout = layouts[0]
    for one in layouts:
        if best is not None and time.perf_counter() + opening + 2 * batches[0] * image > deadline:
            break
        began = time.perf_counter()
        encoder = opened(one)
        opening = time.perf_counter() - began
        if better(encoder, one, batches[0]) or chosen is None:
            layout, chosen = one, encoder
    for batch in batches[1:]:
        if chosen is None or (best is not None and time.perf_counter() + 2 * batch * image > deadline):
            break
        better(chosen, layout, batch)
    if best is None:
        assert refused is not None  # nothing else keeps a candidate from being measured
        raise refused
    return best


def throughput(encoder: ImageEncoder, threads: int, batch: Sequence[Patches], seconds: float) -> float:
    """Embed a batch in each of several threads again and again, once at least; returns radiographs a second of all."""
    ready = threading.Barrier(threads)

    def embed(_: int) -> float:
        ready.wait()
        began, count, passed = time.perf_counter(), 0, 0.0
        while not count or passed < seconds:
            encoder.encode(batch)
            count, passed = count + len(batch), time.perf_counter() - began
        return count / passed

    with ThreadPoolExecutor(threads, thread_name_prefix="autotune") as pool:
        return sum(pool.map(embed, range(threads)))


def cpu_model() -> str:
    """Name the processor as far as the system tells: the facts that decide which kernels run, and how fast."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    told = {name.strip(): value.strip() for name, value in facts.items()}
    return " ".join([platform.machine(), *(told[name] for name in _CPU_FACTS if name in told)])


def runtime_version() -> str:
    """Name the installed ONNX Runtime and its version. Raises `BackendError` as `installed_runtime` does."""
    from importlib.metadata import version

    name = installed_runtime()
    return f"{name} {version(name)}"


def _record_of(key: dict[str, object]) -> Path | None:
    folder = cache_folder("plans")
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return None if folder is None else folder / f"{name}.json"


def _recalled(record: Path, key: dict[str, object]) -> TowerConfig | None:
    """Read a plan; None where there is none for this very key, or none that makes sense and is recent."""
    values = read_cache_record(record)
    if values is None or values.get("format_version") != _FORMAT_VERSION or values.get("key") != key:
        return None
    at, plan = values.get("at"), values.get("plan")
    if not isinstance(at, int) or not 0 <= time.time() - at <= TRUSTED_SECONDS or not isinstance(plan, dict):
        return None
    rate, counts = plan.get("images_per_second"), {name: plan.get(name) for name in _COUNTS}
    if not isinstance(rate, float) or not 0 < rate < math.inf:
        return None
    found = {name: count for name, count in counts.items() if type(count) is int and 1 <= count <= _MOST}
    return TowerConfig(**found, images_per_second=rate, remembered=True) if len(found) == len(_COUNTS) else None
