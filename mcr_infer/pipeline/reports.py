"""Reports become rows of the index: checked, embedded in batches, committed, and every input reported by name."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mcr_infer.encoder import TextEncoder
from mcr_infer.errors import ReportError
from mcr_infer.index import Index, Row
from mcr_infer.pipeline.naming import Naming
from mcr_infer.pipeline.outcome import Outcome
from mcr_infer.reports import ReportFailure, ReportRecord, embed_text


def embed_reports(
    records: Iterable[ReportRecord | ReportFailure],
    *,
    index: Index,
    encoder: TextEncoder,
    batch_size: int,
    keep_text: bool,
    naming: Naming | None = None,
) -> Iterator[Outcome]:
    """Embed reports into the index and yield an outcome for each; the text itself is stored only with `keep_text`.

    `naming` is that of the index. Raises `IndexMismatchError` where it is not, and for text in a pseudonymous index, which
    can name anybody.
    """
    naming = naming or Naming()
    index.check_secret(naming.secret_check, pseudonymous=naming.pseudonymous)
    waiting: dict[str, tuple[ReportRecord, str, str]] = {}
    seen: dict[str, tuple[str, str | None]] = {}

    def commit() -> Iterator[Outcome]:
        texts = [text for _, text, _ in waiting.values()]
        vectors, readings = encoder.encode(texts), encoder.vocabulary.read(texts)
        rows = [
            Row(
                id=record.id,
                kind="report",
                path=naming.path(record.path),
                study_uid=record.study_uid,
                patient_key=record.patient_key,
                vector=vector,
                precision=encoder.precision,
                content_digest=digest,
                text=record.text if keep_text else None,
            )
            for (record, _, digest), vector in zip(waiting.values(), vectors, strict=True)
        ]
        index.add(rows)
        done = [record.path for record, _, _ in waiting.values()]
        waiting.clear()
        for path, reading in zip(done, readings, strict=True):
            yield Outcome(path=path, status="embedded", unread=reading.unread)

    for given in records:
        if isinstance(given, ReportFailure):
            yield Outcome(path=given.path, status="failed", reason=given.reason, error=given.error)
            continue
        record = naming.report(given)
        try:
            text = embed_text(record.text)
        except ReportError as error:
            yield Outcome(path=record.path, status="failed", reason=error.reason, error=str(error))
            continue
        digest = naming.content(hashlib.sha256(text.encode()).hexdigest())
        former_digest, former_patient = seen.setdefault(record.id, (digest, record.patient_key))
        if (former_digest, former_patient) != (digest, record.patient_key):
            other = "text" if former_digest != digest else "patient"
            why = f"the id {record.id!r} stands at an earlier report of this run, which has another {other}"
            yield Outcome(path=record.path, status="failed", reason="id_conflict", error=why)
            continue
        known = index.get("report", record.id)
        text_kept = not keep_text or (known is not None and known.text is not None)
        if known is not None and record.patient_key is None:
            # A table that does not say whose report it is takes nothing back.
            record = replace(record, patient_key=known.patient_key)
        same_patient = known is not None and known.patient_key == record.patient_key
        same = known is not None and known.content_digest == digest and same_patient and text_kept
        if record.id in waiting or same:
            yield Outcome(path=record.path, status="unchanged")
            continue
        waiting[record.id] = (record, text, digest)
        if len(waiting) >= batch_size:
            yield from commit()
    if waiting:
        yield from commit()
