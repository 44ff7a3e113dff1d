"""Decides what is stored per input: original identifiers, or keyed hashes under a site secret.

    decoded file, path, stamp -> DeidentificationPolicy -> the index, failures.jsonl, messages

Nothing that a pseudonymous index must not hold passes this module.

A header can hold anything as a view or a body part. A term that DICOM or common practice has for them cannot name a person
and is kept; anything else is dropped.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from mcr_infer.errors import ConfigError
from mcr_infer.files import FileStamp
from mcr_infer.index.rows import Scalar
from mcr_infer.pipeline.decoding import Decoded
from mcr_infer.pseudonyms import PatientSecret, SiteSecret
from mcr_infer.reports import ReportRecord

VIEWS = frozenset({
    "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT", "LLAT", "RLAT", "LAO", "RAO", "LPO", "RPO",
    "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "AP LORDOTIC", "LORDOTIC", "OBLIQUE", "DECUBITUS", "SWIMMERS",
    "XTABLE LATERAL",
})  # fmt: skip
"""The defined terms of View Position (PS3.3 C.8.1.2 and C.8.11.5), and what devices write beside them."""

BODY_PARTS = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CHEST PA",
    "CHEST AP", "CHEST LAT", "CHEST_PA", "CHEST_AP", "CHEST_LAT", "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW",
    "EXTREMITY", "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "JAW",
    "KNEE", "LEG", "LSPINE", "LSSPINE", "LUNG", "LUNGS", "MEDIASTINUM", "NECK", "NECKCHEST", "PATELLA", "PELVIS",
    "PORT CHEST", "RIB", "RIBS", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THORAX", "THUMB", "TIBIA",
    "TLSPINE", "TOE", "TSPINE", "WHOLEBODY", "WRIST", "ZYGOMA",
})  # fmt: skip
"""The terms of Body Part Examined (PS3.16 annex L) that radiographs have, and what devices write beside them."""

_CLOSED: Mapping[str, frozenset[str]] = {"view": VIEWS, "body_part": BODY_PARTS}
"""Facts that a header can word freely; a site may write anything there, a name among it."""

_UID = re.compile(r"\d+(?:\.\d+){2,}")
_ROW = re.compile(r":\d+$")
_FEW = 2
"""Letters of ASCII up to which a part of a path tells nothing; two of another script can be a name."""

_NOT_QUOTED = "the sentence could name the file and is not kept; the run has shown it, and shows it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeidentificationPolicy:
    """How the rows of one run are named. Without a secret everything is kept as it is."""

    secret: SiteSecret | None = None
    """Rows have keys of their patients where there is one."""

    pseudonymous: bool = False
    """UIDs, ids and paths are kept as keys only."""

    def __post_init__(self) -> None:
        if self.pseudonymous and self.secret is None:
            raise ConfigError("--pseudonymise makes keys under a secret of the site: name its file with --site-secret")

    @property
    def secret_check(self) -> str:
        """By which an index knows the secret again; empty where there is none."""
        return "" if self.secret is None else self.secret.check()

    @property
    def patients(self) -> PatientSecret | None:
        """What makes keys of patients, None where there are to be none."""
        return None if self.secret is None else self.secret.patients()

    @property
    def _keys(self) -> SiteSecret | None:
        return self.secret if self.pseudonymous else None

    def path(self, path: str) -> str | None:
        """Return what a row keeps of its path."""
        return None if self.pseudonymous else path

    def shown_path(self, path: str) -> str:
        """Return what stands for a path in the files of an index."""
        return path if self._keys is None else self._keys.path_key(path)

    def stamp(self, stamp: FileStamp) -> FileStamp:
        """Return what is kept of how a file looked: the same for the same look, and of keys nothing else."""
        if self._keys is None:
            return stamp
        looks = self._keys.stamp_key(stamp.path, stamp.size, stamp.mtime_ns)
        changed = None
        if stamp.ctime_ns is not None:
            changed = int(self._keys.stamp_key(stamp.path, stamp.size, stamp.mtime_ns, stamp.ctime_ns)[:15], 16)
        # Numbers of 60 bits, in columns that take 63.
        return FileStamp(
            path=self._keys.path_key(stamp.path),
            size=int(looks[:15], 16),
            mtime_ns=int(looks[15:30], 16),
            ctime_ns=changed,
        )

    def content(self, digest: str) -> str:
        """Return what is kept of the digest of pixels or words."""
        return digest if self._keys is None else self._keys.content_key(digest)

    def image(self, decoded: Decoded) -> Decoded:
        """Return a decoded file as it is kept."""
        keys = self._keys
        if keys is None:
            return decoded
        return replace(
            decoded,
            id=keys.image_key(decoded.id),
            digest=keys.content_key(decoded.digest),
            study_uid=None if decoded.study_uid is None else keys.study_key(decoded.study_uid),
            series_uid=None if decoded.series_uid is None else keys.series_key(decoded.series_uid),
            metadata={name: value for name, value in decoded.metadata.items() if _is_harmless(name, value)},
        )

    def report(self, record: ReportRecord) -> ReportRecord:
        """Return a report as it is kept; its text is for the tower alone."""
        keys = self._keys
        if keys is None:
            return record
        study, former = record.study_uid, record.former_id
        return replace(
            record,
            id=keys.report_key(record.id),
            former_id=None if former is None else keys.report_key(former),
            study_uid=None if study is None else keys.study_key(study),
        )

    def error(self, error: str, path: str) -> str:
        """Return what may be written down of a sentence about an input: of keys without its path and without UIDs."""
        if not self.pseudonymous:
            return error
        told = _UID.sub("(a UID)", re.sub(rf"(?<![\w/]){re.escape(path)}(?!\w)", "the file", error))
        # It may have been quoted in another spelling, or in part, as an archive is of which it is a member.
        parts = {part for part in re.split(r"\W+", _ROW.sub("", path)) if len(part) > _FEW or not part.isascii()}
        return told if parts.isdisjoint(re.split(r"\W+", told)) else _NOT_QUOTED


def _is_harmless(name: str, value: Scalar) -> bool:
    """True unless a fact can be worded freely and is no term that DICOM has for it."""
    return name not in _CLOSED or value in _CLOSED[name]
