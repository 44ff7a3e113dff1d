"""A DICOMweb service and the instances that it lists, level by level; each is a source that is opened by fetching it."""

import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Literal

from mcr_infer.errors import BrokenImageError, ConfigError, ImageError
from mcr_infer.files import FileStamp
from mcr_infer.images.header import RADIOGRAPHS
from mcr_infer.sources.dicomweb.address import INSTANCE_KEYS, SERIES_KEYS, STUDY_KEYS, PacsAccess, PacsAddress
from mcr_infer.sources.dicomweb.multipart import one_part
from mcr_infer.sources.dicomweb.paging import Ask, Row, every_result, value
from mcr_infer.sources.source import Failed, Source

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from requests import Session


_STUDY_UID, _SERIES_UID, _INSTANCE_UID = "0020000D", "0020000E", "00080018"
_MODALITY, _INSTANCES_IN_SERIES = "00080060", "00201209"

_STORED_SYNTAX = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""PS3.18 8.7.3.5.2: as it is stored. Without it a server would convert to Explicit VR Little Endian, if it can."""

_OF_THE_WHOLE = frozenset({"pacs_refused", "pacs_unreachable"})
"""Reasons that hold for whatever would be asked next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PacsInstance(Source):
    """An instance of a PACS, by its UIDs."""

    opened_by: ClassVar[Literal["worker", "parent"]] = "parent"
    study: str
    series: str
    instance: str
    service: "Service" = field(repr=False, compare=False)

    def stamp(self) -> FileStamp | None:
        """Return the same whenever it is asked: an instance never changes under its UID (PS3.5 9), so it is fetched once."""
        return FileStamp(path=self.path, size=0, mtime_ns=0)

    def open(self) -> BinaryIO:
        """Fetch the instance as it is stored; takes as long as the PACS and its network need."""
        return BytesIO(self.service.retrieve(self.study, self.series, self.instance))


