"""What the benchmark of others asks of them, asked of ours, whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.abilities import ABILITIES, WHAT_THEY_DO
from benchmarks.contender import IMAGES, TEXT
from benchmarks.harness import Gauge
from benchmarks.networks import Networks
from benchmarks.odd_files import SAME, asked, make_odd_files, run_of_ours
from benchmarks.peers import _odd, _rounds, _table
from mcr_infer import Bundle, ImageEncoder, phantom, read_image
from mcr_infer.phantom.dicom import write_dicom


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_odd_files(tmp_path_factory.mktemp("odd"))


def test_ours_sees_one_radiograph_in_both_and_refuses_what_is_cut(folder: Path):
    bundle = Bundle.open()
    encoder = ImageEncoder(bundle, device="cpu", threads=1)
    found = asked(lambda paths: encoder.encode_radiographs([read_image(path) for path in paths]), folder)
    assert found["negative_cosine"] >= SAME
    assert found["cut"] == "BrokenImageError for the batch, nothing embedded"


def test_who_takes_the_greys_as_they_are_gets_another_vector(folder: Path):
    import pydicom

    def encode(paths):
        return np.stack([pydicom.dcmread(path).pixel_array.ravel() - 2048.0 for path in paths])

    found = asked(encode, folder)
    assert found["negative_cosine"] < 0
    assert found["cut"].endswith("for the batch, nothing embedded")
    failed = {"open_clip, DICOM": "failed: no such module", "mcr-infer, DICOM": "took longer than 600 s"}
    table = _odd({"pydicom + timm": [found]}, failed, "2 embedded")
    told = {row[0]: row[1:] for row in table.rows}
    assert told["pydicom + timm"][0] == "another vector"
    assert told["open_clip, DICOM"] == ("failed: no such module", None, None)
    assert told["mcr-infer, DICOM"] == ("took longer than 600 s", None, None)


def test_a_run_of_ours_goes_on_past_the_file_that_is_cut(folder: Path):
    assert run_of_ours(folder) == "2 embedded, 1 failed (truncated), exit code 3"


def test_who_fails_is_a_line_with_its_reason_and_the_others_go_on(tmp_path: Path):
    networks = Networks.of(tmp_path, small=True)
    make_odd_files(tmp_path)
    failed: dict[str, str] = dict.fromkeys(set(TEXT) | set(IMAGES), "not asked here")
    del failed["fastembed"], failed["pydicom + timm"]
    with Gauge() as gauge:
        (tmp_path / "radiographs").mkdir()
        write_dicom(phantom.make(1, 64), tmp_path / "radiographs/one.dcm")
        seen = _rounds(networks, failed, gauge, 1, 0.1)
    assert list(seen) == ["pydicom + timm"]
    assert seen["pydicom + timm"][0]["items_per_second"] > 0
    assert failed["fastembed"] == "failed with exit code 1: ModuleNotFoundError: No module named 'fastembed'"
    table = _table("Sentences", TEXT, "sentences/s", seen, failed, seed=0)
    assert ("fastembed", failed["fastembed"], None, None, None) in table.rows


def test_networks_of_both_sizes_are_those_that_they_are_named_after(tmp_path: Path):
    small, large = (Networks.of(tmp_path, small=one) for one in (True, False))
    assert large.sizes["image"]["width"] == large.sizes["text"]["width"] == 768
    assert small.sizes["image"] == Bundle.open().manifest["training"]["model"]["image"]
    assert small.sentence_transformers != large.sentence_transformers


def test_each_of_them_has_a_word_on_every_ability_and_how_it_is_known():
    for name, cells in WHAT_THEY_DO.items():
        assert len(cells) == len(ABILITIES) + 1, name
        assert all(cells), name
