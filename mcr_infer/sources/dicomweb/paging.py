"""All results of a search, page by page, whatever a server makes of limit and offset (PS3.18 8.3.4.4)."""

import re
from collections.abc import Callable, Iterator
from typing import Any

from mcr_infer.errors import BrokenImageError

Row = dict[str, Any]
"""One result, in DICOM JSON (PS3.18 F.2)."""

Ask = Callable[[int, int], list[Row]]
"""Asks for results: how many, and from which one on."""

_REMEMBERED = 50_000
"""UIDs, the latest, by which a server that repeats itself is noticed."""


def every_result(ask: Ask, tag: str, *, page: int, stated: int | None = None) -> Iterator[tuple[str, Row]]:
    """Yield all results of a search with the UIDs that stand under `tag`, each once (among the latest 50,000).

    A page that is not full is not the last one: servers have limits of their own and do not always say so. So pages are
    asked for until nothing new comes, or until the `stated` number of results was had. That nothing new comes is not
    believed right after a full page: some servers take no notice of the offset, and Orthanc 1.10, where it is asked for
    ModalitiesInStudy, counts the offset within the page. There everything is asked for at once, twice as much each time.

    Raises `ImageError`; for results without a valid UID, which will be part of URLs, after all others.
    """
    known = _Known(tag)
    offset, full, last = 0, False, None
    while rows := ask(page, offset):
        fresh = known.take(rows)
        yield from fresh.items()
        if known.count == stated:
            break
        if not fresh:
            break
        full, last = len(rows) >= page, next(reversed(fresh))
        offset += len(rows)
    else:
        # A server that counts properly has one more result before the end: the last one again.
        full = full and last not in known.uids(ask(1, offset - 1))
    if full and known.count != stated:
        yield from _by_growing(ask, known, 2 * page)
    if known.without_uid:
        raise BrokenImageError("the PACS answers a search with results that have no valid UID", reason="pacs_answer")


def _by_growing(ask: Ask, known: "_Known", limit: int) -> Iterator[tuple[str, Row]]:
    """Yield the results that are not known yet, asking from the first one on each time."""
    known.forget = False
    limit = max(limit, 2 * known.count)
    while fresh := known.take(ask(limit, 0)):
        yield from fresh.items()
        limit *= 2


class _Known:
    """What was had already: the first page and the latest results."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._first: frozenset[str] | None = None
        self._latest: dict[str, None] = {}
        self.count = 0
        self.forget = True
        """Searches of millions hold no more than `_REMEMBERED` UIDs."""
        self.without_uid = False

    def uids(self, rows: list[Row]) -> dict[str, Row]:
        """Return results by their UIDs, without those that have none."""
        return {uid: row for row in rows if (uid := _uid(row, self._tag)) is not None}

    def take(self, rows: list[Row]) -> dict[str, Row]:
        """Return the results that are new, and remember them."""
        told = self.uids(rows)
        self.without_uid |= any(_uid(row, self._tag) is None for row in rows)
        fresh = {uid: row for uid, row in told.items() if uid not in self._latest and uid not in (self._first or ())}
        if self._first is None:
            self._first = frozenset(told)
        self._latest.update(dict.fromkeys(fresh))
        surplus = len(self._latest) - _REMEMBERED
        if self.forget and surplus > 0:
            for uid in [*self._latest][:surplus]:
                del self._latest[uid]
        self.count += len(fresh)
        return fresh


def value(row: Row, tag: str) -> str | int | None:
    """Return the first value of an attribute, None where there is none."""
    element = row.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, str | int) else None


def _uid(row: Row, tag: str) -> str | None:
    """Return a UID (PS3.5 9.1), None for anything that is none."""
    uid = value(row, tag)
    return uid if isinstance(uid, str) and re.fullmatch(r"[0-9][0-9.]{0,63}", uid) else None
