"""Files become patches in processes of their own, so that whatever a file does to its decoder costs that file alone.

    source -> worker process: read, decode, render, resize, cut -> patches in shared memory -> the process of the towers

A codec that crashes, hangs or asks for all memory takes its worker down and not the run. Such a file is tried once more with
nothing else under way, and then it is a failure like any other.
"""

from mcr_infer.pipeline.decoding.messages import Decoded, Limits
from mcr_infer.pipeline.decoding.pool import DecodePool

__all__ = ["DecodePool", "Decoded", "Limits"]
