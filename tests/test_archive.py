"""`Archive`: an index and its bundle behind one object give what the command line gives."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from conftest import invoke, json_lines
from mcr_infer import Bundle, Index, TextEncoder
from mcr_infer.errors import BundleError, IndexMismatchError, QueryError
from mcr_infer.retrieval.archive import Archive
from mcr_infer.retrieval.queries import Question

SENTENCE = "left pneumothorax"


@pytest.mark.parametrize("options", [(), ("--rerank",), ("--where", "view=PA"), ("--by-study",)])
def test_search_gives_the_hits_of_the_command(kept_index: Path, options: tuple[str, ...]):
    expected = json_lines(invoke("query", SENTENCE, "--index", kept_index, "-k", "5", "--json", *options).stdout)
    with Archive.open(kept_index) as archive:
        (hits,) = archive.search(
            SENTENCE,
            k=5,
            rerank="--rerank" in options,
            where="view=PA" if "--where" in options else None,
            distinct=["study"] if "--by-study" in options else [],
        )
    assert [(hit.id, round(hit.score, 6)) for hit in hits] == [(hit["id"], hit["score"]) for hit in expected]


def test_a_row_is_not_similar_to_itself(kept_index: Path):
    with Archive.open(kept_index) as archive:
        id = archive.index.ids("image")[0]
        ((*hits,),) = archive.search(Question.of(likes=[id]), k=24)
    assert len(hits) == 23
    assert id not in {hit.id for hit in hits}


def test_embed_gives_the_vectors_of_the_text_tower(kept_index: Path):
    with Archive.open(kept_index) as archive:
        vectors = archive.embed(SENTENCE, "cardiomegaly")
        assert vectors.fingerprint == archive.index.fingerprint
    expected = TextEncoder(Bundle.open()).encode([SENTENCE, "cardiomegaly"])
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


@pytest.mark.parametrize("kept", [True, False])
def test_explain_compares_words_with_patches(kept: bool, kept_index: Path, phantom_index: Path):
    with Archive.open(kept_index if kept else phantom_index) as archive:
        id = archive.index.ids("image")[0]
        found = archive.explain(SENTENCE, id)
        grid = archive.bundle.preprocess
        patches = (grid.image_size // grid.patch_size) ** 2
    assert found.cosines.shape == (len(found.word_weights), patches)
    assert np.abs(found.cosines).max() <= 1 + 1e-5
    assert found.word_weights.sum() == pytest.approx(1, abs=1e-5)
    assert found.patch_weights.sum() == pytest.approx(1, abs=1e-5)
    assert found.positions is not None
    assert found.positions.tolist() == list(range(patches))


def test_explain_without_patches_is_an_error(phantom_index: Path, phantom_folder: Path, tmp_path: Path):
    gone = tmp_path / "dicoms"
    gone.mkdir()
    file = next(phantom_folder.glob("*.dcm"))
    (gone / file.name).write_bytes(file.read_bytes())
    invoke("embed-images", gone, "--index", tmp_path / "index")
    (gone / file.name).unlink()
    with Archive.open(tmp_path / "index") as archive:
        with pytest.raises(QueryError, match="are not kept in index"):
            archive.explain(SENTENCE, archive.index.ids("image")[0])
        with pytest.raises(QueryError, match="has no image with the id"):
            archive.explain(SENTENCE, "1.2.3")


def test_a_bundle_that_did_not_make_the_index_is_refused(kept_index: Path, foreign_bundle):
    _, bundle = foreign_bundle("clip")
    with pytest.raises(IndexMismatchError):
        Archive.open(kept_index, bundle=bundle.path)
    with Index.open(kept_index) as index, pytest.raises(IndexMismatchError):
        Archive(index, bundle)


def test_an_index_without_a_bundle_cannot_be_asked_in_words(tmp_path: Path):
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "ids.txt").write_text("a\nb\nc\nd\n")
    invoke("import", tmp_path, "--index", tmp_path / "index", "--name", "elsewhere")
    with pytest.raises(BundleError, match="which is not a bundle"):
        Archive.open(tmp_path / "index")


def test_reports_cannot_be_ranked_again(phantom_index: Path):
    with Archive.open(phantom_index) as archive, pytest.raises(QueryError, match="which reports do not have"):
        archive.search(SENTENCE, kind="report", rerank=True)


def test_rows_that_cannot_be_ranked_again_are_told(kept_index: Path, phantom_folder: Path, tmp_path: Path):
    folder = tmp_path / "dicoms"
    shutil.copytree(phantom_folder, folder)
    invoke("embed-images", folder, "--index", tmp_path / "index")
    for file in sorted(folder.glob("*.dcm"))[:2]:
        file.unlink()
    told: list[str] = []
    with Archive.open(tmp_path / "index", notify=told.append) as archive:
        (hits,) = archive.search(SENTENCE, k=24, rerank=True)
    assert sum(hit.rerank_score is None for hit in hits) == 2
    assert told[-1].startswith("2 of 24 radiographs could not be re-ranked")
