"""Search chest radiographs by what they show.

    from mcr_infer import Bundle, ImageEncoder, Index, TextEncoder, read_image, search

    bundle = Bundle.open()                                     # the one that ships; Bundle.open(path) for another
    radiograph = read_image("chest.dcm", rendering=bundle.preprocess.rendering)
    vectors = ImageEncoder(bundle).encode_radiographs([radiograph])
    with Index.open("mcr-index") as index:
        hits = search(index, TextEncoder(bundle).encode(["left pneumothorax"]), kind="image", k=10)[0]

The names below are the public interface; each is imported when it is first used, so `import mcr_infer` costs nothing.

The import does one thing besides: it sets the environment variables that switch off the telemetry of other libraries (see
`mcr_infer.telemetry`), because they read them when they are imported. It issues a `TelemetryWarning` where onnxruntime was
imported before.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from mcr_infer.telemetry import switch_off

if TYPE_CHECKING:
    from mcr_infer.embeddings import Embeddings
    from mcr_infer.errors import McrError
    from mcr_infer.images import read_image
    from mcr_infer.images.radiograph import Radiograph
    from mcr_infer.index import Hit, Index, search
    from mcr_infer.inference.bundle import Bundle
    from mcr_infer.inference.encoder import ImageEncoder, TextEncoder

__version__ = "0.1.0"

_HOME = {
    "Bundle": "mcr_infer.inference.bundle",
    "Embeddings": "mcr_infer.embeddings",
    "ImageEncoder": "mcr_infer.inference.encoder",
    "TextEncoder": "mcr_infer.inference.encoder",
    "McrError": "mcr_infer.errors",
    "read_image": "mcr_infer.images",
    "Radiograph": "mcr_infer.images.radiograph",
    "Hit": "mcr_infer.index",
    "Index": "mcr_infer.index",
    "search": "mcr_infer.index",
}

__all__ = [
    "Bundle", "Embeddings", "Hit", "ImageEncoder", "Index", "McrError", "Radiograph", "TextEncoder", "read_image", "search",
]  # fmt: skip

switch_off()


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'mcr_infer' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
