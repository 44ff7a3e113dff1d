"""Are the vectors that `benchmarks.recall` searches like those of the bundle? Both, at equal counts, side by side.

    python -m benchmarks.likeness [--bundle BUNDLE] [--rounds 10] [--out FILE.json]

Each round draws a gallery of 7,000 images, 1,000 other images and 2,000 sentences as queries: of the bundle's embeddings,
another part of them each time; of the space that was fitted to them, new ones. The means of the rounds are compared, with
their standard errors, since a graph that cannot reach one image misses it for every sentence that should find it. A
space whose residuals are all normal stands beside them: what it would be to leave the embeddings' own residuals out.

    gap                  cosine between the mean image and the mean sentence
    random               mean and spread of the cosine of a query and any image
    first, tenth         mean cosine of a query and its nearest image, and its tenth
    local dimension      of the 20 nearest of a query (maximum likelihood; Levina and Bickel, 2004), median over queries
    never found          images that are among the first ten of no sentence
    recall               of a graph (m 16, ef_construction 200) at each breadth, among the first ten

The last line of stdout is one JSON document.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import hnswlib
import numpy as np

from benchmarks.machine import machine_card
from benchmarks.truth import nearest_scores, recall
from benchmarks.vectors import DIM, PARTS, Sample, Space, Vectors, embed_sample
from mcr_infer import Bundle

GALLERY, IMAGE_QUERIES, TEXT_QUERIES = 7000, 1000, 2000
TOP = 10
BREADTHS = (10, 20, 40, 80, 160)
_NEIGHBOURS = 20

Round = tuple[Vectors, Vectors, Vectors]
"""Gallery, image queries, text queries."""


def of_bundle(sample: Sample, seed: int) -> Round:
    """Take a gallery and queries from the embeddings themselves."""
    rng = np.random.default_rng(seed)
    images = sample.images[rng.permutation(len(sample.images))]
    queries = sample.queries[rng.permutation(len(sample.queries))]
    return images[:GALLERY], images[GALLERY : GALLERY + IMAGE_QUERIES], queries[:TEXT_QUERIES]


def of_space(space: Space, seed: int) -> Round:
    """Draw a gallery and queries."""
    images = space.draw("image", GALLERY + IMAGE_QUERIES, seed=seed)
    return images[:GALLERY], images[GALLERY:], space.draw("text", TEXT_QUERIES, seed=seed)


def figures(gallery: Vectors, image_queries: Vectors, text_queries: Vectors) -> dict[str, float]:
    """Describe one round."""
    means = [each.mean(axis=0) for each in (gallery, text_queries)]
    found = {"gap": float(means[0] @ means[1] / np.linalg.norm(means[0]) / np.linalg.norm(means[1]))}
    for name, queries in (("text", text_queries), ("image", image_queries)):
        scores = queries @ gallery.T
        ranked = -np.sort(-scores, axis=1)[:, :_NEIGHBOURS]
        found[f"{name}: random, mean"] = float(scores.mean())
        found[f"{name}: random, spread"] = float(scores.std())
        found[f"{name}: first"] = float(ranked[:, 0].mean())
        found[f"{name}: tenth"] = float(ranked[:, TOP - 1].mean())
        found[f"{name}: local dimension"] = float(np.median(local_dimension(ranked)))
    first = np.argpartition(-(text_queries @ gallery.T), TOP, axis=1)[:, :TOP]
    found["text: never found"] = 1.0 - len(np.unique(first)) / len(gallery)
    graph = hnswlib.Index(space="ip", dim=gallery.shape[1])
    graph.init_index(len(gallery), M=16, ef_construction=200)
    graph.set_num_threads(1)
    graph.add_items(gallery)
    for name, queries in (("text", text_queries), ("image", image_queries)):
        kth = nearest_scores(queries, [gallery], k=TOP)
        for breadth in BREADTHS:
            graph.set_ef(breadth)
            rows = graph.knn_query(queries, k=TOP)[0].astype(np.int64)
            found[f"{name}: recall at {breadth}"] = float(recall(rows, queries, gallery, kth).mean())
    return found


def local_dimension(ranked: Vectors) -> Vectors:
    """Estimate the dimension [Q] that the nearest scores [Q, K], best first, of each query speak of."""
    distances = np.sqrt(np.maximum(2.0 - 2.0 * ranked, 1e-12))
    dimension: Vectors = -1.0 / np.log(distances[:, :-1] / distances[:, -1:]).mean(axis=1)
    return dimension


def compare(draw: Callable[[int], Round], rounds: int) -> dict[str, tuple[float, float]]:
    """Return mean and standard error of each figure over the rounds."""
    found = [figures(*draw(seed)) for seed in range(rounds)]
    table = {name: np.array([each[name] for each in found]) for name in found[0]}
    return {
        name: (round(float(values.mean()), 4), round(float(values.std(ddof=1) / len(values) ** 0.5), 4))
        for name, values in table.items()
    }


def main() -> None:
    """Compare, print a table and the JSON document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, help="a bundle; without it the one that ships")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="write the JSON document there, too")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error(f"--rounds must be 2 at least, got {options.rounds}")
    bundle = Bundle.open(options.bundle)
    sample = embed_sample(bundle)
    space = Space.fit(sample)
    real = compare(lambda seed: of_bundle(sample, seed), options.rounds)
    drawn = compare(lambda seed: of_space(space, seed), options.rounds)
    normal_space = Space.fit(sample, noise=1.0)
    normal = compare(lambda seed: of_space(normal_space, seed), options.rounds)
    print("| | embeddings | drawn | normal residuals |\n|---|---|---|---|")
    for name in real:
        cells = (f"{each[name][0]:.3f} ± {each[name][1]:.3f}" for each in (real, drawn, normal))
        print(f"| {name} | {' | '.join(cells)} |")
    result = {
        "benchmark": "likeness", "bundle": bundle.name, "fingerprint": bundle.fingerprint, "rounds": options.rounds,
        "machine": machine_card(), "dimensions": [sample.images.shape[1], DIM], "parts": PARTS,
        "mean_and_standard_error": "of each figure",
        "embeddings": real, "drawn": drawn, "normal_residuals": normal,
    }  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
