"""The one thread pool that all towers of a serving process share.

Each session of ONNX Runtime has threads of its own. Where a process asks two towers at once, both sets want the same cores
and take them from each other; one pool for all has a thread a core, whatever is asked.

The pool belongs to the process: it is made once, cannot be changed, and the runtime cannot be asked for its size. That is
why the size is kept here, in a variable of the module. From then on the runtime refuses sessions with threads of their own.
"""

import threading
from typing import Any

from mcr_infer.errors import BackendError

_lock = threading.Lock()
_threads: int | None = None
"""Of the pool of this process; None where there is none."""


def share(onnxruntime: Any, threads: int) -> None:
    """Make the pool, or use it where it has as many threads; raises `BackendError` where it cannot have them."""
    global _threads
    with _lock:
        if _threads is None:
            try:
                onnxruntime.set_global_thread_pool_sizes(threads, 1)
            except Exception as exc:  # the runtime's own class, which is none that can be imported by name
                raise BackendError(
                    f"ONNX Runtime cannot make one thread pool for this process ({exc}): another library of the process "
                    "has made it before; open the towers with purpose 'server' first"
                ) from exc
            _threads = threads
        if _threads != threads:
            raise BackendError(
                f"the towers of this process share one pool of {_threads} threads, made by the first with purpose 'server'; "
                f"got threads {threads}: name the same number for each of them"
            )


def refuse_own_threads(purpose: str) -> None:
    """Raise `BackendError` where this process has the pool, and a tower wants threads of its own."""
    with _lock:
        if _threads is not None:
            raise BackendError(
                f"the towers of this process share one pool of {_threads} threads: open this one with purpose 'server', "
                f"too, got {purpose!r}"
            )
