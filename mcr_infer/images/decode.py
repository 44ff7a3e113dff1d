"""A compressed or native frame becomes stored values [H, W]: one explicit decoder for each transfer syntax.

Codecs are C libraries that meet whatever a file holds. The size in a codestream is compared with the header before
anything is decoded, anything a codec throws is contained, and its result is checked against what the header declares.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import BytesIO
from types import MappingProxyType

import numpy as np

from mcr_infer.errors import BrokenImageError, ImageError, UnsupportedImageError
from mcr_infer.images.pixel_format import PixelFormat, Stored
from mcr_infer.images.pixeldata import check_native_length
from mcr_infer.images.reduced_decode import Codestream, describe_jpeg, describe_jpeg2000, reduced_shape, spread_evenly
from mcr_infer.images.run_length import unpack_runs
from mcr_infer.images.third_party import imagecodecs_if_installed, quietly, require_imagecodecs


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferSyntax:
    """How one transfer syntax keeps its pixels (PS3.5 annex A)."""

    name: str
    encapsulated: bool = True
    codec: Callable[[bytes, Codestream], Stored] | None = None
    """Decodes a JPEG-family codestream; None for native values and RLE."""
    describe: Callable[[bytes], Codestream] | None = None
    """Reads the header of that codestream."""
    reduced: Callable[[bytes, Codestream, int], Stored] | None = None
    """Decodes it at 1/2, 1/4 or 1/8, as far as its own header offers; None where the syntax cannot."""
    big_endian: bool = False
    run_length: bool = False
    lossy: bool = False
    """Values may lie a little beyond those that were compressed, and so beyond Bits Stored; where the bits of a codestream
    are more than those, its codec does not clip them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One frame as stored values [H, W] or, reduced by a factor f, [H/f, W/f], signed as the header says."""

    values: Stored
    reduction: int = 1
    """1, 2, 4 or 8."""
    notes: tuple[str, ...] = ()


_FAR_BEYOND = 0.02
"""The largest share of decoded values that may lie beyond Bits Stored by more than 1/16 of their range, as those of a
wavelet do beside an edge."""


def decode(data: bytes, syntax: TransferSyntax, layout: PixelFormat, *, reduction: int = 1) -> Decoded:
    """Decode one frame, reduced by at most `reduction` where its codestream offers that and in full where it does not.

    Raises `BrokenImageError` (`truncated`, `corrupt`) or `UnsupportedImageError` (`codec_missing`).
    """
    if syntax.codec is None or syntax.describe is None:
        if syntax.run_length:
            return _unpack_native(unpack_runs(data, layout), layout)
        size, order = layout.bits_allocated // 8, ">" if syntax.big_endian else "<"
        # Native pixel data were measured when they were read; an encapsulated frame (PS3.5 A.4.11) is as long as it likes.
        length_notes = check_native_length(len(data), layout.byte_count)
        stored = np.frombuffer(data, dtype=f"{order}u{size}", count=layout.rows * layout.columns)
        native = _unpack_native(stored.astype(f"u{size}", copy=False).reshape(layout.rows, layout.columns), layout)
        return replace(native, notes=(*length_notes, *native.notes))
    if not data.rstrip(b"\x00\xff").endswith(b"\xff\xd9"):
        # Several codecs fill what is missing with zeros and report success.
        raise BrokenImageError(
            f"the {syntax.name} data end without their end marker (FFD9): the image is cut", reason="truncated"
        )
    stream = _described(data, syntax, layout)
    notes: tuple[str, ...] = ()
    if stream.precision < layout.bits_stored:
        of = 1 << layout.bits_stored
        notes = (
            f"{syntax.name} data of {stream.precision} bits under Bits Stored {layout.bits_stored}: "
            f"{1 << stream.precision} of {of} levels are used at most",
        )
    if layout.high_bit != layout.bits_stored - 1:
        notes += (f"High Bit {layout.high_bit} ignored: {syntax.name} data hold values, not bits of a cell",)
    reduction = min(reduction, 1 << stream.halvings)
    if reduction > 1 and (values := _decode_reduced(data, stream, syntax, layout, reduction)) is not None:
        return Decoded(values=values, reduction=reduction, notes=notes)
    codec = syntax.codec
    values = _contained(lambda: codec(data, stream), syntax, (layout.rows, layout.columns))
    as_coded = replace(layout, signed=stream.signed)
    if (syntax.lossy or stream.transform == "9/7") and _overshoots(values, as_coded):
        values = values.clip(*as_coded.levels)
    return Decoded(values=_fit_decoded(values, syntax, layout), notes=notes)


def _contained(codec: Callable[[], Stored], syntax: TransferSyntax, shape: tuple[int, int]) -> Stored:
    """Let a codec decode; raise an error of ours for whatever it throws and for values that are none of `shape`."""
    try:
        values = codec()
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
    if values.shape != shape or values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        raise BrokenImageError(
            f"the {syntax.name} data decode to {values.dtype} of shape {values.shape}, "
            f"expected 8 or 16 bits of shape {shape}",
            reason="corrupt",
        )
    return values


def _decode_reduced(
    data: bytes, stream: Codestream, syntax: TransferSyntax, layout: PixelFormat, reduction: int
) -> Stored | None:
    """Decode at 1/`reduction` to values within Bits Stored; None where only the whole picture can say what they mean."""
    # Codes of the other signedness jump in the middle of their range, and a mean over such a jump is no value.
    if (codec := syntax.reduced) is None or stream.signed != layout.signed:
        return None
    shape = (layout.rows, layout.columns)
    values = _contained(lambda: codec(data, stream, reduction), syntax, reduced_shape(shape, reduction))
    lowest, highest = layout.levels
    if not _overshoots(values, layout):
        return None
    even = spread_evenly(values, shape, reduction, stream.transform)
    return np.rint(even).clip(lowest, highest).astype(f"{'i' if layout.signed else 'u'}{layout.bits_allocated // 8}")


def _overshoots(values: Stored, layout: PixelFormat) -> bool:
    """Tell whether values lie beyond Bits Stored only as far as loss and wavelets go: a little, or further at few pixels.

    More than that are other values than the header declares.
    """
    lowest, highest = layout.levels
    least, most, span = int(values.min()), int(values.max()), highest - lowest
    if lowest <= least and most <= highest:
        return True
    if least < lowest - span // 2 or most > highest + span // 2:
        return False
    far = np.count_nonzero((values < lowest - span // 16) | (values > highest + span // 16))
    return bool(far <= _FAR_BEYOND * values.size)


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


def _unpack_native(cells: Stored, layout: PixelFormat) -> Decoded:
    """Take Bits Stored out of each cell of Bits Allocated; what lies in the other bits, such as overlays, is dropped."""
    size = layout.bits_allocated // 8
    if layout.overlay_bits:
        cells = cells & ~cells.dtype.type(layout.overlay_bits)
    if layout.bits_stored == layout.bits_allocated:
        return Decoded(values=cells.view(f"i{size}") if layout.signed else cells)
    lowest = layout.high_bit + 1 - layout.bits_stored
    low = cells.view(f"i{size}") if layout.signed else cells
    if layout.levels[0] <= low.min() and low.max() <= layout.levels[1]:
        if lowest == 0:
            return Decoded(values=low)  # nothing lies in the other bits, as in most files
        if np.any(cells & ((1 << lowest) - 1)):
            note = (
                f"High Bit {layout.high_bit} contradicts the pixels, which lie in the {layout.bits_stored} lowest bits"
            )
            return Decoded(values=low, notes=(f"{note}: read there",))
    kept = (cells >> lowest) & ((1 << layout.bits_stored) - 1)
    values = _sign_extended(kept, layout.bits_stored) if layout.signed else kept
    # The bits above a signed value may repeat its sign or be zero.
    clean = any(np.array_equal((shown << lowest).view(cells.dtype), cells) for shown in (kept, values))
    note = f"bits outside of Bits Stored {layout.bits_stored} below High Bit {layout.high_bit} ignored"
    return Decoded(values=values, notes=() if clean else (note,))


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


def _pillow(data: bytes, kind: str) -> Stored:
    from PIL import Image

    with quietly():
        image = Image.open(BytesIO(data), formats=(kind,))
    return np.asarray(image)


def _jpeg_8bit(data: bytes, _: Codestream) -> Stored:
    return _pillow(data, "JPEG")


def _jpeg_8bit_reduced(data: bytes, stream: Codestream, factor: int) -> Stored:
    from PIL import Image

    with quietly():
        image = Image.open(BytesIO(data), formats=("JPEG",))
    image.draft("L", (stream.columns // factor, stream.rows // factor))
    return np.asarray(image)


def _jpeg_extended(data: bytes, stream: Codestream) -> Stored:
    if stream.precision == 8:
        return _pillow(data, "JPEG")
    values: Stored = require_imagecodecs("12-bit JPEG").jpeg8_decode(data)
    return values


def _jpeg_lossless(data: bytes, _: Codestream) -> Stored:
    values: Stored = require_imagecodecs("JPEG Lossless").jpeg8_decode(data)
    return values


def _jpeg_ls(data: bytes, _: Codestream) -> Stored:
    values: Stored = require_imagecodecs("JPEG-LS").jpegls_decode(data)
    return values


def _jpeg2000(data: bytes, stream: Codestream) -> Stored:
    """Decode JPEG 2000, High-Throughput or not, with imagecodecs, which lets other threads work, or else with Pillow.

    Both run OpenJPEG. OpenJPH is twice as fast on High-Throughput streams, but imagecodecs drops its errors and returns
    whatever memory held.
    """
    if (codecs := imagecodecs_if_installed()) is not None:
        values: Stored = codecs.jpeg2k_decode(data)
        return values
    return _unscaled(_pillow(data, "JPEG2000"), stream)


def _jpeg2000_reduced(data: bytes, stream: Codestream, factor: int) -> Stored:
    """Decode JPEG 2000 without its finest levels, by Pillow: imagecodecs' binding of OpenJPEG does not offer it."""
    from PIL import Image

    with quietly():
        image = Image.open(BytesIO(data), formats=("JPEG2000",))
    rows, columns = reduced_shape((stream.rows, stream.columns), factor)
    # Pillow's own `reduce` rounds the size to the nearest instead of up, and then refuses the stream of half of all sizes.
    tile = image.tile[0]
    assert isinstance(tile.args, tuple)
    codec, _, *others = tile.args
    image._size = (columns, rows)
    image.tile = [tile._replace(extents=(0, 0, columns, rows), args=(codec, factor.bit_length() - 1, *others))]
    return _unscaled(np.asarray(image), stream)


