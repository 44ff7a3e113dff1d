import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mcr_infer.errors import EmbeddingIndexError, IndexCorruptError
from mcr_infer.inference.token_embeddings import TokenEmbeddings, packed_size

_values = st.floats(min_value=-(2.0**100), max_value=2.0**100, width=32, allow_subnormal=False)


@settings(max_examples=150, deadline=None)
@given(
    vectors=hnp.arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 9)), elements=_values),
    seed=st.integers(0, 2**32 - 1),
)
def test_packing_loses_at_most_half_a_step_of_each_vector(vectors: np.ndarray, seed: int):
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(vectors))).astype(np.float32)
    content = TokenEmbeddings(vectors=vectors, weights=weights).to_bytes()
    assert len(content) == packed_size(*vectors.shape, placed=False) == 8 + vectors.size + 6 * len(vectors)
    back = TokenEmbeddings.from_bytes(content)
    largest = np.abs(vectors).max(axis=1, keepdims=True).astype(np.float64)
    assert (np.abs(back.vectors.astype(np.float64) - vectors) <= largest / 254 * 1.0001 + 1e-37).all()
    assert (np.abs(back.weights - weights) <= weights * 2**-11 + 2**-25).all()


def test_a_weak_patch_keeps_its_direction():
    rng = np.random.default_rng(0)
    vectors = (
        rng.standard_normal((100, 128)).astype(np.float32) * np.geomspace(1e-6, 1e6, 100, dtype=np.float32)[:, None]
    )
    local = TokenEmbeddings(
        vectors=vectors, weights=np.full(100, 0.01, dtype=np.float32), positions=np.arange(0, 200, 2)
    )
    content = local.to_bytes()
    assert len(content) == packed_size(100, 128, placed=True) == 13_608  # what the README says of the bundle that ships
    back = TokenEmbeddings.from_bytes(content).vectors
    cosines = (vectors * back).sum(axis=1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(back, axis=1)
    assert cosines.min() > 0.9998


def test_a_vector_of_zeros_stays_one():
    local = TokenEmbeddings(
        vectors=np.zeros((2, 3), dtype=np.float32), weights=np.array([0.25, 0.75], dtype=np.float32)
    )
    assert not TokenEmbeddings.from_bytes(local.to_bytes()).vectors.any()


@pytest.mark.parametrize(
    ("vectors", "weights", "message"),
    [
        (np.ones((2, 3)), np.ones(3), r"got \[2, 3\] and \[3\]"),
        (np.ones((0, 3)), np.ones(0), r"K and D of at least 1, got \[0, 3\]"),
        (np.ones(3), np.ones(3), r"got \[3\] and \[3\]"),
        (np.full((2, 3), np.nan), np.ones(2), "must be finite"),
        (np.ones((2, 3)), np.array([1.0, np.inf]), "must be finite"),
        (np.ones((2, 3)), np.array([1.5, -0.5]), "weights of at least 0"),
        (np.ones((2, 3)), np.zeros(2), "not all 0"),
    ],
)
def test_what_is_no_set_of_parts_is_refused(vectors: np.ndarray, weights: np.ndarray, message: str):
    with pytest.raises(EmbeddingIndexError, match=message):
        TokenEmbeddings(vectors=vectors.astype(np.float32), weights=weights.astype(np.float32))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "got 0 bytes of version None"),
        (lambda content: content[:7], "got 7 bytes of version 2"),
        (lambda content: b"\x03" + content[1:], "begin with a version up to 2 .* of version 3"),
        (lambda content: b"\x00" + content[1:], "of version 0"),
        (lambda content: content[:1] + b"\x01" + content[2:], "take 30 bytes, got 26"),
        (lambda content: content[:-1], "packed patches of 2 x 3 take 26 bytes, got 25"),
        (lambda content: content + b"\0", "take 26 bytes, got 27"),
        (lambda content: content[:4] + b"\xff\xff\xff\xff" + content[8:], "packed patches of 4294967295 x 3 take"),
        (lambda content: content[:4] + bytes(4), "packed patches of 0 x 3 take 8 bytes"),
    ],
)
def test_bytes_that_are_no_packed_form_are_refused(spoil, message: str):
    content = TokenEmbeddings(
        vectors=np.ones((2, 3), dtype=np.float32), weights=np.full(2, 0.5, dtype=np.float32)
    ).to_bytes()
    with pytest.raises(IndexCorruptError, match=message):
        TokenEmbeddings.from_bytes(spoil(content))


@pytest.mark.parametrize("positions", [[0], [65535, 0, 7], [3, 1, 2, 40_000]])
def test_positions_come_back_exactly(positions: list[int]):
    count = len(positions)
    weights, vectors = np.full(count, 1 / count, dtype=np.float32), np.ones((count, 3), dtype=np.float32)
    back = TokenEmbeddings.from_bytes(
        TokenEmbeddings(vectors=vectors, weights=weights, positions=np.array(positions)).to_bytes()
    )
    assert back.positions is not None
    assert back.positions.tolist() == positions
    assert np.array_equal(back.vectors, vectors)
    assert TokenEmbeddings.from_bytes(TokenEmbeddings(vectors=vectors, weights=weights).to_bytes()).positions is None


def test_locals_of_format_2_have_no_positions():
    content = TokenEmbeddings(
        vectors=np.full((2, 3), 2.0, dtype=np.float32), weights=np.full(2, 0.5, dtype=np.float32)
    ).to_bytes()
    back = TokenEmbeddings.from_bytes(b"\x01\x00" + content[2:])
    assert back.positions is None
    assert (back.vectors == 2.0).all()


@pytest.mark.parametrize("positions", [[1], [1, 2, 3], [-1, 0], [0, 65536], [[0, 1]]])
def test_positions_that_fit_no_patches_are_refused(positions: list[int]):
    with pytest.raises(EmbeddingIndexError, match="positions of 2 patches are as many numbers from 0 to 65535"):
        TokenEmbeddings(
            vectors=np.ones((2, 3), dtype=np.float32),
            weights=np.full(2, 0.5, dtype=np.float32),
            positions=np.array(positions),
        )
