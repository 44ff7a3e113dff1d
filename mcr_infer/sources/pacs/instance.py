"""One instance of a PACS is a source like any other: named, known without asking, opened by fetching it."""

from dataclasses import dataclass, field
from io import BytesIO
from typing import BinaryIO, ClassVar, Literal, Protocol

from mcr_infer.files import FileStamp
from mcr_infer.sources.source import Source


class Service(Protocol):
    """What fetches instances; any thread may ask it."""

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """Fetch an instance. Raises `ImageError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsInstance(Source):
    """An instance of a PACS, by its UIDs."""

    opened_by: ClassVar[Literal["worker", "parent"]] = "parent"
    study: str
    series: str
    instance: str
    service: Service = field(repr=False, compare=False)

    def stamp(self) -> FileStamp | None:
        """Return the same whenever it is asked: an instance never changes under its UID (PS3.5 9), so it is fetched once."""
        return FileStamp(path=self.path, size=0, mtime_ns=0)

    def open(self) -> BinaryIO:
        """Fetch the instance as it is stored; takes as long as the PACS and its network need."""
        return BytesIO(self.service.retrieve(self.study, self.series, self.instance))
