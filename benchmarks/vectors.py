"""Vectors for measuring an index of any size: drawn from the statistics of a bundle's embeddings, at 512 dimensions.

    phantoms -> the bundle's towers -> Sample (cached) -> Space.fit -> blocks of images [n, 512], text queries [Q, 512]

A bundle embeds some thousand phantoms in the time there is, not a million, and the one that ships has 128 dimensions. So
each modality (images, and the short sentences that users type) is described by what makes its search easy or hard, and
drawn anew:

    means      a linear map from what is shown (each label, its size, pairs of kinds) to an embedding: what text and image
               have in common, and the gap between them, since each modality has a map of its own
    residuals  what the map leaves, kept apart by the kinds of findings, since a normal chest varies less than a sick one.
               A vector gets two of its kinds' residuals, mixed at a random angle, mostly a small one, and a little normal
               noise of their covariance: their shape stays, and no two are equal
    parts      a wider tower has more directions to differ in. `PARTS` draws of residuals stand beside each other, each in
               dimensions of its own, about the same mean
    tail       the remaining dimensions hold noise alone, whose variance goes on falling by rank as that of the residuals
    length     one, as the towers give them

and all of it is turned by one random rotation, so that no coordinate is special. `python -m benchmarks.likeness` sets the
outcome beside the embeddings that it was fitted to, at equal counts. `PARTS` is the number at which a graph misses as many
of the nearest images of a text query as it does among the embeddings themselves; image queries, where more dimensions tell,
come out harder. Normal residuals alone (`noise=1`) would not do: sentences find their images among them far more easily.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mcr_infer import Bundle, ImageEncoder, TextEncoder, phantom
from mcr_infer.phantom.findings import Finding, draw_findings
from mcr_infer.phantom.language import describe

DIM = 512
PARTS = 3
BLOCK = 20_000
"""Vectors drawn at once. A block of a seed is the same, however many are drawn."""

MODALITIES = ("image", "text")

FIRST_IMAGE_SEED = 100_000
FIRST_QUERY_SEED = 200_000
"""Training and validation use seeds of 900,000 and more; the queries are not about phantoms of the gallery."""

CACHE = Path(__file__).parents[1] / "cache"

_SETS = 50_000
"""Sets of findings that vectors are drawn about; sizes of findings are drawn with them."""

_OFTEN = 100
"""Phantoms that show the same kinds from which their residuals are kept apart; the others go by their number of kinds."""

NOISE = 0.2
"""Share of the normal noise in the length of a residual, so that no two are equal."""

_MIXING = 3
"""Power of the random share of a right angle at which two residuals are mixed: of most vectors, one makes nearly all."""

_RIDGE = 1.0
_LAW = slice(15, 96)
"""Ranks of the residuals' eigenvalues that the power law of the tail is fitted to: first they fall less, last they end."""

_BATCH = 16

