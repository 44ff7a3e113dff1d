"""Chunks of mutated pictures through real runs, and a sample of them beside dcmtk."""

import random
import shutil
from pathlib import Path

from tests.faults.process import DiedError, isolated
from tests.fuzz import dcmtk
from tests.fuzz.embedding import Group, Told, account, run_isolated
from tests.fuzz.pictures import PICTURES
from tests.fuzz.tally import Tally

COMPARED = 40
"""Embedded DICOM files of a chunk that are rendered by dcmtk as well."""


def fuzz_pictures(format: str, seed: int, numbers: range, place: Path, tally: Tally) -> None:
    """Make the cases of one chunk, run them and note what came of each."""
    folder = place / "files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    groups = []
    for number in numbers:
        case = PICTURES[format](seed, number)
        path = folder / f"{number:08d}"
        path.write_bytes(case.data)
        groups.append(Group(number, case.mutations, str(path)))
    embedded = []
    reduce = (numbers.start // len(numbers)) % 2 == 0
    finished = list(account(run_isolated(groups, place, tally, reduce=reduce), tally))
    for group, told, _ in finished:
        _check(group, told, tally)
        if [one.status for one in told] == ["embedded"]:
            embedded.append(group)
    for group in groups[len(finished) :]:
        tally.find("unaccounted", group.number, group.mutations, "the run ended before it")
    if format == "dicom" and dcmtk.available():
        rng = random.Random(f"{seed}/{numbers.start}")
        compare(rng.sample(embedded, min(COMPARED, len(embedded))), tally)
    shutil.rmtree(folder)


def _check(group: Group, told: list[Told], tally: Tally) -> None:
    """A file has one outcome, in its own name."""
    if [one.path for one in told] != [group.path]:
        tally.find("unaccounted", group.number, group.mutations, f"outcomes {told}")


def compare(groups: list[Group], tally: Tally) -> None:
    """Render files beside dcmtk, each in a process that may crash."""
    for group in groups:
        try:
            how, words = isolated(lambda path=Path(group.path): dcmtk.compare(path))  # type: ignore[misc]
        except DiedError as error:
            how, words = "died", str(error)
        tally.compared[how] += 1
        if how == "different":
            tally.find("wrong rendering", group.number, group.mutations, words)
