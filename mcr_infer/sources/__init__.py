"""What to embed: a command line becomes candidates, one at a time, wherever they lie.

    files, folders, archives, DICOMDIRs, lists of names, a PACS -> Sources -> Source -> bytes of one image file

A source names one candidate, knows without opening it whether it has changed, and opens it. It never looks at its contents.
"""

from mcr_infer.files import FileStamp
from mcr_infer.sources.dicomweb.address import PacsAccess
from mcr_infer.sources.name_list import NameList
from mcr_infer.sources.resolve import exists, source_from_dict
from mcr_infer.sources.source import Failed, LocalSource, PlainFile, Source
from mcr_infer.sources.sources import Sources

__all__ = [
    "Failed", "FileStamp", "LocalSource", "NameList", "PacsAccess", "PlainFile", "Source", "Sources", "exists",
    "source_from_dict",
]  # fmt: skip
