"""A question becomes a vector: a sentence through the text tower, a radiograph through the image tower."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer.bundle import FULL, Bundle
from mcr_infer.encoder import ImageEncoder, TextEncoder
from mcr_infer.errors import QueryError


def text_vector(bundle: Bundle, text: str, *, device: str, precision: str = FULL) -> NDArray[np.float32]:
    """Embed one sentence to a unit vector [D]; raises `QueryError` when it says nothing."""
    if not text.strip():
        raise QueryError("the query is empty: ask in report language, such as 'bilateral pleural effusion'")
    vectors = TextEncoder(bundle, device=device, precision=precision, purpose="one_shot").encode([text])
    return vectors.reshape(-1)


def image_vector(bundle: Bundle, path: Path, *, device: str, precision: str = FULL) -> NDArray[np.float32]:
    """Read and embed one radiograph to a unit vector [D]; raises `ImageError` when it cannot be read."""
    from mcr_infer.images import read_image

    encoder = ImageEncoder(bundle, device=device, precision=precision, purpose="one_shot")
    return encoder.encode_radiographs([read_image(path, rendering=encoder.preprocess.rendering)]).reshape(-1)
