"""A compressed or native frame becomes stored values [H, W]: one explicit decoder for each transfer syntax.

Codecs are C libraries that meet whatever a file holds. The size in a codestream is compared with the header before
anything is decoded, anything a codec throws is contained, and its result is checked against what the header declares.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images.quiet import quietly

Stored = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelFormat:
    """What a header declares about one greyscale frame (PS3.5 8.1)."""

    rows: int
    columns: int
    bits_allocated: int
    """8 or 16."""
    bits_stored: int
    high_bit: int
    signed: bool

    def __post_init__(self) -> None:
        sizes = f"{self.bits_allocated} bits allocated, {self.bits_stored} stored, high bit {self.high_bit}"
        if self.bits_allocated not in (8, 16):
            raise UnsupportedImageError(f"{sizes}: 8 or 16 allocated bits are read", reason="bit_depth")
        if self.rows < 1 or self.columns < 1:
            raise BrokenImageError(f"the image has {self.rows} rows and {self.columns} columns", reason="corrupt")
        if not 1 <= self.bits_stored <= self.high_bit + 1 <= self.bits_allocated:
            raise BrokenImageError(f"{sizes}: these do not fit into each other", reason="corrupt")

    @property
    def levels(self) -> tuple[int, int]:
        """The lowest and the highest value that can be stored."""
        lowest = -(1 << (self.bits_stored - 1)) if self.signed else 0
        return lowest, lowest + (1 << self.bits_stored) - 1

    @property
    def byte_count(self) -> int:
        """Bytes of the frame without compression."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Codestream:
    """What the header of a codestream says about itself."""

    rows: int
    columns: int
    components: int
    precision: int
    signed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSyntax:
    """How one transfer syntax keeps its pixels (PS3.5 annex A)."""

    name: str
    encapsulated: bool = True
    codec: Callable[[bytes, Codestream], Stored] | None = None
    """Decodes a JPEG-family codestream; None for native values and RLE."""
    describe: Callable[[bytes], Codestream] | None = None
    """Reads the header of that codestream."""
    big_endian: bool = False
    run_length: bool = False


def decode(data: bytes, syntax: TransferSyntax, layout: PixelFormat) -> tuple[Stored, tuple[str, ...]]:
    """Decode one frame to stored values [H, W], signed as the header says, and notes.

    Raises `BrokenImageError` (`truncated`, `corrupt`) or `UnsupportedImageError` (`codec_missing`).
    """
    if syntax.codec is None or syntax.describe is None:
        order = ">" if syntax.big_endian else "<"
        data = _unpack_runs(data, layout) if syntax.run_length else data
        return _unpack_native(data, order, layout)
    if not data.rstrip(b"\x00\xff").endswith(b"\xff\xd9"):
        # Several codecs fill what is missing with zeros and report success.
        raise BrokenImageError(
            f"the {syntax.name} data end without their end marker (FFD9): the image is cut", reason="truncated"
        )
    stream = _described(data, syntax, layout)
    try:
        values = syntax.codec(data, stream)
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, ImageError):
        raise
    except ImportError as error:
        raise UnsupportedImageError(
            f"this build of imagecodecs lacks {syntax.name}: pip install --upgrade 'mcr-infer[codecs]'",
            reason="codec_missing",
        ) from error
    except BaseException as error:
        # Codecs written in Rust panic with an exception that does not derive from Exception.
        raise BrokenImageError(
            f"the {syntax.name} data cannot be decoded ({type(error).__name__})", reason="corrupt"
        ) from error
    if values.shape != (layout.rows, layout.columns) or values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        raise BrokenImageError(
            f"the {syntax.name} data decode to {values.dtype} of shape {values.shape}, "
            f"expected 8 or 16 bits of shape {(layout.rows, layout.columns)}",
            reason="corrupt",
        )
    return _fit_decoded(values, syntax, layout), ()


def _described(data: bytes, syntax: TransferSyntax, layout: PixelFormat) -> Codestream:
    """Compare the codestream's own header with the file's, before a codec allocates what it asks for."""
    assert syntax.describe is not None
    try:
        stream = syntax.describe(data)
    except (IndexError, ValueError) as error:
        raise BrokenImageError(f"the {syntax.name} data do not begin with their header", reason="corrupt") from error
    if (stream.rows, stream.columns, stream.components) != (layout.rows, layout.columns, 1) or stream.precision > 16:
        raise BrokenImageError(
            f"the {syntax.name} data hold {stream.rows} x {stream.columns} pixels with {stream.components} component(s) of "
            f"{stream.precision} bits, expected {layout.rows} x {layout.columns} with 1 of at most 16",
            reason="corrupt",
        )
    return stream


