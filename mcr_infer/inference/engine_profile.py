"""The optimisation profile: which shapes an engine takes, and for which it is tuned.

A graph takes any batch, any number of patches or tokens; an engine takes what its profile admits.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mcr_infer.errors import ConfigError
from mcr_infer.inference.bundle import Bundle

_SPAN = re.compile(r"(\d{1,7}):(\d{1,7}):(\d{1,7})")
_LENGTH_AXIS = {"image": "patches", "text": "tokens"}

DEFAULT_BATCH = (1, 8, 32)
"""32 is the batch in which texts run, and twice the one in which radiographs do if nobody says otherwise."""

USUAL_TOKENS = 32
"""A finding in report language has fewer tokens than this; whole reports are cut at the most that the tower takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """The smallest, the most usual and the largest length of one axis."""

    smallest: int
    usual: int
    largest: int

    def __post_init__(self) -> None:
        if not 1 <= self.smallest <= self.usual <= self.largest:
            raise ConfigError(f"a profile runs from smallest to largest, each at least 1; got {self}")

    def __str__(self) -> str:
        return f"{self.smallest}:{self.usual}:{self.largest}"

    @classmethod
    def parse(cls, text: object, where: str) -> "Span":
        """Read `1:8:32`; raises `ConfigError`, which names `where` it stood."""
        found = _SPAN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ConfigError(f"{where} must be smallest:usual:largest, such as 1:8:32; got {text!r}")
        smallest, usual, largest = map(int, found.groups())
        return cls(smallest=smallest, usual=usual, largest=largest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The shapes that engines of a bundle take: rows of a batch, patches of a radiograph, tokens of a text."""

    batch: Span
    patches: Span
    tokens: Span

    @classmethod
    def of(cls, bundle: Bundle, changes: Iterable[str] = ()) -> "Profile":
        """Make the profile of a bundle, with changes such as `batch=1:16:64` or `patches=50:100:100,tokens=1:64:96`.

        Without changes it takes batches of 1 to 32, from one patch to all, tuned for all, and any text. Raises
        `ConfigError` for an axis that there is not, for a text longer than the tower takes and for more patches than a
        radiograph has.
        """
        most_patches, most_tokens = bundle.preprocess.patch_count, bundle.max_tokens
        spans = {
            "batch": Span(smallest=DEFAULT_BATCH[0], usual=DEFAULT_BATCH[1], largest=DEFAULT_BATCH[2]),
            "patches": Span(smallest=1, usual=most_patches, largest=most_patches),
            "tokens": Span(smallest=1, usual=min(USUAL_TOKENS, most_tokens), largest=most_tokens),
        }
        for change in (one for text in changes for one in re.split(r"[,\s]+", text) if one):
            axis, _, text = change.partition("=")
            if axis not in spans:
                raise ConfigError(f"--profile {change}: there is no axis {axis!r}, choose of {', '.join(spans)}")
            spans[axis] = Span.parse(text, f"--profile {axis}")
        for axis, most in (("patches", most_patches), ("tokens", most_tokens)):
            if spans[axis].largest > most:
                raise ConfigError(f"--profile {axis}={spans[axis]}: the bundle {bundle.name} has at most {most} {axis}")
        return cls(**spans)

    @classmethod
    def from_dict(cls, values: Mapping[str, object], where: str) -> "Profile":
        """Read what `to_dict` wrote; raises `ConfigError`, which names `where` it stood."""
        names = [field.name for field in fields(cls)]
        if set(values) != set(names):
            raise ConfigError(f"{where} must have the axes {', '.join(names)}; got {', '.join(map(str, values))}")
        return cls(**{name: Span.parse(values[name], f"{where}.{name}") for name in names})

    def to_dict(self) -> dict[str, str]:
        """Return the spans by axis, as the command line writes them."""
        return {field.name: str(getattr(self, field.name)) for field in fields(self)}

    def shapes(self, side: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Fill the open axes (-1) of an input of `image` or `text`: its smallest, usual and largest shape.

        The first axis is the batch, the second counts patches or tokens.
        """
        axes: dict[int, Any] = {0: self.batch, 1: getattr(self, _LENGTH_AXIS[side])}

        def filled(which: str) -> tuple[int, ...]:
            return tuple(getattr(axes[axis], which) if size < 0 else size for axis, size in enumerate(shape))

        return filled("smallest"), filled("usual"), filled("largest")
