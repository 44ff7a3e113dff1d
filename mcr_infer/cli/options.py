"""Options that several commands share, and what they may be."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mcr_infer.errors import ConfigError

SOME_FAILED = 3
"""Exit code of a command that is done although some inputs failed."""


class Device(StrEnum):
    """Where towers run."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt-rtx"


class PrecisionName(StrEnum):
    """Number formats of the towers."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"
    INT8_QDQ = "int8-qdq"
    FP8 = "fp8"


class Kind(StrEnum):
    """What a query finds."""

    IMAGE = "image"
    REPORT = "report"


class Kinds(StrEnum):
    """What of an index a command is about."""

    IMAGE = "image"
    REPORT = "report"
    BOTH = "both"

    @property
    def names(self) -> tuple[str, ...]:
        """The kinds of rows."""
        return (Kind.IMAGE.value, Kind.REPORT.value) if self is Kinds.BOTH else (self.value,)


class LongTextName(StrEnum):
    """What of a text that is too long is embedded; the values of `mcr_infer.inference.long_text.LongText`."""

    IMPRESSION_FIRST = "impression-first"
    WINDOWS = "windows"
    TRUNCATE = "truncate"


def _read_budget(text: str) -> str:
    """Refuse what is no patch budget as wrong usage; what the bundle recommends is known only once it is open."""
    from mcr_infer.inference.patch_budget import parse_budget

    try:
        parse_budget(text)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return text


IndexOption = Annotated[Path, typer.Option("--index", help="Folder of the index.")]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Folder of a bundle; default: that of the index, else the one that ships."),
]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", help="Device to run the towers on; an unavailable one is an error, never a fallback."),
]
PrecisionOption = Annotated[
    PrecisionName,
    typer.Option(
        "--precision", help="Number format of the towers; every bundle has fp32, others only if they were exported."
    ),
]
BudgetOption = Annotated[
    str,
    typer.Option(
        "--patch-budget",
        callback=_read_budget,
        metavar="SHARE",
        help="Share of the patches that the image tower sees, in (0, 1]; a smaller one is faster and finds less. "
        "'recommended' takes the share that the bundle recommends.",
    ),
]
HeadingsOption = Annotated[
    Path | None,
    typer.Option(
        "--headings",
        metavar="FILE.toml",
        help="Section headings of your site, beside those that are known; see README.md.",
    ),
]
LongTextOption = Annotated[
    LongTextName,
    typer.Option(
        "--long-text",
        help="What to embed of a report with more tokens than the text tower takes; see README.md.",
    ),
]
ImageColumnOption = Annotated[
    str | None, typer.Option("--image-column", metavar="NAME", help="Column of image files, if not image or file.")
]
ReportColumnOption = Annotated[
    str | None, typer.Option("--report-column", metavar="NAME", help="Column of report texts, if not report.")
]
PatientColumnOption = Annotated[
    str | None, typer.Option("--patient-column", metavar="NAME", help="Column that names the patient, if not patient.")
]
FindingsColumnOption = Annotated[
    str | None, typer.Option("--findings-column", metavar="NAME", help="Column of finding labels, if not findings.")
]
SplitColumnOption = Annotated[
    str | None, typer.Option("--split-column", metavar="NAME", help="Column that names the split, if not split.")
]
SecretOption = Annotated[
    Path | None,
    typer.Option(
        "--site-secret",
        metavar="FILE",
        help="File with a secret of your site, readable by its owner alone: rows get a key of their patient, by which they "
        "can be deleted. Every later run needs it again.",
    ),
]
PseudonymiseOption = Annotated[
    bool,
    typer.Option(
        "--pseudonymise",
        help="Store no paths, and keyed hashes instead of UIDs. From the first run into an index, or never.",
    ),
]
AcceptKnownOption = Annotated[
    bool,
    typer.Option(
        "--accept-known",
        help="Exit with 0 if only inputs failed that failed for the same reason in the previous run.",
    ),
]
AllowEmptyOption = Annotated[bool, typer.Option("--allow-empty", help="Exit with 0 if no input is found.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of a table.")]
