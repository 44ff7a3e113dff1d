"""The machine card: what a figure was measured on, and how busy it was."""

import os
import platform
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = (
    *("numpy", "onnxruntime", "onnxruntime-gpu", "pydicom", "Pillow", "imagecodecs", "torch", "timm", "hnswlib"),
    *("tensorrt", "tensorrt-rtx", "open_clip_torch", "sentence-transformers", "fastembed", "faiss-cpu", "usearch"),
)
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "sha_ni")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GPU_FACTS = {
    "name": "name",
    "driver_version": "driver",
    "memory.total": "memory",
    "clocks.sm": "clock now",
    "clocks.max.sm": "greatest clock",
    "power.limit": "power limit",
}


def machine_card() -> dict[str, object]:
    """Return processor, cores that this process may use, memory, load now, GPUs, limits of a container, and versions."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    flags = set(_cpu_fact("flags").split())
    return {
        "processor": _cpu_fact("model name") or platform.machine(),
        "instructions": [name for name in _INSTRUCTIONS if name in flags],
        "cores": len(os.sched_getaffinity(0)),
        "cores_of_machine": os.cpu_count() or 0,
        "clock_mhz": _clock(),
        "governor": _line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "container": container_limits(),
        "gpus": gpus(),
        "threads": {name: os.environ[name] for name in _THREADS if name in os.environ},
        "load": load(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": packages,
    }


def load() -> float:
    """Return the load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def gpus(program: str = "nvidia-smi") -> list[dict[str, str]]:
    """Return what nvidia-smi tells of each GPU; none where there is no such program or it finds none."""
    path = shutil.which(program)
    if path is None:
        return []
    query = [path, f"--query-gpu={','.join(_GPU_FACTS)}", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return []
    rows = (line.split(", ") for line in done.stdout.splitlines() if line.strip())
    return [dict(zip(_GPU_FACTS.values(), map(str.strip, row), strict=True)) for row in rows]


def container_limits(root: Path = Path("/sys/fs/cgroup")) -> dict[str, float]:
    """Return limits of the control group that this process sees as its root (cgroup v2): cores, memory in GiB."""
    limits = {}
    quota, _, period = _line(root / "cpu.max").partition(" ")
    if quota not in ("", "max"):
        limits["cores"] = round(int(quota) / int(period), 2)
    memory = _line(root / "memory.max")
    if memory not in ("", "max"):
        limits["memory_gib"] = round(int(memory) / 2**30, 1)
    return limits


def own_bytes(line: str) -> int:
    """Return the memory of this process in bytes (proc(5)).

    `RssAnon` is what no file backs, `VmRSS` all that is resident, `VmHWM` the most that was. The peak that getrusage(2)
    tells begins with that of the parent.
    """
    for one in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if one.startswith(f"{line}:"):
            return int(one.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {line}")


def own_age() -> float:
    """Return the seconds since this process was started, to a hundredth (proc(5))."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _clock() -> float | None:
    """Return the clock of the first core in MHz, now."""
    told = _cpu_fact("cpu MHz")
    return float(told) if told else None


def _line(path: Path) -> str:
    """Return the first line of a file of the kernel; empty where there is none."""
    try:
        return path.read_text(encoding="ascii").partition("\n")[0].strip()
    except OSError:
        return ""


def _cpu_fact(name: str) -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
