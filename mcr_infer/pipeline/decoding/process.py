"""One worker process as its pool sees it: started, given a job, read from, killed."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mcr_infer.pipeline.decoding.messages import MESSAGE_LIMIT, WorkerConfig, from_bytes, to_bytes
from mcr_infer.pipeline.decoding.shared_memory import SharedPatchBuffers

_BEGIN = (
    "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); "
    "from mcr_infer.pipeline.decoding.worker import main; main()"
)
"""The worker finds the package where this process found it. It is not made by multiprocessing, whose workers run the main
module of the program again and so forbid programs without a guard against that."""

_ONE_CORE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""The pool is what runs in parallel."""

_KEPT_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(256 << 20))
"""glibc (mallopt(3)) keeps what a file needed for the next one. Given back after each array and taken anew, zeroed page by
page, it costs two fifths of what decoding an uncompressed file takes."""


_LAST_WORDS = 2.0
"""Seconds that an interpreter takes at most to end after an exception."""


class WorkerProcess:
    """A child that decodes one source at a time."""

    def __init__(self, orders: WorkerConfig, slots: SharedPatchBuffers) -> None:
        """Start it; it says that it is ready in a message. Raises `OSError` where the system allows no further process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [
                theirs.fileno(),
                slots.descriptor,
                slots.count,
                slots.shape.patches,
                slots.shape.area,
                os.getpid(),
            ]
            try:
                self._process = subprocess.Popen(
                    # -P: a file in the working folder must not take the place of a module.
                    [sys.executable, "-P", "-c", _BEGIN, json.dumps(sys.path), *map(str, arguments)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), slots.descriptor),
                    env={**os.environ, **_ONE_CORE, **_KEPT_MEMORY},
                    # Ctrl-C on the terminal is for the process that started this one.
                    process_group=0,
                )
                # Not by the arguments, which every user of the machine can read. Nothing is lost where the worker ends
                # at once: its own end of the socket is still open here.
                ours.sendall(to_bytes(orders.to_message()))
            except BaseException:
                ours.close()
                raise
        self._peer = ours
        self.ready = False

    def fileno(self) -> int:
        """The descriptor to wait at: readable when there is a message, or when the worker has ended."""
        return self._peer.fileno()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def send(self, message: Mapping[str, Any], data: bytes | None = None) -> None:
        """Give it a job, with the bytes of the source where this process has read them. Raises `OSError` if it has ended."""
        if data is None:
            self._peer.sendall(to_bytes(message))
            return
        descriptor = os.memfd_create("mcr-infer-file", os.MFD_CLOEXEC)
        with os.fdopen(descriptor, "r+b") as file:
            file.write(data)
            file.seek(0)
            socket.send_fds(self._peer, [to_bytes(message)], [descriptor])

    def receive(self) -> dict[str, Any] | None:
        """Return the next message, None if the worker has ended; raises `DecodingError` where it is no message."""
        try:
            packet = self._peer.recv(MESSAGE_LIMIT)
        except ConnectionError:
            packet = b""
        return from_bytes(packet) if packet else None

    def end(self, *, itself: bool = False) -> int:
        """End it at once, whatever it is at: it keeps nothing. Return its exit status once it is gone.

        One that has closed its socket by `itself` is given a moment, so that its status says why it ended.
        """
        self._peer.close()
        if itself:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self._process.wait(_LAST_WORDS)
        self._process.kill()
        return self._process.wait()