def _unpack_native(data: bytes, order: str, layout: PixelFormat) -> tuple[Stored, tuple[str, ...]]:
    """Take Bits Stored out of each cell of Bits Allocated; what lies in the other bits, such as overlays, is dropped."""
    size = layout.bits_allocated // 8
    cells = np.frombuffer(data, dtype=f"{order}u{size}", count=layout.rows * layout.columns)
    cells = cells.astype(f"u{size}", copy=False).reshape(layout.rows, layout.columns)
    if layout.bits_stored == layout.bits_allocated:
        return (cells.view(f"i{size}") if layout.signed else cells), ()
    lowest = layout.high_bit + 1 - layout.bits_stored
    kept = (cells >> lowest) & ((1 << layout.bits_stored) - 1)
    values = _sign_extended(kept, layout.bits_stored) if layout.signed else kept
    # The bits above a signed value may repeat its sign or be zero.
    clean = any(np.array_equal((shown << lowest).view(cells.dtype), cells) for shown in (kept, values))
    return values, () if clean else ("bits outside of Bits Stored ignored",)


def _sign_extended(codes: Stored, bits: int) -> Stored:
    """Read codes of `bits` bits as two's complement."""
    shift = codes.dtype.itemsize * 8 - bits
    extended: Stored = (codes << shift).view(f"i{codes.dtype.itemsize}") >> shift
    return extended


def _fit_decoded(values: Stored, syntax: TransferSyntax, layout: PixelFormat) -> Stored:
    """Read decoded values with the signedness that the header declares, whatever the codestream says of it."""
    bits = layout.bits_stored
    low, high = int(values.min()), int(values.max())
    if low < -(1 << (bits - 1)) or high >= 1 << bits:
        raise BrokenImageError(
            f"the {syntax.name} data hold values from {low} to {high}, which {bits} bits stored cannot",
            reason="corrupt",
        )
    codes = values.view(f"u{values.dtype.itemsize}")
    if bits < values.dtype.itemsize * 8:
        codes = codes & ((1 << bits) - 1)
    if not layout.signed:
        return codes
    return _sign_extended(codes.astype(np.uint16), bits)


def _unpack_runs(data: bytes, layout: PixelFormat) -> bytes:
    """Decode RLE (PS3.5 annex G): one segment a byte of the pixel, the most significant first; return little endian."""
    planes, count = layout.bits_allocated // 8, layout.rows * layout.columns
    header = np.frombuffer(data[:64].ljust(64, b"\0"), dtype="<u4").tolist()
    starts = [*header[1 : planes + 1], len(data)]
    if header[0] != planes or starts[0] < 64 or starts != sorted(starts):
        raise BrokenImageError(
            f"the RLE data have a header that does not fit {planes} segment(s) in {len(data)} bytes", reason="corrupt"
        )
    cells = np.empty((count, planes), dtype=np.uint8)
    for plane in range(planes):
        segment = _unpack_segment(data[starts[plane] : starts[plane + 1]], count)
        cells[:, planes - 1 - plane] = np.frombuffer(segment, dtype=np.uint8)
    return cells.tobytes()


def _unpack_segment(segment: bytes, count: int) -> bytes:
    """Decode one PackBits segment to exactly `count` bytes (PS3.5 G.3.2)."""
    out = bytearray()
    position, end = 0, len(segment)
    while len(out) < count and position < end:
        control = segment[position]
        if control < 128:
            out += segment[position + 1 : position + 2 + control]
            position += control + 2
        elif control > 128:
            out += segment[position + 1 : position + 2] * (257 - control)
            position += 2
        else:
            position += 1
    if len(out) != count:
        reason = "truncated" if len(out) < count else "corrupt"
        raise BrokenImageError(f"an RLE segment decodes to {len(out)} bytes, expected {count}", reason=reason)
    return bytes(out)


