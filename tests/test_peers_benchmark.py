"""What the benchmark of others asks of them, asked of ours, whose answers are known."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.odd_files import SAME, asked, make_odd_files, run_of_ours
from benchmarks.peers import ABILITIES, WHAT_THEY_DO, _odd
from mcr_infer import Bundle, ImageEncoder, read_image


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
    table = _odd({"pydicom + timm": [found]}, {"open_clip, DICOM": "failed: no such module"}, "2 embedded")
    told = {row[0]: row[1:] for row in table.rows}
    assert told["pydicom + timm"][0] == "another vector"
    assert told["open_clip, DICOM"] == ("failed: no such module", None, None)
    assert told["mcr-infer, DICOM"] == ("it did not run", None, None)


def test_a_run_of_ours_goes_on_past_the_file_that_is_cut(folder: Path):
    assert run_of_ours(folder) == "2 embedded, 1 failed (truncated), exit code 3"


def test_each_of_them_has_a_word_on_every_ability_and_how_it_is_known():
    for name, cells in WHAT_THEY_DO.items():
        assert len(cells) == len(ABILITIES) + 1, name
        assert all(cells), name
