"""Rows leave an index: streamed from one moment of it, a block at a time, so that a million need no more memory than one."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mcr_infer.errors import QueryError
from mcr_infer.index import KINDS, Filter, Index, Row
from mcr_infer.index.row_selection import chosen_labels
from mcr_infer.pipeline.transfer.formats import Description, Sink
from mcr_infer.pipeline.transfer.npy import npy_folder
from mcr_infer.pipeline.transfer.parquet import parquet_file, require_pyarrow, types_of

Format = Literal["parquet", "npy"]

_BLOCK = 8_192
"""Rows that are written together; in Parquet a row group."""

Labels = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """What was written."""

    rows: Mapping[str, int]
    """By kind."""

    texts_left_out: int
    """Rows whose text the index keeps and the export does not."""


def export(
    index: Index,
    out: Path,
    *,
    format: Format,
    kinds: Collection[str] = KINDS,
    where: Filter | None = None,
    with_text: bool = False,
) -> Exported:
    """Write rows of some kinds, or those that match a filter, to a Parquet file or a folder of npy.

    The text of reports stays behind unless `with_text` asks for it. Raises `QueryError` where nothing is to be written,
    `EmbeddingIndexError` where it cannot be.
    """
    if format == "parquet":
        require_pyarrow()
    with index.snapshot():
        labels = chosen_labels(index, where, kinds)
        counts = {kind: len(chosen) for kind, chosen in labels.items()}
        if not any(counts.values()):
            raise QueryError(f"nothing of index {index.folder} is to be exported: it holds no such rows")
        description = Description(identity=index.identity, rows=counts, with_text=with_text, digests={})
        target: AbstractContextManager[Sink]
        if format == "parquet":
            types = types_of(row.metadata for row in _rows(index, labels))
            target = parquet_file(out, description, types)
        else:
            target = npy_folder(out, description)
        left_out = 0
        with target as sink:
            rows = _rows(index, labels)
            while block := list(islice(rows, _BLOCK)):
                sink.add(block)
                left_out += sum(row.text is not None for row in block)
    return Exported(rows=counts, texts_left_out=0 if with_text else left_out)


def _rows(index: Index, labels: Labels) -> Iterator[Row]:
    for kind, chosen in labels.items():
        for _, row in index.scan(kind, chosen):
            yield row
