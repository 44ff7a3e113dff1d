"""A row as it travels: its plain fields, its metadata, its vector."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mcr_infer.index import Row
from mcr_infer.index.root import shown

FIELDS = (
    "kind", "id", "path", "study_uid", "series_uid", "patient_key", "precision", "patch_budget", "content_digest",
    "text_strategy", "text",
)  # fmt: skip
"""All but metadata and vector, in the order of the columns."""


def fields_of(row: Row, *, with_text: bool) -> dict[str, Any]:
    """Return the plain fields of a row; without its text unless that is asked for."""
    values = {name: getattr(row, name) for name in FIELDS} | {"path": shown(row.path)}
    if not with_text:
        values["text"] = None
    return values


def row_of(fields: Mapping[str, Any], metadata: Mapping[str, Any], vector: NDArray[np.float32]) -> Row:
    """Make the row again. Raises `EmbeddingIndexError` where the fields are not those of a row."""
    return Row(**fields, metadata=metadata, vector=vector)
