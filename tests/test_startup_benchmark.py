import os
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import large, sessions, startup
from mcr_infer.index import Index
from tiny import DIM, tiny_bundle


def test_processes_are_compared_with_the_first_in_wall_and_processor_time():
    busy = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    commands = {"bare": [sys.executable, "-c", ""], "busy": [sys.executable, "-c", busy]}
    figures = startup.measure(commands, 3, os.environ)
    assert figures["bare"]["ratio_to_bare"] == figures["bare"]["processor_ratio_to_bare"] == 1.0
    assert figures["busy"]["processor_median_s"] >= 0.3
    assert figures["busy"]["median_s"] >= 0.3
    assert figures["busy"]["processor_ratio_to_bare"] > 2


def test_a_process_that_fails_ends_the_benchmark_with_its_own_words():
    with pytest.raises(SystemExit, match=r"failed with 3:\nno such luck"):
        startup.cost(
            [sys.executable, "-c", "import sys; print('no such luck', file=sys.stderr); sys.exit(3)"], os.environ
        )


def test_the_rows_of_the_large_index_are_served_from_one_file(tmp_path: Path):
    bundle = tiny_bundle(tmp_path / "tiny")
    large.make_index(tmp_path / "index", bundle)
    with Index.open(tmp_path / "index") as index:
        assert (index.count("image"), index.embedding_dim) == (large.ROWS, DIM)
        assert np.allclose(np.linalg.norm(index.vectors("image")[1], axis=1), 1, atol=1e-5)
    assert len(list((tmp_path / "index").glob("vectors-image-*.bin"))) == 1


@pytest.mark.parametrize("recipe", ["defaults", "one_shot", "bulk"])
def test_a_recipe_is_measured_alone_and_beside_the_other_tower(tmp_path: Path, recipe: str):
    figures = sessions.measure(tiny_bundle(tmp_path / "tiny"), recipe, 5)
    assert figures["first_ms"] > figures["alone_p10_ms"] > 0
    assert figures["together_p95_ms"] >= figures["together_ms"] >= figures["together_p10_ms"] > 0
    assert figures["together_calls_a_second"] > 0
