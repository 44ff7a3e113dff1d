"""Names of headings and what stands below them: what we know of seven languages, and what a site adds in a TOML file.

name -> without case, accents, hyphens -> exactly known, joined of known ones, or one slip of the keyboard away -> kind
"""

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from mcr_infer.errors import ConfigError
from mcr_infer.reports.vocabulary import CONNECTOR, MODIFIERS, NAMES

Kind = Literal[
    "findings", "impression", "both", "addendum", "organ", "clinical", "study", "administrative", "preliminary", "title",
]  # fmt: skip
"""What stands below a heading; `both` is findings and impression in one."""

LONGEST = 64
"""Letters of the longest heading; what is longer is a sentence."""

_SHORTEST_MISSPELT = 6
"""Letters from which a misspelt name is recognized: shorter ones have too many words for neighbors."""

_MARKS = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l"})


def fold(text: str) -> str:
    """Return text without case and accents, for comparisons."""
    decomposed = unicodedata.normalize("NFKD", text.casefold().translate(_MARKS))
    return "".join(char for char in decomposed if not unicodedata.combining(char))


class Headings:
    """The names of headings, ours and a site's own, which win over ours."""

    def __init__(self, site: Mapping[Kind, tuple[str, ...]] | None = None, *, ignored: tuple[str, ...] = ()) -> None:
        """Know our names and those of a site by kind, but none of `ignored`."""
        self._kinds = dict(_known())
        self._kinds.update((_key(name), kind) for kind, names in (site or {}).items() for name in names)
        for name in ignored:
            self._kinds.pop(_key(name), None)
        self._ignored = frozenset(map(_key, ignored))
        # Reports of one archive name the same few things; a text made to have many names must not fill the memory.
        self.kind = lru_cache(maxsize=4096)(self._kind)

    def _kind(self, name: str, *, misspelt: bool = False) -> Kind | None:
        """Return the kind of a heading, None where it is none; `misspelt` accepts one slip of the keyboard, too."""
        if len(name) > LONGEST:
            return None
        key = _key(name)
        if not key or key in self._ignored:
            return None
        kind = self._kinds.get(key) or self._modified(key) or self._joined(key)
        return kind or (self._nearest(key) if misspelt else None)

    def _modified(self, key: str) -> Kind | None:
        """Know `final impression` and `chest findings` by their last word."""
        *words, last = key.split(" ")
        kind = self._kinds.get(last)
        return kind if kind in ("findings", "impression") and words and MODIFIERS.issuperset(words) else None

    def _joined(self, key: str) -> Kind | None:
        """Know `lungs and pleura` or `findings/impression` where both parts are known."""
        parts = CONNECTOR.split(key)
        if len(parts) < 2:
            return None
        kinds = {self._kinds.get(part) or self._modified(part) for part in parts}
        if None in kinds:
            return None
        if kinds >= {"findings", "impression"}:
            return "both"
        # A sentence too many is better than one that is lost: the kind that keeps most decides.
        return next(kind for kind in get_args(Kind) if kind in kinds)

    def _nearest(self, key: str) -> Kind | None:
        if len(key) < _SHORTEST_MISSPELT or any(char.isdigit() for char in key):
            return None
        candidates = (name for size in (0, -1, 1) for name in self._by_length.get(len(key) + size, ()))
        ends = (name for name in candidates if name[0] == key[0] or name[-1] == key[-1])
        return next((self._kinds[name] for name in ends if _is_slip(key, name)), None)

    @property
    def _by_length(self) -> dict[int, list[str]]:
        if not hasattr(self, "_lengths"):
            self._lengths: dict[int, list[str]] = {}
            for name in self._kinds:
                if len(name) >= _SHORTEST_MISSPELT:
                    self._lengths.setdefault(len(name), []).append(name)
        return self._lengths


@cache
def default_headings() -> Headings:
    """The headings that we know."""
    return Headings()


def read_headings(path: Path) -> Headings:
    """Read a site's own headings from TOML, beside ours: a list of names for each kind, and `none` for what is no heading.

        findings = ["Bildbeschreibung"]
        clinical = ["Zuweisungsgrund"]
        none = ["comment"]

    The keys are those of `Kind`. Case, accents and hyphens do not count. Raises `ConfigError` for a file that cannot be
    read, an unknown key, a value that is no list of names, and a name that stands under two keys.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"cannot read the headings {path}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"the headings {path} are not UTF-8 at byte {exc.start}") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"the headings {path} are not valid TOML: {exc}") from exc
    keys = (*get_args(Kind), "none")
    named: dict[str, str] = {}
    for key, names in values.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.0)[0]
            raise ConfigError(f"{path}: unknown key {key}; the nearest known one is {near}, all are {', '.join(keys)}")
        for name in _checked(path, key, names):
            if named.setdefault(_key(name), key) != key:
                raise ConfigError(f"{path}: the heading {name!r} stands under {named[_key(name)]} and {key}: keep one")
    site = {kind: tuple(values[kind]) for kind in get_args(Kind) if kind in values}
    return Headings(site, ignored=tuple(values.get("none", ())))


def _checked(path: Path, key: str, names: Any) -> Iterator[str]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{path}: {key} must be a list of names, such as {key} = ["Name"], got {names!r}')
    for name in names:
        if not _key(name) or len(name) > LONGEST or ":" in name:
            raise ConfigError(
                f"{path}: {key} has {name!r}: a heading has letters, no colon and at most {LONGEST} characters"
            )
        yield name


@cache
def _known() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for kind in get_args(Kind):
        for name in NAMES.get(kind, "").split(","):
            if name.strip():
                kinds.setdefault(_key(name), kind)
    return kinds


_PLURAL = re.compile(r"\((e?s|en)\)")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]")
_NUMBER = re.compile(r"(?:^| )(?:no |nr )?\d{1,2}$")


def _key(name: str) -> str:
    """Return a name as it is compared: `RECOMMENDATION(S)` is `recommendations`, `Findings (PA)` and `X-ray` lose marks."""
    bare = _ASIDE.sub(" ", _PLURAL.sub(r"\1", fold(name)))
    spaced = "".join(char if char.isalnum() or char in "/&+," else " " for char in bare)
    # `x-ray` is one word among modifiers.
    return _NUMBER.sub("", " ".join(spaced.split()).replace("x ray", "xray"))


def _is_slip(word: str, name: str) -> bool:
    """True where a letter is missing, added, another or exchanged with its neighbor, or the same letters are shuffled.

    Shuffled ones keep the first and the last in place: `fininDGs` is `findings`.
    """
    if len(word) == len(name) and sorted(word) == sorted(name):
        return (word[0] == name[0] and word[-1] == name[-1]) or _differences(word, name) == 2
    if len(word) == len(name):
        return _differences(word, name) == 1
    short, long = sorted((word, name), key=len)
    same = next((place for place, pair in enumerate(zip(short, long, strict=False)) if pair[0] != pair[1]), len(short))
    return short[same:] == long[same + 1 :]


def _differences(word: str, name: str) -> int:
    return sum(a != b for a, b in zip(word, name, strict=True))