Vectors = NDArray[np.float32]
Findings = tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Embeddings [N, d] of a bundle, of length 1, each with the findings that it is about."""

    images: Vectors
    image_findings: Sequence[Findings]
    queries: Vectors
    query_findings: Sequence[Findings]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """One modality: how its vectors lie about the means of what they show."""

    means: Vectors
    """[F, d]"""

    rests: Vectors
    """[N, d]: residuals, those of a group of kinds one after the other."""

    starts: NDArray[np.int64]
    """[G + 1]: where each group starts."""

    spreads: Vectors
    """[G, d, d]: roots of the groups' covariances."""

    tail: Vectors
    """[D - PARTS d]: standard deviations."""

    groups: NDArray[np.int64]
    """[S]: the group of each set of findings that can be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Images and text queries that share a space as those of a bundle do."""

    clouds: dict[str, Cloud]
    features: Vectors
    """[S, F]: what is shown in each set of findings that can be drawn."""

    turn: Vectors
    """[D, D]: the rotation."""

    noise: float
    """Share of the normal noise in the length of a residual; 1 leaves nothing else of it."""

    @classmethod
    def fit(
        cls,
        sample: Sample,
        *,
        dim: int = DIM,
        parts: int = PARTS,
        noise: float = NOISE,
        sets: int = _SETS,
        seed: int = 0,
    ) -> "Space":
        """Fit a space of `dim` dimensions, at least `parts` times as many as the sample has."""
        columns = _columns([*sample.image_findings, *sample.query_findings])
        drawn = [draw_findings(np.random.default_rng([seed, row])) for row in range(sets)]
        free = dim - parts * sample.images.shape[1]
        given = (sample.images, sample.image_findings), (sample.queries, sample.query_findings)
        return cls(
            clouds={
                name: _fit(vectors, findings, columns, drawn, free)
                for name, (vectors, findings) in zip(MODALITIES, given, strict=True)
            },
            features=_features(drawn, columns),
            turn=_rotation(dim, seed),
            noise=noise,
        )

    def blocks(self, modality: str, count: int, *, seed: int) -> Iterator[Vectors]:
        """Draw `count` vectors of a modality, `BLOCK` at a time: [n, D], of length 1."""
        cloud = self.clouds[modality]
        width = cloud.means.shape[1]
        parts = (len(self.turn) - len(cloud.tail)) // width
        for block, start in enumerate(range(0, count, BLOCK)):
            rng = np.random.default_rng([seed, MODALITIES.index(modality), block])
            sets = rng.integers(len(self.features), size=BLOCK)
            drawn = np.empty((BLOCK, len(self.turn)), dtype=np.float32)
            means = self.features[sets] @ cloud.means
            for part in range(parts):
                drawn[:, part * width : (part + 1) * width] = means + _residuals(
                    cloud, cloud.groups[sets], self.noise, rng
                )
            noise = rng.standard_normal((BLOCK, len(cloud.tail)), dtype=np.float32)
            drawn[:, parts * width :] = noise * cloud.tail
            drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
            yield (drawn @ self.turn)[: count - start]

    def draw(self, modality: str, count: int, *, seed: int) -> Vectors:
        """Draw `count` vectors of a modality: [count, D]."""
        return np.concatenate(list(self.blocks(modality, count, seed=seed)))


def embed_sample(bundle: Bundle, *, images: int = 8000, queries: int = 4000, cache: Path = CACHE) -> Sample:
    """Embed phantoms and sentences about others, or take them from the cache: minutes for the first time."""
    image_findings = [draw_findings(phantom.stream(FIRST_IMAGE_SEED + row, "findings")) for row in range(images)]
    query_findings = [draw_findings(phantom.stream(FIRST_QUERY_SEED + row, "findings")) for row in range(queries)]
    path = cache / f"recall-{bundle.fingerprint.removeprefix('sha256:')[:16]}-{images}-{queries}.npz"
    if not path.exists():
        encoder, rendering = ImageEncoder(bundle), bundle.preprocess.rendering
        pictures = []
        for start in range(0, images, _BATCH):
            seeds = range(FIRST_IMAGE_SEED + start, FIRST_IMAGE_SEED + min(start + _BATCH, images))
            made = [phantom.make(seed).radiograph(rendering=rendering) for seed in seeds]
            pictures.append(encoder.encode_radiographs(made))
        texts = [
            describe(shown, phantom.stream(FIRST_QUERY_SEED + row, "query")) for row, shown in enumerate(query_findings)
        ]
        cache.mkdir(parents=True, exist_ok=True)
        np.savez(path, images=np.concatenate(pictures), queries=TextEncoder(bundle).encode(texts))
    with np.load(path) as kept:
        return Sample(
            images=kept["images"],
            image_findings=image_findings,
            queries=kept["queries"],
            query_findings=query_findings,
        )


