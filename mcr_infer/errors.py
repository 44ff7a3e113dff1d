"""Every error that mcr-infer raises on purpose.

    McrError
    ├── ImageError                 one image file cannot become a radiograph; `reason` is a stable word for machines
    │   ├── NotRadiographError     it is something else: another modality, a document, a DICOMDIR
    │   ├── NotSelectedError       a radiograph that the selection of this run leaves out
    │   ├── UnsupportedImageError  a radiograph of a kind that is refused: colour, multi-frame, too large, codec missing
    │   └── BrokenImageError       the file is damaged: empty, cut, without pixels, corrupt
    ├── ReportError                one report cannot be read or has no text
    ├── ConfigError                a configuration value or key is wrong
    ├── BundleError                a bundle is missing, damaged, of another format or built for something else
    ├── DecodingError              the processes that decode cannot be started or make no sense
    ├── BackendError               a runtime is missing, conflicts with another or cannot do what was asked
    ├── EmbeddingIndexError        the index cannot be used
    │   ├── IndexNotFoundError     there is no index at that place
    │   ├── IndexCorruptError      its files do not match their digests
    │   ├── IndexMismatchError     it was made by another bundle, or under another site secret
    │   └── IndexLockedError       another process is writing to it
    ├── QueryError                 a query cannot be answered as asked
    └── UsageError                 a function of the Python interface was called with something that it does not take

A message says what happened, where, what was found, what was expected and what to do about it. It never carries patient
data: no name, id, birth date, accession number, physician or institution. Foreign exceptions are mapped where the foreign
library is called (`raise ... from exc`).

What a verification of a bundle or of an index says: failures are values, so that one does not hide the next.
"""

from dataclasses import dataclass
from typing import ClassVar


class McrError(Exception):
    """The root of all errors of this package; the command line turns it into its `exit_code`."""

    exit_code: ClassVar[int] = 1


class ImageError(McrError):
    """One image file cannot become a radiograph.

    `reason` is a stable snake_case word that scripts can count by, such as `modality`, `colour` or `truncated`.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_image_error, (type(self), str(self), self.reason)


def _rebuild_image_error(kind: type[ImageError], message: str, reason: str) -> ImageError:
    """Make the error again on the other side of a process boundary: keyword arguments do not survive pickle."""
    return kind(message, reason=reason)


class NotRadiographError(ImageError):
    """The file is readable and is not a projection radiograph."""


class NotSelectedError(ImageError):
    """The file is a radiograph that a selection leaves out.

    `reason` says by what: `modality`, `body_part`, `view` or `presentation_intent`. Nothing is wrong with the file.
    """


class UnsupportedImageError(ImageError):
    """The file is a radiograph of a kind that is refused."""


class BrokenImageError(ImageError):
    """The file is damaged."""


class ReportError(McrError):
    """One report cannot be read or has no text to embed; `reason` as in `ImageError`."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(McrError):
    """A configuration value or key is wrong."""


class BundleError(McrError):
    """A bundle is missing, damaged, of another format or built for something else."""


class DecodingError(McrError):
    """The processes that decode cannot be started, or send what no such process sends."""


class BackendError(McrError):
    """A runtime is missing, conflicts with another one or cannot do what was asked."""


class EmbeddingIndexError(McrError):
    """The index cannot be used."""


class IndexNotFoundError(EmbeddingIndexError):
    """There is no index at that place."""


class IndexCorruptError(EmbeddingIndexError):
    """The files of the index do not match their digests."""


class IndexMismatchError(EmbeddingIndexError):
    """The index was made by another bundle or under another site secret, or holds vectors of another dimension."""


class IndexLockedError(EmbeddingIndexError):
    """Another process is writing to the index: the same command can succeed later."""

    exit_code: ClassVar[int] = 4


class QueryError(McrError):
    """A query cannot be answered as asked."""


class UsageError(McrError, TypeError):
    """A function of the Python interface was called with something that it does not take, or in the wrong thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
