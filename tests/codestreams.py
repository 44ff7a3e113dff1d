"""One frame in every transfer syntax that is read, as its codec compresses it."""

import io

import numpy as np
import pytest
from PIL import Image

JPEG = "1.2.840.10008.1.2.4."
ENCAPSULATED = "1.2.840.10008.1.2.1.98"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2")


def frame_of(syntax: str, stored: np.ndarray) -> bytes | None:
    """Compress one frame; None where the bytes are native."""
    if syntax in _NATIVE:
        return None
    if syntax == ENCAPSULATED:
        return stored.tobytes()
    codecs = pytest.importorskip("imagecodecs")
    match syntax.removeprefix(JPEG):
        case "50":
            buffer = io.BytesIO()
            Image.fromarray(stored).save(buffer, "JPEG", quality=98)
            return buffer.getvalue()
        case "51":
            return bytes(codecs.jpeg8_encode(stored, level=98, bitspersample=12))
        case "57" | "70" as code:
            # .57 may choose any predictor, .70 the first one (PS3.5 A.4.1).
            return bytes(
                codecs.jpeg8_encode(stored, lossless=True, predictor=7 if code == "57" else 1, bitspersample=12)
            )
        case "80" | "81" as code:
            return bytes(codecs.jpegls_encode(stored, level=3 if code == "81" else 0))
        case "90" | "91" as code:
            how = {"level": 0, "reversible": True} if code == "90" else {"level": 55, "reversible": False}
            return bytes(codecs.jpeg2k_encode(stored, codecformat="J2K", bitspersample=12, **how))
        case code:
            return bytes(codecs.htj2k_encode(stored, reversible=code != "203"))
