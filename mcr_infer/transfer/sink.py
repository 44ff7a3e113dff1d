"""Where exported rows go: a file or a folder that is there whole or not at all, and is its owner's alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from mcr_infer.errors import EmbeddingIndexError
from mcr_infer.index import Row


class Sink(Protocol):
    """Takes rows, block by block."""

    def add(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        ...


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Put what the system says about a target into our words. Raises `EmbeddingIndexError`."""
    try:
        yield
    except OSError as exc:
        raise EmbeddingIndexError(
            f"{out} cannot be written ({exc.strerror or type(exc).__name__}); nothing of it is left there. Free some space, "
            "or name another place with --out"
        ) from exc


def refuse_what_is_there(out: Path) -> None:
    """Raise `EmbeddingIndexError` where something lies at the target: an export never takes its place."""
    if out.exists() or out.is_symlink():
        raise EmbeddingIndexError(f"{out} is there already: remove it, or name another place with --out")
    if not out.parent.is_dir():
        raise EmbeddingIndexError(f"the folder {out.parent} of --out is not there: make it first")
