"""A few seconds' worth of `make fuzz`, and what its results rest on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mcr_infer
from tests.fuzz import embedding, samples
from tests.fuzz.archive_runs import ARCHIVES
from tests.fuzz.elements import parse
from tests.fuzz.headers import TREE_MUTATORS
from tests.fuzz.markers import join, split
from tests.fuzz.mutation import BYTE_MUTATORS, case_random
from tests.fuzz.pictures import PICTURES, Case
from tests.fuzz.table_runs import TABLES
from tests.fuzz.tally import KINDS, Tally, merged

ROOT = Path(mcr_infer.__file__).parents[1]
CASES: dict[str, Callable[[int, int], Case]] = {
    **PICTURES,
    **{name: make for name, (make, _, _) in ARCHIVES.items()},
    **{name: make for name, (make, _) in TABLES.items()},
}


def fuzz(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *arguments], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("format", CASES)
def test_cases_follow_from_seed_and_number(format: str):
    first = [CASES[format](3, number) for number in range(40)]
    assert first == [CASES[format](3, number) for number in range(40)]
    assert first != [CASES[format](4, number) for number in range(40)]
    assert len({case.data for case in first}) > 30
    assert all(case.mutations for case in first)


@pytest.mark.parametrize("mutator", BYTE_MUTATORS)
def test_byte_mutators_change_their_input(mutator):
    data, other = samples.pngs()[0], samples.pngs()[2]
    changed = [mutator(case_random(1, "x", number), data, other) for number in range(30)]
    assert sum(one != data for one in changed) >= 25
    assert changed == [mutator(case_random(1, "x", number), data, other) for number in range(30)]


@pytest.mark.parametrize("mutator", dict.fromkeys(TREE_MUTATORS))
def test_element_mutators_change_their_input(mutator):
    changed = 0
    for number, data in enumerate(samples.trees()):
        tree = samples.tree(data)
        mutator(case_random(1, "x", number), tree)
        changed += tree.encode() != data
    assert changed > len(samples.trees()) // 2


def test_samples_are_taken_apart_and_put_together():
    for data in samples.dicoms():
        tree = parse(data)
        assert tree.compressed or tree.encode() == data
    for data in samples.jpegs():
        assert join(split(data)) == data
    assert len(samples.trees()) > 100


@pytest.mark.slow
def test_a_short_run_finds_nothing(tmp_path: Path):
    fuzz("--count", "25", "--seed", "7", "--out", str(tmp_path / "fuzz.json"))
    result = json.loads((tmp_path / "fuzz.json").read_text())
    assert {one["format"]: one["cases"] for one in result["formats"]} == dict.fromkeys([*CASES, "bundle", "index"], 25)
    for one in result["formats"]:
        assert one["findings"] == dict.fromkeys(KINDS, 0), one["found"]
    images = next(one for one in result["formats"] if one["format"] == "dicom")
    assert sum(images["outcomes"].values()) == 25
    assert images["outcomes"]["embedded"] > 2


def test_a_run_goes_on_and_parts_add_up(tmp_path: Path):
    first, second, both = (str(tmp_path / f"{name}.json") for name in ("first", "second", "both"))
    common = ("--only", "report", "--count", "40", "--chunk", "10", "--seed", "5")
    fuzz(*common, "--part", "1/2", "--out", first)
    fuzz(*common, "--part", "2/2", "--out", second)
    fuzz("--merge", first, second, "--out", both)
    fuzz(*common, "--out", first)  # does what the other part has done
    (one,), (other,) = (json.loads(Path(file).read_text())["formats"] for file in (first, both))
    assert one["cases"] == other["cases"] == 40
    assert one["mutations"] == other["mutations"]
    assert "chunks" not in json.loads(Path(both).read_text())  # a whole run is not gone on with


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "parent crashed"), (lambda: os._exit(3), "parent crashed"),
        (lambda: 1 / 0, "traceback"), (lambda: print("Traceback", file=sys.stderr, flush=True), "traceback"),
        (lambda: print("SURNAME^FORENAME", file=sys.stderr, flush=True), "leak"),
    ],
)  # fmt: skip
def test_what_a_run_does_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], object], kind: str
):
    """The second of three files does something to its run; the other two are accounted for all the same."""
    groups = []
    for number, data in enumerate((samples.pngs()[0], b"no image", samples.jpegs()[0])):
        path = tmp_path / f"{number}"
        path.write_bytes(data)
        groups.append(embedding.Group(number, ("none",), str(path)))
    real = embedding.embed_images

    def faulty(*arguments: Any, **named: Any) -> Iterator[Any]:
        for outcome in real(*arguments, **named):
            if outcome.path == groups[1].path:
                fault()
            yield outcome

    monkeypatch.setattr(embedding, "embed_images", faulty)
    tally = Tally("png")
    done = embedding.run_isolated(groups, tmp_path, tally, reduce=True)
    assert [group.number for group, _, _ in done] == [0, 1, 2]
    assert [one.status for number in (0, 2) for one in done[number][1]] == ["embedded", "embedded"]
    assert {one.kind for one in tally.findings} == {kind}
    assert {one.number for one in tally.findings} <= {1, -1}


def test_findings_add_up():
    one, other = Tally("png", cases=2), Tally("png", cases=3)
    one.find("leak", 1, ["flip_bits"], "words")
    (sum_,) = merged([one.values(), other.values()])
    assert (sum_["cases"], sum_["findings"]["leak"], sum_["findings"]["hung"]) == (5, 1, 0)
    assert sum_["found"] == [{"kind": "leak", "case": 1, "mutations": ["flip_bits"], "words": "words"}]


def test_an_unknown_format_is_wrong_usage():
    assert "no format 'gif'" in fuzz("--only", "gif", code=2).stderr
