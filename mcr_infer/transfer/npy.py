"""A folder of npy: what every numpy reads, and a line of JSON a row beside it.

    vectors.npy   float32 [N, D], in the order of rows.jsonl
    rows.jsonl    a JSON object a row: its fields and its metadata
    export.json   whose vectors these are, see `mcr_infer.transfer.description`

The way back takes folders of others, too: one .npy [N, D] of floats, and one .jsonl, .csv or .txt that names the rows.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np

from mcr_infer.durable import create_private, replace_file, sync_folder
from mcr_infer.index import Row
from mcr_infer.transfer.description import Description
from mcr_infer.transfer.fields import fields_of
from mcr_infer.transfer.sink import refuse_what_is_there, writing

VECTORS, ROWS, DESCRIPTION = "vectors.npy", "rows.jsonl", "export.json"


class NpySink:
    """Writes rows into an open folder."""

    def __init__(self, vectors: IO[bytes], rows: IO[bytes], *, count: int, dim: int, with_text: bool) -> None:
        self._vectors, self._rows, self._with_text = vectors, rows, with_text
        self._digests = {VECTORS: hashlib.sha256(), ROWS: hashlib.sha256()}
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, dim)}
        np.lib.format.write_array_header_1_0(vectors, header)
        vectors.flush()
        at = vectors.tell()
        vectors.seek(0)
        self._digests[VECTORS].update(vectors.read(at))

    def add(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        block = np.stack([row.vector for row in rows]).astype("<f4").tobytes()
        lines = b"".join(
            json.dumps({**fields_of(row, with_text=self._with_text), "metadata": dict(row.metadata)}).encode("ascii")
            + b"\n"
            for row in rows
        )
        for name, file, content in ((VECTORS, self._vectors, block), (ROWS, self._rows, lines)):
            file.write(content)
            self._digests[name].update(content)

    @property
    def digests(self) -> Mapping[str, str]:
        """Hex SHA-256 of both files, by name."""
        return {name: digest.hexdigest() for name, digest in self._digests.items()}


@contextmanager
def npy_folder(out: Path, description: Description) -> Iterator[NpySink]:
    """Make the folder from what the block adds; it appears under its name when the block ends well."""
    refuse_what_is_there(out)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    with writing(out):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        try:
            with (
                os.fdopen(create_private(partial / VECTORS), "w+b") as vectors,
                os.fdopen(create_private(partial / ROWS), "wb") as rows,
            ):
                sink = NpySink(
                    vectors,
                    rows,
                    count=sum(description.rows.values()),
                    dim=description.identity.embedding_dim,
                    with_text=description.with_text,
                )
                yield sink
                for file in (vectors, rows):
                    file.flush()
                    os.fsync(file.fileno())
            told = replace(description, digests=sink.digests).to_json() + "\n"
            replace_file(partial / DESCRIPTION, told.encode("ascii"), private=True)
            partial.rename(out)
            sync_folder(out.absolute().parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
