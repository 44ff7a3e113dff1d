"""Mutated tables of reports through `embed_reports`, in a process of its own: every row has one outcome, in its own line."""

import csv
import io
import json
import os
import shutil
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mcr_infer.errors import McrError
from mcr_infer.index import Index
from mcr_infer.inference.encoder import TextEncoder
from mcr_infer.pipeline.report_run import embed_reports
from mcr_infer.reports import ReportFailure, ReportRecord, read_reports
from tests.faults.process import DiedError, Victim
from tests.fuzz.embedding import Tell, bundle
from tests.fuzz.pictures import Case
from tests.fuzz.tables import csv_table, json_table, report_text
from tests.fuzz.tally import Tally
from tests.tiny import DIM

TABLES: Mapping[str, tuple[Callable[[int, int], Case], str]] = {
    "csv": (csv_table, "reports.csv"), "jsonl": (json_table, "reports.jsonl"), "report": (report_text, "reports/a.txt"),
}  # fmt: skip


def fuzz_tables(format: str, seed: int, numbers: range, place: Path, tally: Tally) -> None:
    """Make the cases of one chunk, embed each and note what came of its rows."""
    make, name = TABLES[format]
    bundle()
    cases = []
    for number in numbers:
        path = place / "tables" / str(number) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        case = make(seed, number)
        path.write_bytes(case.data)
        cases.append((case, path if format != "report" else path.parent))
    left = list(cases)
    while left:
        victim = Victim(lambda tell, left=tuple(left): _embed_all(left, place / "index", tell))  # type: ignore[misc]
        try:
            while left:
                said = victim.next()
                _note(left.pop(0)[0], said, tally)
        except DiedError as error:
            case, _ = left.pop(0)
            tally.cases += 1
            kind = "hung" if str(error).startswith(("hangs", "says nothing")) else "parent crashed"
            tally.find(kind, case.number, case.mutations, str(error))
        finally:
            victim.kill()
            victim.rest()
    shutil.rmtree(place / "tables")


def _embed_all(cases: Iterable[tuple[Case, Path]], folder: Path, tell: Tell) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    shutil.rmtree(folder, ignore_errors=True)
    used = bundle()
    encoder = TextEncoder(used, device="cpu", threads=1)
    with Index.open_or_create(
        folder, fingerprint=used.fingerprint, embedding_dim=DIM, bundle=used.name, bundle_path=str(used.path),
        notify=lambda _: None,
    ) as index:  # fmt: skip
        for case, path in cases:
            given: list[str] = []
            said: dict[str, Any] = {"outcomes": [], "given": given, "data": case.data if path.is_file() else None}
            said["rows"] = _least_rows(path)
            try:
                outcomes = embed_reports(
                    _counted(read_reports(path), given), index=index, encoder=encoder, batch_size=16, keep_text=True
                )
                for one in outcomes:
                    said["outcomes"].append((one.path, one.status, one.reason, one.error))
            except McrError as error:
                said["refused"] = str(error)
            except Exception:  # noqa: BLE001 - a traceback is what this looks for
                said["raised"] = traceback.format_exc()
            tell(said)


def _counted(
    records: Iterable[ReportRecord | ReportFailure], given: list[str]
) -> Iterator[ReportRecord | ReportFailure]:
    for record in records:
        given.append(record.path)
        yield record


def _least_rows(path: Path) -> int:
    """Return how many rows a table has without doubt: lines of JSON, rows of CSV that Python reads strictly."""
    if path.is_dir():
        return sum(1 for file in path.rglob("*.txt"))
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".jsonl":
            return sum(1 for line in text.split("\n") if line.strip())
        header = text.partition("\n")[0].partition("\r")[0]
        delimiter = max(",;\t|", key=header.count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
        return max(0, sum(1 for row in rows if row) - 1)
    except (UnicodeDecodeError, csv.Error):
        return 0


def _note(case: Case, said: dict[str, Any], tally: Tally) -> None:
    """Count the outcomes of a table: as many as there were rows, each of them with its place, and every failure in words."""
    tally.cases += 1
    tally.mutations.update(case.mutations)
    if "raised" in said:
        tally.find("traceback", case.number, case.mutations, said["raised"][-1500:])
        return
    if "refused" in said:
        tally.outcomes["refused"] += 1
        if not said["refused"]:
            tally.find("unaccounted", case.number, case.mutations, "refused without a word")
        return
    for _, status, reason, error in said["outcomes"]:
        tally.outcomes[status if reason is None else f"{status}: {reason}"] += 1
        if (status == "failed") != bool(reason and error):
            tally.find("unaccounted", case.number, case.mutations, f"{status} with reason {reason}: {error}")
    told = len(said["outcomes"])
    if told != len(said["given"]) or told < said["rows"]:
        words = f"{told} outcomes of {len(said['given'])} records and at least {said['rows']} rows"
        words += f": {json.dumps(said['outcomes'][:10])}"
        tally.find("unaccounted", case.number, case.mutations, words)