def _describe_jpeg(data: bytes) -> Codestream:
    """Find the frame header of JPEG (ITU-T T.81 B.2.2) or JPEG-LS (T.87 C.2.2)."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("no SOI marker")
    position = 2
    while True:
        marker = data[position + 1]
        if data[position] != 0xFF:
            raise ValueError("no marker where one must be")
        if marker == 0xFF:
            position += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            frame = data[position + 4 : position + 10]
            return Codestream(
                precision=frame[0],
                rows=int.from_bytes(frame[1:3], "big"),
                columns=int.from_bytes(frame[3:5], "big"),
                components=frame[5],
            )
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _describe_jpeg2000(data: bytes) -> Codestream:
    """Read the SIZ segment (ITU-T T.800 A.5.1), which some writers precede with the boxes of a JP2 file."""
    siz = data.index(b"\xff\x4f\xff\x51") + 4
    right, bottom, left, top = (int.from_bytes(data[siz + i : siz + i + 4], "big") for i in (4, 8, 12, 16))
    depth = data[siz + 38]
    return Codestream(
        rows=bottom - top,
        columns=right - left,
        components=int.from_bytes(data[siz + 36 : siz + 38], "big"),
        precision=(depth & 0x7F) + 1,
        signed=depth >= 0x80,
    )


def _imagecodecs() -> ModuleType | None:
    try:
        import imagecodecs
    except ImportError:
        return None
    module: ModuleType = imagecodecs
    return module


def _require_imagecodecs(what: str) -> ModuleType:
    codecs = _imagecodecs()
    if codecs is None:
        raise UnsupportedImageError(
            f"{what} needs a decoder that is not installed: pip install 'mcr-infer[codecs]'", reason="codec_missing"
        )
    return codecs


def _pillow(data: bytes, kind: str) -> Stored:
    from PIL import Image

    with quietly():
        image = Image.open(BytesIO(data), formats=(kind,))
    return np.asarray(image)


def _jpeg_8bit(data: bytes, _: Codestream) -> Stored:
    return _pillow(data, "JPEG")


def _jpeg_extended(data: bytes, stream: Codestream) -> Stored:
    if stream.precision == 8:
        return _pillow(data, "JPEG")
    values: Stored = _require_imagecodecs("12-bit JPEG").jpeg8_decode(data)
    return values


def _jpeg_lossless(data: bytes, _: Codestream) -> Stored:
    values: Stored = _require_imagecodecs("JPEG Lossless").jpeg8_decode(data)
    return values


def _jpeg_ls(data: bytes, _: Codestream) -> Stored:
    values: Stored = _require_imagecodecs("JPEG-LS").jpegls_decode(data)
    return values


def _jpeg2000(data: bytes, stream: Codestream) -> Stored:
    """Decode JPEG 2000, High-Throughput or not, with imagecodecs, which lets other threads work, or else with Pillow.

    Both run OpenJPEG. OpenJPH is twice as fast on High-Throughput streams, but imagecodecs drops its errors and returns
    whatever memory held.
    """
    if (codecs := _imagecodecs()) is not None:
        values: Stored = codecs.jpeg2k_decode(data)
        return values
    # Pillow scales values up to its 8 or 16 bits and moves signed ones into the positive range.
    scaled = _pillow(data, "JPEG2000")
    unscaled = scaled >> (scaled.dtype.itemsize * 8 - stream.precision)
    if not stream.signed:
        return unscaled
    return (unscaled.astype(np.int32) - (1 << (stream.precision - 1))).astype(np.int16)


def _jpeg(name: str, codec: Callable[[bytes, Codestream], Stored]) -> TransferSyntax:
    return TransferSyntax(name=name, codec=codec, describe=_describe_jpeg)


def _jpeg_2000_family(name: str, codec: Callable[[bytes, Codestream], Stored]) -> TransferSyntax:
    return TransferSyntax(name=name, codec=codec, describe=_describe_jpeg2000)


IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
DEFLATED = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN = "1.2.840.10008.1.2.2"

TRANSFER_SYNTAXES = MappingProxyType({
    IMPLICIT: TransferSyntax(name="Implicit VR Little Endian", encapsulated=False),
    EXPLICIT: TransferSyntax(name="Explicit VR Little Endian", encapsulated=False),
    "1.2.840.10008.1.2.1.98": TransferSyntax(name="Encapsulated Uncompressed"),
    DEFLATED: TransferSyntax(name="Deflated Explicit VR Little Endian", encapsulated=False),
    BIG_ENDIAN: TransferSyntax(name="Explicit VR Big Endian", encapsulated=False, big_endian=True),
    "1.2.840.10008.1.2.5": TransferSyntax(name="RLE", run_length=True),
    "1.2.840.10008.1.2.4.50": _jpeg("JPEG Baseline", _jpeg_8bit),
    "1.2.840.10008.1.2.4.51": _jpeg("JPEG Extended", _jpeg_extended),
    "1.2.840.10008.1.2.4.57": _jpeg("JPEG Lossless", _jpeg_lossless),
    "1.2.840.10008.1.2.4.70": _jpeg("JPEG Lossless", _jpeg_lossless),
    "1.2.840.10008.1.2.4.80": _jpeg("JPEG-LS", _jpeg_ls),
    "1.2.840.10008.1.2.4.81": _jpeg("JPEG-LS", _jpeg_ls),
    "1.2.840.10008.1.2.4.90": _jpeg_2000_family("JPEG 2000", _jpeg2000),
    "1.2.840.10008.1.2.4.91": _jpeg_2000_family("JPEG 2000", _jpeg2000),
    "1.2.840.10008.1.2.4.201": _jpeg_2000_family("High-Throughput JPEG 2000", _jpeg2000),
    "1.2.840.10008.1.2.4.202": _jpeg_2000_family("High-Throughput JPEG 2000", _jpeg2000),
    "1.2.840.10008.1.2.4.203": _jpeg_2000_family("High-Throughput JPEG 2000", _jpeg2000),
})  # fmt: skip
"""Every transfer syntax that is read (PS3.6 table A-1), uncompressed ones first."""
