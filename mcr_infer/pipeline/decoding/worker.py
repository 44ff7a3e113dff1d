"""The process that decodes: it takes one source at a time, leaves its patches in a slot and tells what it found.

It ends when the process that started it ends, however that happens. Nothing that a codec prints reaches the user.
"""

import ctypes
import hashlib
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

from mcr_infer.errors import BrokenImageError, ImageError
from mcr_infer.images import read_image
from mcr_infer.images.dicom import load_parser
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.pipeline.decoding.messages import MESSAGE_LIMIT, WorkerConfig, failure_message, from_bytes, to_bytes
from mcr_infer.pipeline.decoding.shared_memory import SharedPatchBuffers, SlotShape
from mcr_infer.sources import Source, source_from_dict

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def main() -> None:
    """Serve until the other end of the socket is closed. Arguments: socket, memory, slots, patches, area, parent.

    The first message holds the orders.
    """
    channel, memory, count, patches, area, parent = map(int, sys.argv[1:7])
    _end_with(parent)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the process that started this one decides when it ends
    slots = SharedPatchBuffers(SlotShape(patches=patches, area=area), count, descriptor=memory)
    load_parser()  # before the clock of the first file runs
    with socket.socket(fileno=channel) as peer:
        told = peer.recv(MESSAGE_LIMIT)
        if not told:
            return
        orders = WorkerConfig.from_message(from_bytes(told))
        _bound_memory(orders.limits.memory_bytes)
        peer.sendall(to_bytes({"ready": True}))
        while True:
            packet, descriptors, _, _ = socket.recv_fds(peer, MESSAGE_LIMIT, 1)
            if not packet:
                return
            peer.sendall(to_bytes(_answer(from_bytes(packet), descriptors, orders, slots)))


def _end_with(parent: int) -> None:
    """Ask to be killed when the parent ends: a hanging codec would never see that the socket was closed."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before it was asked
        raise SystemExit


def _bound_memory(beyond: int) -> None:
    """Bound the address space to what is mapped now and `beyond` bytes more; allow no core file, which would hold pixels."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - no file of anybody
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = mapped + beyond
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _answer(
    job: Mapping[str, Any], descriptors: list[int], orders: WorkerConfig, slots: SharedPatchBuffers
) -> dict[str, Any]:
    try:
        if descriptors:
            with os.fdopen(descriptors[0], "rb") as stream:
                return _decode(stream, job, orders, slots)
        source = source_from_dict(job["source"])
        with source.open() as stream:
            answer = _decode(stream, job, orders, slots)
        if job["stamp"] is not None and _stamp(source) != job["stamp"]:
            raise BrokenImageError(
                "the file changed while it was read: what was read may be half of each; run again", reason="changed"
            )
        return answer
    except ImageError as error:
        return failure_message(error)
    except OSError as error:
        return failure_message(
            BrokenImageError(f"the file cannot be read: {error.strerror or type(error).__name__}", reason="unreadable")
        )
    except MemoryError:
        return failure_message(
            BrokenImageError(
                f"the file needs more than the {orders.limits.memory_bytes >> 20} MiB that decoding may take",
                reason="decoder_memory",
            )
        )


def _stamp(source: Source) -> list[int]:
    now = source.stamp()
    return [] if now is None else [now.size, now.mtime_ns]


def _decode(
    stream: BinaryIO, job: Mapping[str, Any], orders: WorkerConfig, slots: SharedPatchBuffers
) -> dict[str, Any]:
    """Read one radiograph, leave its patches in the slot of the job and return what its row needs."""
    begun = time.process_time()
    preprocess = orders.preprocess
    radiograph = read_image(
        stream,
        rendering=preprocess.rendering,
        reduce_to=preprocess.reduce_to if orders.reduce and not job["full"] else None,
        selection=orders.selection,
        patients=orders.patients,
    )
    read = time.process_time()
    square = preprocess.image(radiograph.pixels, aspect=radiograph.aspect)
    digest = hashlib.sha256(square.data).hexdigest()
    slot = job["slot"]
    patches, positions = preprocess.cut(square, budget=orders.budget)
    slots.patches(slot)[:], slots.positions(slot)[:] = patches, positions
    return {
        "slot": slot,
        "id": radiograph.sop_instance_uid or f"sha256:{digest[:32]}",
        "digest": digest,
        "study_uid": radiograph.study_instance_uid,
        "series_uid": radiograph.series_instance_uid,
        "patient_key": radiograph.patient_key,
        "reduction": radiograph.reduction,
        "metadata": _metadata(radiograph),
        "notes": radiograph.notes,
        "seconds": {"decode": read - begun, "cut": time.process_time() - read},
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> int:
    """Return the peak of this process; getrusage would count what its parent had when it was forked."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - no file of anybody
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) >> 10


def _metadata(radiograph: Radiograph) -> dict[str, str | int | float | bool]:
    """Return the facts that a row keeps; one that is not there is not kept as nothing."""
    facts = {
        "view": radiograph.view_position,
        "view_source": radiograph.view_source,
        "modality": radiograph.modality,
        "body_part": radiograph.body_part,
        "study_year": radiograph.study_year,
        "transfer_syntax": radiograph.transfer_syntax_uid,
        "intensity": radiograph.intensity,
        "mirrored": radiograph.mirrored,
        "reduction": None if radiograph.reduction == 1 else radiograph.reduction,
    }
    return {name: value for name, value in facts.items() if value is not None}
