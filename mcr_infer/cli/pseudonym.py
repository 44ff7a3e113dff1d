"""`mcr-infer pseudonym`: the key under which an index keeps an identifier, so that its owner finds the row again.

Light to import: the command line registers it at every start.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mcr_infer.cli.options import JsonOption

if TYPE_CHECKING:
    from mcr_infer.pseudonyms import SiteSecret

_STANDARD_INPUT = "-"

_IMAGE = re.compile(r"[0-9.]{1,64}|sha256:[0-9a-f]{32}")
"""A UID (PS3.5 9.1), or the id of an image that has none."""

_UID = re.compile(r"[0-9.]{1,64}")


def pseudonym(
    site_secret: Annotated[
        Path, typer.Option("--site-secret", metavar="FILE", help="File with the secret that the index was made with.")
    ],
    image: Annotated[str | None, typer.Option(metavar="UID", help="SOP Instance UID, or the id in an index.")] = None,
    study: Annotated[str | None, typer.Option(metavar="UID", help="Study Instance UID.")] = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Series Instance UID.")] = None,
    report: Annotated[str | None, typer.Option(metavar="ID", help="Id of a report, as its table has it.")] = None,
    path: Annotated[str | None, typer.Option(help="Path of an input, made absolute first.")] = None,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="Patient ID.")] = None,
    issuer: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Issuer of Patient ID, where the files have one.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the key that stands for an identifier in an index.

    With - for the value, identifiers are read from standard input, one a line, and a key is printed for each: what stands on
    a command line is seen by every user of the machine. Behind a patient's id a tab and its issuer may follow there.
    """
    from mcr_infer.cli import output
    from mcr_infer.pseudonyms import SiteSecret

    given = {"image": image, "study": study, "series": series, "report": report, "path": path, "patient": patient}
    named = {kind: value for kind, value in given.items() if value is not None}
    if len(named) != 1:
        raise typer.BadParameter(f"give one of {', '.join(f'--{kind}' for kind in given)}")
    ((kind, value),) = named.items()
    if issuer is not None and kind != "patient":
        raise typer.BadParameter("--issuer belongs to --patient")
    key_of = _keys(SiteSecret.read(site_secret), issuer)[kind]
    values = _lines() if value == _STANDARD_INPUT else iter([value])
    output.show_keys(kind, map(key_of, values), as_json=json)


def _keys(secret: "SiteSecret", issuer: str | None) -> dict[str, Callable[[str], str]]:
    """Return what makes the key of a value, by kind; a value that cannot be one raises `ConfigError`."""

    def patient(value: str) -> str:
        id, tab, own = value.partition("\t")
        return secret.patient_key(id, own if tab else issuer)

    return {
        "image": _checked(secret.image_key, _IMAGE, "the UID of an image, or sha256: and 32 hex digits"),
        "study": _checked(secret.study_key, None, "the UID of a study"),
        "series": _checked(secret.series_key, _UID, "the UID of a series"),
        "report": _checked(secret.report_key, None, "the id of a report"),
        "path": secret.path_key,
        "patient": patient,
    }


def _checked(key_of: Callable[[str], str], form: "re.Pattern[str] | None", expected: str) -> Callable[[str], str]:
    """Return `key_of` for values of a form, spaces around them left out: a key of a misspelt one would find nothing."""
    from mcr_infer.errors import ConfigError

    def checked(value: str) -> str:
        told = value.strip(" \0")
        if not told or (form is not None and not form.fullmatch(told)):
            raise ConfigError(f"a value is not what was asked for: expected {expected}, got {len(told)} characters")
        return key_of(told)

    return checked


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; raises `ConfigError` for an empty one, which stands for nothing."""
    from mcr_infer.errors import ConfigError

    stream: Any = sys.stdin.buffer
    for number, line in enumerate(stream, start=1):
        value = os.fsdecode(line.removesuffix(b"\n").removesuffix(b"\r"))
        if not value:
            raise ConfigError(f"line {number} of standard input is empty: expected an identifier in each")
        yield value