def _fit(
    vectors: Vectors, findings: Sequence[Findings], columns: dict[str, int], sets: list[Findings], free: int
) -> Cloud:
    shown, given = _features(findings, columns).astype(np.float64), vectors.astype(np.float64)
    means = np.linalg.solve(shown.T @ shown + _RIDGE * np.eye(len(columns)), shown.T @ given)
    rests = given - shown @ means
    names = _group_names(findings)
    group = np.array([names[_kinds(each)] for each in findings])
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 2))
    values = np.linalg.eigvalsh(rests.T @ rests / len(rests))[::-1]
    ranks = np.arange(1, len(values) + free + 1)
    slope, level = np.polyfit(np.log(ranks[: len(values)][_LAW]), np.log(values[_LAW]), 1)
    # Kinds that the sample lacks go with others of their number; the last named of a number is a group of rare ones.
    fallback = {len(kinds): place for kinds, place in sorted(names.items(), key=lambda pair: pair[1])}
    return Cloud(
        means=means.astype(np.float32),
        rests=rests[order].astype(np.float32),
        starts=starts,
        spreads=np.stack([_root(rests[group == one]) for one in range(len(starts) - 1)]).astype(np.float32),
        tail=np.exp((level + slope * np.log(ranks[len(values) :])) / 2).astype(np.float32),
        groups=np.array([names.get(_kinds(each), fallback[len(each)]) for each in sets]),
    )


def _residuals(cloud: Cloud, groups: NDArray[np.int64], share: float, rng: np.random.Generator) -> Vectors:
    """Draw a residual [n, d] for each of the groups [n]."""
    first, count = cloud.starts[groups], np.diff(cloud.starts)[groups]
    one, other = (cloud.rests[first + (rng.random(len(groups)) * count).astype(np.int64)] for _ in range(2))
    angle = (np.pi / 2 * rng.random((len(groups), 1)) ** _MIXING).astype(np.float32)
    noise = rng.standard_normal(one.shape, dtype=np.float32)
    for group in np.unique(groups):
        rows = groups == group
        noise[rows] = noise[rows] @ cloud.spreads[group]
    mixed: Vectors = np.cos(angle) * one + np.sin(angle) * other
    return np.float32(np.sqrt(1 - share**2)) * mixed + np.float32(share) * noise


def _kinds(findings: Findings) -> tuple[str, ...]:
    return tuple(sorted(one.kind for one in findings))


def _group_names(findings: Sequence[Findings]) -> dict[tuple[str, ...], int]:
    """Number the groups of kinds: one for each that is often shown, and one for the rest of as many kinds."""
    rows = Counter(_kinds(each) for each in findings)
    often = sorted(kinds for kinds, count in rows.items() if count >= _OFTEN)
    names = {kinds: place for place, kinds in enumerate(often)}
    sizes = sorted({len(kinds) for kinds in rows if kinds not in names})
    return names | {kinds: len(often) + sizes.index(len(kinds)) for kinds in rows if kinds not in names}


def _columns(findings: Sequence[Findings]) -> dict[str, int]:
    """Number the features that occur."""
    names: dict[str, int] = {}
    for each in findings:
        for name, _ in _described(each):
            names.setdefault(name, len(names))
    return names


def _features(findings: Sequence[Findings], columns: dict[str, int]) -> Vectors:
    """Describe sets of findings as numbers [N, F]; what has no column is left out."""
    table = np.zeros((len(findings), len(columns)), dtype=np.float32)
    for row, each in enumerate(findings):
        for name, value in _described(each):
            if name in columns:
                table[row, columns[name]] = value
    return table


def _described(findings: Findings) -> Iterator[tuple[str, float]]:
    yield "", 1.0
    kinds = _kinds(findings)
    for one in findings:
        yield one.label, 1.0
        yield f"{one.label}, size", one.size - 0.5
    for place, kind in enumerate(kinds):
        for other in kinds[:place]:
            yield f"{other} and {kind}", 1.0


def _root(rests: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the symmetric root [d, d] of the covariance of residuals [n, d]."""
    values, directions = np.linalg.eigh(rests.T @ rests / len(rests))
    root: NDArray[np.float64] = (directions * np.sqrt(values.clip(0))) @ directions.T
    return root


def _rotation(dim: int, seed: int) -> Vectors:
    turned, triangle = np.linalg.qr(np.random.default_rng([seed, dim]).standard_normal((dim, dim)))
    return np.asarray(turned * np.sign(np.diagonal(triangle)), dtype=np.float32)