def _unscaled(scaled: Stored, stream: Codestream) -> Stored:
    """Undo what Pillow does to JPEG 2000: it scales values up to 8 or 16 bits and moves signed ones to begin at 0."""
    unscaled: Stored = scaled >> (scaled.dtype.itemsize * 8 - stream.precision)
    if not stream.signed:
        return unscaled
    return (unscaled.astype(np.int32) - (1 << (stream.precision - 1))).astype(np.int16)


def _jpeg(name: str, codec: Callable[[bytes, Codestream], Stored]) -> TransferSyntax:
    return TransferSyntax(name=name, codec=codec, describe=describe_jpeg)


def _jpeg_blocks(name: str, codec: Callable[[bytes, Codestream], Stored]) -> TransferSyntax:
    return TransferSyntax(name=name, codec=codec, reduced=_jpeg_8bit_reduced, describe=describe_jpeg)


def _jpeg_2000_family(name: str) -> TransferSyntax:
    return TransferSyntax(name=name, codec=_jpeg2000, reduced=_jpeg2000_reduced, describe=describe_jpeg2000)


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
    "1.2.840.10008.1.2.4.50": _jpeg_blocks("JPEG Baseline", _jpeg_8bit),
    "1.2.840.10008.1.2.4.51": replace(_jpeg_blocks("JPEG Extended", _jpeg_extended), lossy=True),
    "1.2.840.10008.1.2.4.57": _jpeg("JPEG Lossless", _jpeg_lossless),
    "1.2.840.10008.1.2.4.70": _jpeg("JPEG Lossless", _jpeg_lossless),
    "1.2.840.10008.1.2.4.80": _jpeg("JPEG-LS", _jpeg_ls),
    "1.2.840.10008.1.2.4.81": replace(_jpeg("JPEG-LS", _jpeg_ls), lossy=True),
    "1.2.840.10008.1.2.4.90": _jpeg_2000_family("JPEG 2000"),
    "1.2.840.10008.1.2.4.91": replace(_jpeg_2000_family("JPEG 2000"), lossy=True),
    "1.2.840.10008.1.2.4.201": _jpeg_2000_family("High-Throughput JPEG 2000"),
    "1.2.840.10008.1.2.4.202": _jpeg_2000_family("High-Throughput JPEG 2000"),
    "1.2.840.10008.1.2.4.203": replace(_jpeg_2000_family("High-Throughput JPEG 2000"), lossy=True),
})  # fmt: skip
"""Every transfer syntax that is read (PS3.6 table A-1), uncompressed ones first."""
