"""Which radiographs a run takes: a selection by what their headers say, asked before any pixel is read."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from mcr_infer.errors import ConfigError, NotSelectedError
from mcr_infer.images.header import LATERALS, RADIOGRAPHS

UNKNOWN = "unknown"
"""Selects what the file does not say; PNG and JPEG files say none of it."""

PRESENTATION_INTENTS = ("FOR PRESENTATION", "FOR PROCESSING")
"""The defined terms of Presentation Intent Type (0008,0068)."""

Words = tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Values of four attributes, in upper case or `unknown`; None takes any.

    A file that does not say what is asked for is left out, unless `unknown` is among the values. `LATERAL` among the views
    is all that lateral views are called.
    """

    modalities: Words = None
    """CR, DX, RG."""
    body_parts: Words = None
    """Body Part Examined (0018,0015), such as CHEST."""
    views: Words = None
    """PA, AP, LL, LATERAL, ... wherever the file says it."""
    presentation_intents: Words = None
    """FOR PRESENTATION, FOR PROCESSING."""

    _CLOSED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "modalities": RADIOGRAPHS,
        "presentation_intents": PRESENTATION_INTENTS,
    }

    def __post_init__(self) -> None:
        for one in fields(self):
            values = getattr(self, one.name)
            if values is None:
                continue
            if not isinstance(values, tuple) or not values:
                raise ConfigError(
                    f"{one.name} of the selection must be one word or more, or None for any; got {values!r}"
                )
            known = self._CLOSED.get(one.name)
            for value in values:
                sound = value == UNKNOWN or (isinstance(value, str) and re.fullmatch(r"[A-Z0-9_ ]{1,16}", value))
                if not sound or (known is not None and value not in (*known, UNKNOWN)):
                    expected = (
                        f"one of {', '.join(known)}" if known else "a DICOM code in upper case such as CHEST or PA"
                    )
                    raise ConfigError(f"{one.name} of the selection must be {expected}, or {UNKNOWN}; got {value!r}")

    @classmethod
    def of(
        cls,
        *,
        modalities: Iterable[str] | None = None,
        body_parts: Iterable[str] | None = None,
        views: Iterable[str] | None = None,
        presentation_intents: Iterable[str] | None = None,
    ) -> "Selection":
        """Make a selection of words in any case, as people type them; no words at all take any. Raises `ConfigError`."""
        given = (modalities, body_parts, views, presentation_intents)
        return cls(**{one.name: _normalised(words) for one, words in zip(fields(cls), given, strict=True)})

    def to_dict(self) -> dict[str, list[str]]:
        """Return what is asked for as plain JSON; what takes any is left out."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: list(words) for name, words in values.items() if words is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Iterable[str]]) -> "Selection":
        """Read what `to_dict` returned; raises `ConfigError` for other keys."""
        known = [one.name for one in fields(cls)]
        if not set(values) <= set(known):
            raise ConfigError(f"a selection has the keys {', '.join(known)}; got {', '.join(sorted(values))}")
        return cls(**{name: tuple(words) for name, words in values.items()})

    def require(
        self,
        *,
        modality: str | None = None,
        body_part: str | None = None,
        view: str | None = None,
        presentation_intent: str | None = None,
    ) -> None:
        """Raise `NotSelectedError` for the first attribute that is not among its values; None stands for unknown."""
        views = self.views
        if views is not None and "LATERAL" in views:
            views = (*views, *LATERALS)
        for reason, name, found, wanted in (
            ("modality", "modality", modality, self.modalities),
            ("body_part", "body part", body_part, self.body_parts),
            ("view", "view", view, views),
            ("presentation_intent", "presentation intent", presentation_intent, self.presentation_intents),
        ):
            if wanted is not None and (found or UNKNOWN) not in wanted:
                asked = ", ".join(dict.fromkeys(wanted))
                raise NotSelectedError(
                    f"left out by its {name}, which is {found or UNKNOWN}: selected are {asked}", reason=reason
                )


def _normalised(words: Iterable[str] | None) -> Words:
    """Return words in upper case, `unknown` in lower case, each once; None where there are none."""
    kept = [word.strip().upper() for word in words or ()]
    return tuple(dict.fromkeys(UNKNOWN if word == UNKNOWN.upper() else word for word in kept)) or None