class Service:
    """A connection to one service, made when it is first needed and shared by threads.

    Searches go through dicomweb-client. Its retrieval is not used: it parses what it fetches and hands out data sets, so
    that neither the bytes as they are stored nor a bound on them can be had. That one request is made with the same session.

    Raises `ConfigError` where the extra `pacs` is not installed, or where the token cannot be used.
    """

    def __init__(self, address: PacsAddress, access: PacsAccess, *, largest: int) -> None:
        try:
            import dicomweb_client  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "a PACS is asked through dicomweb-client, which is not installed: pip install 'mcr-infer[pacs]'"
            ) from error
        from mcr_infer.sources.dicomweb.transport import Transport

        self._url, self._host, self._page_size = address.service, address.host, access.page
        self._transport = Transport(address.host, access, plain=address.plain, largest=largest)
        self._transport.token()
        self._of_thread = threading.local()

    def cancel(self) -> None:
        """Let every request end at once. May be called from a signal handler."""
        self._transport.cancel()

    @property
    def _session(self) -> "Session":
        """The session of this thread; all share their connections. It can reach nothing but this service."""
        if not hasattr(self._of_thread, "session"):
            from requests import Session

            session = Session()
            session.adapters.clear()
            session.mount(self._url + "/", self._transport)
            self._of_thread.session = session
        opened: Session = self._of_thread.session
        return opened

    @property
    def _client(self) -> "DICOMwebClient":
        from dicomweb_client import DICOMwebClient

        client = DICOMwebClient(self._url, session=self._session, permissive_uid=True)
        client.set_http_retry_params(retry=False)  # the transport knows better
        return client

    def retrieve(self, study: str, series: str, instance: str) -> bytes:
        """Fetch an instance as it is stored. Raises `ImageError`."""
        from dicomweb_client import URI

        url = str(URI(self._url, study, series, instance, permissive=True))
        answer = self._session.get(url, headers={"Accept": _STORED_SYNTAX})
        return bytes(one_part(answer.headers.get("Content-Type", ""), answer.content))

    def find(self, address: PacsAddress, *, ignored: Counter[str]) -> Iterator[Source]:
        """Yield the instances of an address in the order of the server, and count series of other modalities by these.

        A study or series that cannot be listed is a failure in its name. Raises `ImageError` where nothing can.
        """
        for study in self._studies(address):
            try:
                yield from self._in_study(address, study, ignored)
            except ImageError as error:
                if error.reason in _OF_THE_WHOLE:
                    raise
                yield Failed(path=address.path_of(study), error=error)

    def _studies(self, address: PacsAddress) -> Iterator[str]:
        if address.study is not None:
            yield address.study
            return
        filters = address.filters_of(STUDY_KEYS)
        if "Modality" in address.filters:
            # Studies have no modality of their own; they say which ones are in them.
            filters.setdefault("ModalitiesInStudy", address.filters["Modality"])
        for study, _ in self._pages(
            lambda limit, offset: self._client.search_for_studies(
                limit=limit, offset=offset, fields=["StudyInstanceUID"], search_filters=filters
            ),
            _STUDY_UID,
        ):
            yield study

    def _in_study(self, address: PacsAddress, study: str, ignored: Counter[str]) -> Iterator[Source]:
        if address.series is not None:
            yield from self._in_series(address, study, address.series, None)
            return
        filters = address.filters_of(SERIES_KEYS)
        for series, row in self._pages(
            lambda limit, offset: self._client.search_for_series(
                study, limit=limit, offset=offset, search_filters=filters,
                fields=["SeriesInstanceUID", "Modality", "NumberOfSeriesRelatedInstances"],
            ),
            _SERIES_UID,
        ):  # fmt: skip
            modality = value(row, _MODALITY)
            if modality is not None and modality not in RADIOGRAPHS:
                code = modality if re.fullmatch(r"[A-Z0-9_ ]{1,16}", str(modality)) else "another modality"
                ignored[f"series of {code}"] += 1
                continue
            stated = value(row, _INSTANCES_IN_SERIES)
            try:
                yield from self._in_series(address, study, series, stated if isinstance(stated, int) else None)
            except ImageError as error:
                if error.reason in _OF_THE_WHOLE:
                    raise
                yield Failed(path=address.path_of(study, series), error=error)

    def _in_series(self, address: PacsAddress, study: str, series: str, stated: int | None) -> Iterator[Source]:
        if address.instance is not None:
            yield self._instance(address, study, series, address.instance)
            return
        filters = address.filters_of(INSTANCE_KEYS)
        for instance, _ in self._pages(
            lambda limit, offset: self._client.search_for_instances(
                study, series, limit=limit, offset=offset, fields=["SOPInstanceUID"], search_filters=filters
            ),
            _INSTANCE_UID,
            stated=None if filters else stated,
        ):
            yield self._instance(address, study, series, instance)

    def _instance(self, address: PacsAddress, study: str, series: str, instance: str) -> PacsInstance:
        path = address.path_of(study, series, instance)
        return PacsInstance(path=path, study=study, series=series, instance=instance, service=self)

    def _pages(self, search: Ask, tag: str, *, stated: int | None = None) -> Iterator[tuple[str, Row]]:
        return every_result(
            lambda limit, offset: self._page(search, limit, offset), tag, page=self._page_size, stated=stated
        )

    def _page(self, search: Ask, limit: int, offset: int) -> list[Row]:
        """Ask for one page. Raises `ImageError`."""
        try:
            rows = search(limit, offset)
        except (ImageError, ConfigError):
            raise
        except (ValueError, RecursionError):  # JSON that is none; its text can quote the answer
            raise self._not_understood() from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise self._not_understood()
        return rows

    def _not_understood(self) -> BrokenImageError:
        return BrokenImageError(
            f"the PACS at {self._host} answers a search with something other than DICOM JSON (PS3.18 F.2)",
            reason="pacs_answer",
        )
