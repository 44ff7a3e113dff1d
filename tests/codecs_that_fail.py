"""A codec that does to its process what a file tells it to: JPEG-LS files whose data are commands."""

import struct
from pathlib import Path

import numpy as np

import dicoms

ROWS, COLUMNS = 40, 48

MODULE = """
import os, signal, time
import numpy

ROWS, COLUMNS = 40, 48


def picture():
    return (numpy.add.outer(numpy.arange(ROWS) * 31, numpy.arange(COLUMNS) * 53) % 4096).astype("uint16")


def first_time(mark):
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def jpegls_decode(data):
    what, _, argument = data[13:].rstrip(b"\\0")[:-2].decode().partition(" ")
    if what == "die" or (what == "die-once" and first_time(argument)):
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":  # as an interpreter does after an exception: what is open is closed first
        os.closerange(3, 100)
        time.sleep(0.3)
        os._exit(7)
    if what == "hang":
        open(argument or os.devnull, "w").close()
        while True:
            time.sleep(60)
    if what == "ask":
        numpy.ones(int(argument), dtype="uint8")
    if what == "touch":
        os.utime(argument, ns=(1, 1))
    if what in ("sleep", "die-once"):
        begun = time.monotonic()
        time.sleep(0.2)
        with open(os.environ["CODEC_LOG"], "a") as file:
            file.write(f"{what} {begun} {time.monotonic()}\\n")
    return picture()
"""


def install(folder: Path) -> None:
    """Write the codec where an imagecodecs is looked for first."""
    (folder / "imagecodecs").mkdir()
    (folder / "imagecodecs" / "__init__.py").write_text(MODULE)


def write_command(path: Path, command: str, *, uid: str | None = None) -> Path:
    """Write a radiograph of 40 x 48 pixels at whose data the codec does what is said."""
    frame = (
        b"\xff\xd8\xff\xf7" + struct.pack(">HBHHB", 11, 12, ROWS, COLUMNS, 1) + b"\x01" + command.encode() + b"\xff\xd9"
    )
    if len(frame) % 2:
        frame += b"\0"
    stored = np.zeros((ROWS, COLUMNS), dtype=np.uint16)
    return dicoms.write(
        path, stored, syntax=dicoms.JPEG_LS, frame=frame, SOPInstanceUID=uid or f"1.2.{abs(hash(path.name))}",
        **dicoms.IN_12_BITS,
    )  # fmt: skip
