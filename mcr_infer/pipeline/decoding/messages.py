"""What goes to a decode worker and what comes back, in plain JSON: a worker has met hostile files, and is not believed more.

One message is one JSON object. Patches do not travel in messages: they lie in a slot of shared memory.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from mcr_infer import errors
from mcr_infer.errors import DecodingError, ImageError
from mcr_infer.images.selection import Selection
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.pseudonyms import PatientSecret, is_key

MESSAGE_LIMIT = 1 << 16
"""Bytes of the longest message."""

Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one file may take."""

    seconds: float = 120.0
    """From the moment that a worker gets it. The largest image that is read, 100 megapixels of JPEG 2000, takes about 12
    seconds of a core; the rest is for cores that are shared and network shares that are slow."""

    memory_bytes: int = 4 << 30
    """Address space of a worker beyond what it has when it begins."""

    def __post_init__(self) -> None:
        if not (self.seconds > 0 and self.memory_bytes > 0):
            raise errors.ConfigError(f"limits of a file must be greater than 0, got {asdict(self)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """What a worker is told once, when it begins: over its own socket, since the secret among it is for nobody else."""

    preprocess: Preprocess
    budget: float = 1.0
    """The share of patches that is cut out."""

    reduce: bool = True
    """Decode at a reduced resolution where the codec offers it and the bundle loses nothing by it."""

    selection: Selection = field(default_factory=Selection)
    limits: Limits
    patients: PatientSecret | None = None
    """Makes a key of each Patient ID, which never leaves the worker itself; None = it is not even read."""

    def to_message(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "preprocess": self.preprocess.to_dict(),
            "budget": self.budget,
            "reduce": self.reduce,
            "selection": self.selection.to_dict(),
            "limits": asdict(self.limits),
            "patients": None if self.patients is None else self.patients.to_text(),
        }

    @classmethod
    def from_message(cls, values: Mapping[str, Any]) -> "WorkerConfig":
        """Read what `to_message` returned."""
        patients = values["patients"]
        return cls(
            preprocess=Preprocess.from_dict(values["preprocess"]),
            budget=values["budget"],
            reduce=values["reduce"],
            selection=Selection.from_dict(values["selection"]),
            limits=Limits(**values["limits"]),
            patients=None if patients is None else PatientSecret.from_text(patients),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """A file whose patches lie in a slot, with what its row needs."""

    slot: int
    id: str
    """SOP Instance UID; of other files and of DICOM without one, from their pixels."""

    digest: str
    """Hex SHA-256 of the fitted square [S, S] that the patches are cut from: all that the vector depends on."""

    study_uid: str | None
    series_uid: str | None
    patient_key: str | None
    """Never the id itself; None where no secret was given, or where the file names no patient."""
    reduction: int
    """1 = decoded in full; 4 = at a quarter of the rows and columns."""

    metadata: Mapping[str, Scalar]
    """What is shown and filtered by."""

    notes: tuple[str, ...]
    """What the reader had to decide about the file; values of its header are not quoted."""

    seconds: Mapping[str, float]
    """Processor time of the worker by stage."""

    peak_mib: int
    """The most resident memory that the worker has had so far."""

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> "Decoded":
        """Read the answer of a worker; raises `DecodingError` where it is none."""
        try:
            values = {one.name: message[one.name] for one in fields(cls)}
        except KeyError as error:
            raise DecodingError(f"a decode worker gave an answer without {error}") from error
        kinds = {
            "slot": int,
            "id": str,
            "digest": str,
            "reduction": int,
            "metadata": dict,
            "seconds": dict,
            "peak_mib": int,
        }
        for name, kind in kinds.items():
            if not isinstance(values[name], kind):
                raise DecodingError(f"a decode worker gave an answer in which {name} is no {kind.__name__}")
        patient = values["patient_key"]
        if patient is not None and not (isinstance(patient, str) and is_key(patient)):
            raise DecodingError("a decode worker gave an answer in which patient_key is no key")
        notes = values["notes"]
        if not isinstance(notes, list) or not all(isinstance(note, str) and note.isprintable() for note in notes):
            raise DecodingError("a decode worker gave an answer in which notes are no lines of text")
        values["notes"] = tuple(notes)
        values["metadata"] = MappingProxyType(values["metadata"])
        return cls(**values)


def failure_message(error: ImageError) -> dict[str, str]:
    """Put a failure into a message."""
    return {"failed": type(error).__name__, "reason": error.reason, "error": str(error)}


def failure_from_message(message: Mapping[str, Any]) -> ImageError:
    """Make the failure of a message again."""
    kind = getattr(errors, str(message["failed"]), None)
    if not (isinstance(kind, type) and issubclass(kind, ImageError)):
        raise DecodingError("a decode worker gave a failure of an unknown kind")
    return kind(str(message["error"]), reason=str(message["reason"]))


def to_bytes(message: Mapping[str, Any]) -> bytes:
    """Put a message into one packet; JSON in ASCII carries file names that are not UTF-8."""
    packet = json.dumps(message).encode("ascii")
    if len(packet) > MESSAGE_LIMIT:
        raise DecodingError(f"a message of {len(packet)} bytes is longer than the {MESSAGE_LIMIT} that are taken")
    return packet


def from_bytes(packet: bytes) -> dict[str, Any]:
    """Read one packet; raises `DecodingError` where it is no message."""
    try:
        message = json.loads(packet)
    except ValueError as error:
        raise DecodingError("a decode worker sent something other than a message") from error
    if not isinstance(message, dict):
        raise DecodingError("a decode worker sent something other than a message")
    return message
