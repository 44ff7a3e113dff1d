"""The words of the training text come into a bundle that lacks them: `python -m export.words BUNDLE`.

A new bundle has them from its run. This is for bundles of earlier releases, and for models from elsewhere whose training
text is at hand. No tower and no fingerprint changes, so that indexes stay valid.
"""

import argparse
import copy
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from export.folder import changed_bundle, write_words
from mcr_infer.errors import BundleError, McrError, ReportError
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.vocabulary import training_words
from mcr_infer.reports import ReportFailure, embed_text, read_reports
from train.config import read_config
from train.data.opening import WORD_REPORTS
from train.data.phantoms import Undrawn, phantom_texts

PHANTOM_TEXTS = 72_000
"""Two for each phantom of the shipped bundle; the last new word of their language comes among the first 36,000."""


def add_words(path: Path, *, reports: Path | None = None, phantom_count: int = PHANTOM_TEXTS) -> Bundle:
    """List the words of the training text in the bundle in `path`, replacing an earlier list.

    `reports` are read as `embed-reports` reads them; None writes `phantom_count` texts as the training of a phantom bundle
    did. Raises `BundleError` where the bundle was not trained on phantoms and no reports are given, or no word is left.
    """
    bundle = Bundle.open(path)
    texts: Iterable[str]
    if reports is None:
        texts, least = _texts_of_phantoms(bundle, phantom_count), 1
    else:
        texts, least = _texts_of_reports(reports), WORD_REPORTS
    words = training_words(texts, bundle.tokenizer(), least=least)
    if not words:
        raise BundleError(f"no word stands in at least {least} of the texts: give all reports of the training")
    with changed_bundle(bundle) as folder:
        write_words(folder, words)
    return Bundle.open(path)


def _texts_of_phantoms(bundle: Bundle, count: int) -> Iterator[str]:
    training = bundle.manifest.get("training")
    data = training.get("data") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(data, dict) or data.get("source") != "phantoms":
        raise BundleError(
            f"the bundle {bundle.name} was not trained on phantoms: name its training text with --reports"
        )
    config = read_config(copy.deepcopy(training))
    phantoms = config.data.phantoms
    store = Undrawn(phantoms.train_seed, phantoms.train_count)
    return phantom_texts(store, phantoms.shares, count, np.random.default_rng([config.run.seed, 0]))


def _texts_of_reports(path: Path) -> Iterator[str]:
    """Yield the text of each report that has one; training left out the others, too."""
    for report in read_reports(path):
        if isinstance(report, ReportFailure):
            print(f"left out: {report.error} [{report.reason}]", file=sys.stderr)
            continue
        try:
            yield embed_text(report.text)
        except ReportError as error:
            print(f"left out: {report.path}: {error} [{error.reason}]", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 written, 1 refused."""
    parser = argparse.ArgumentParser(prog="python -m export.words", description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle; it is replaced as a whole")
    parser.add_argument(
        "--reports",
        type=Path,
        metavar="FILE",
        help="the training text: .csv, .jsonl or a folder, as embed-reports reads; not needed for a phantom bundle",
    )
    options = parser.parse_args(arguments)
    try:
        bundle = add_words(options.bundle, reports=options.reports)
    except McrError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{bundle.path}: {bundle.name} lists {len(bundle.vocabulary().words or ())} words, fingerprint {bundle.fingerprint}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
