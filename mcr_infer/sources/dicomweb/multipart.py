"""The one instance in a multipart answer of WADO-RS (PS3.18 8.6.1.2, RFC 2387).

Apart from the transport, which needs the extra `pacs` when it is imported.
"""

import re

from mcr_infer.errors import BrokenImageError

_BOUNDARY = re.compile(r""";\s*boundary\s*=\s*(?:"([^"]+)"|([^\s;]+))""", re.IGNORECASE)


def breaks_off(content_type: str, body: bytes) -> bool:
    """True for an envelope without its end, which says that the connection ended before the answer did."""
    delimiter = _delimiter(content_type)
    return delimiter is not None and not body[-len(delimiter) - 16 :].rstrip().endswith(delimiter + b"--")


def one_part(content_type: str, body: bytes) -> memoryview:
    """Return the bytes of the first part; the whole body where a server sends the instance without an envelope.

    Raises `BrokenImageError` (`truncated`, `pacs_answer`).
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "application/dicom":
        return memoryview(body)
    delimiter = _delimiter(content_type)
    if media_type != "multipart/related" or delimiter is None:
        raise _no_instance("something other than DICOM")
    if body.startswith(delimiter):
        start = 0
    else:  # after a preamble, which is to be ignored
        start = body.find(b"\r\n" + delimiter)
        if start < 0:
            raise _no_instance("an envelope without an instance")
        start += 2
    if body.startswith(b"--", start + len(delimiter)):
        raise _no_instance("an empty envelope")
    head_end = body.find(b"\r\n\r\n", start)
    if head_end < 0:
        raise _cut()
    end = body.find(b"\r\n" + delimiter, head_end + 2)
    if end < 0:
        raise _cut()
    return memoryview(body)[head_end + 4 : end]


def _delimiter(content_type: str) -> bytes | None:
    boundary = _BOUNDARY.search(content_type)
    return None if boundary is None else b"--" + (boundary[1] or boundary[2]).encode("latin-1")


def _no_instance(what: str) -> BrokenImageError:
    return BrokenImageError(f"the PACS answers with {what} where an instance was asked for", reason="pacs_answer")


def _cut() -> BrokenImageError:
    return BrokenImageError("the answer of the PACS ends inside the instance", reason="truncated")
