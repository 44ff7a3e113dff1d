"""Unit vectors that know the embedding space they belong to."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_JOINING = (np.concatenate, np.stack, np.vstack)
_SELECTING = (np.atleast_2d, np.copy, np.expand_dims, np.squeeze, np.take)


class Embeddings(np.ndarray[tuple[Any, ...], np.dtype[np.float32]]):
    """Unit vectors float32 [N, D], or one [D], as an encoder gives them: an array with a `fingerprint`.

    Indexing, slicing, copying and joining vectors of one space keep the fingerprint. Arithmetic, and joining vectors of
    different spaces, give a plain array: what comes out is no embedding of that space any more.
    """

    fingerprint: str | None
    """The embedding space, as `Bundle.fingerprint` and `Index.fingerprint` name it; None once it is lost."""

    def __new__(cls, vectors: NDArray[np.float32], fingerprint: str) -> "Embeddings":
        """Mark vectors [N, D] or [D] as those of a space; the array is not copied."""
        marked = np.asarray(vectors, dtype=np.float32).view(cls)
        marked.fingerprint = fingerprint
        return marked

    def __array_finalize__(self, source: object) -> None:
        self.fingerprint = getattr(source, "fingerprint", None)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if out := kwargs.get("out"):
            for array in out:
                if isinstance(array, Embeddings):
                    array.fingerprint = None
            kwargs["out"] = tuple(_plain(array) for array in out)
        return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in _JOINING and args:
            return _joined(func, list(args[0]), args[1:], kwargs)
        if func in _SELECTING and args and isinstance(args[0], Embeddings):
            chosen = func(_plain(args[0]), *args[1:], **kwargs)
            return Embeddings(chosen, self.fingerprint) if self.fingerprint is not None else chosen
        return func(*_plain_in(args), **{name: _plain_in(value) for name, value in kwargs.items()})

    def __setitem__(self, place: Any, value: Any) -> None:
        super().__setitem__(place, _plain(value))
        self.fingerprint = None

    def __reduce__(self) -> Any:
        return Embeddings, (_plain(self), self.fingerprint)


def fingerprint_of(vectors: object) -> str | None:
    """Return the embedding space of vectors, None where they do not know it."""
    return getattr(vectors, "fingerprint", None)


def _joined(func: Any, parts: Sequence[Any], args: Any, kwargs: Any) -> Any:
    joined = func([_plain(part) for part in parts], *args, **kwargs)
    spaces = {fingerprint_of(part) for part in parts}
    return Embeddings(joined, space) if len(spaces) == 1 and (space := spaces.pop()) is not None else joined


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, Embeddings) else value


def _plain_in(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_plain_in(one) for one in value)
    return _plain(value)
