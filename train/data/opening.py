"""The pairs and the tokenizer that a configuration names: opened where they exist, made where they do not."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from transformers import AutoConfig, AutoTokenizer

from mcr_infer.errors import ConfigError
from mcr_infer.files import atomic_write
from mcr_infer.inference.bundle import WORDS
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from mcr_infer.inference.vocabulary import training_words, words_file
from train.config import Config
from train.data import Pairs, require_pairs_for
from train.data.phantoms import PhantomPairs, PhantomStore, open_store, phantom_texts
from train.data.radiographs import RadiographPairs, open_records
from train.pretrained import reading, remedy_for
from train.progress import progress_bar

TOKENIZER = "tokenizer.json"

TOKENIZER_TEXTS = 20_000
"""Phantom texts that the tokenizer is trained on and whose words are listed: all but some 3 of their language of 700."""

WORD_REPORTS = 5
"""Real reports in which a word must stand to be listed: what stands in fewer is hardly learned, and may be a name."""


def open_pairs(
    config: Config, run: Path, console: Console, *, begin: Callable[[], None] = lambda: None
) -> tuple[Pairs, Pairs, ReportTokenizer]:
    """Open the training and the validation pairs of a run and its tokenizer; says on `console` what takes time.

    `begin` is called when the pairs are known to be good, before anything is written into the run folder.
    """
    # First, so that a vocabulary that is not there does not wait for hours of decoding.
    given = None if (run / TOKENIZER).exists() else _given_tokenizer(config)
    if config.data.source == "phantoms":
        require_pairs_for(config.optim.batch_size, count=config.data.phantoms.train_count)
        training, held_out = _open_phantoms(config, console, training=True), _open_phantoms(config, console)
        begin()
        shares = config.data.phantoms.shares
        tokenizer = _open_tokenizer(
            run, config, given, lambda rng: phantom_texts(training, shares, TOKENIZER_TEXTS, rng), least=1
        )
        return PhantomPairs(config, training, tokenizer), PhantomPairs(config, held_out, tokenizer), tokenizer
    records, others = open_records(config, run, console, begin=begin)
    tokenizer = _open_tokenizer(run, config, given, records.texts, least=WORD_REPORTS)
    return RadiographPairs(config, records, tokenizer), RadiographPairs(config, others, tokenizer), tokenizer


def open_held_out(config: Config, run: Path, console: Console) -> tuple[Pairs, ReportTokenizer]:
    """Open the validation pairs of a run that has its tokenizer already."""
    if not (run / TOKENIZER).exists():
        raise ConfigError(f"{run} holds no {TOKENIZER}: the run has not begun to train yet")
    if config.data.source == "phantoms":
        tokenizer = ReportTokenizer.from_file(run / TOKENIZER, config.model.text.max_tokens)
        return PhantomPairs(config, _open_phantoms(config, console), tokenizer), tokenizer
    _, held_out, tokenizer = open_pairs(config, run, console)
    return held_out, tokenizer


def _open_phantoms(config: Config, console: Console, *, training: bool = False) -> PhantomStore:
    """Open stored phantoms, reporting progress where some have to be made."""
    wanted = config.data.phantoms
    first_seed, count = wanted.validation_seed, wanted.validation_count
    if training:
        first_seed, count = wanted.train_seed, wanted.train_count
    with progress_bar(console) as progress:
        bar = progress.add_task("making phantoms", total=None, visible=False)

        def tell(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, visible=True)
            if not console.is_terminal and (done % 1000 == 0 or done == total):
                console.print(f"{done} of {total} phantoms made", highlight=False)

        return open_store(
            Path(config.data.cache), first_seed=first_seed, count=count, size=wanted.size,
            workers=config.run.workers, progress=tell,
        )  # fmt: skip


def _given_tokenizer(config: Config) -> bytes | None:
    """Return the tokenizer.json of the run or the text tower that a run starts from; None where one is to be trained."""
    if config.run.init_from is not None:
        path = Path(config.run.init_from, TOKENIZER)
        try:
            return path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"--init-from: {path} cannot be read ({exc.strerror})") from exc
    where = config.model.text.pretrained
    return None if where is None else _pretrained_tokenizer(where)


def _pretrained_tokenizer(where: str) -> bytes:
    """Return the tokenizer.json of a pretrained text tower; raises `ConfigError` where it is missing or not the tower's."""
    with reading(f"the tokenizer of model.text.pretrained {where!r}", remedy_for(where)):
        made = AutoTokenizer.from_pretrained(where).backend_tokenizer
        embeddings = AutoConfig.from_pretrained(where).vocab_size
    size = made.get_vocab_size()
    # Of a folder without a vocabulary transformers makes a tokenizer of special tokens, to which every word is unknown.
    if not embeddings // 2 <= size <= embeddings:
        raise ConfigError(
            f"the tokenizer of model.text.pretrained {where!r} has {size} tokens, its tower embeddings for {embeddings}: "
            "the vocabulary is missing or belongs to another model"
        )
    written: str = made.to_str(pretty=True)
    return written.encode()


def _open_tokenizer(
    run: Path,
    config: Config,
    given: bytes | None,
    texts: Callable[[np.random.Generator], Iterator[str]],
    *,
    least: int,
) -> ReportTokenizer:
    """Load the tokenizer of the run; where it has none, keep the given one or train one on the training texts.

    The words of these texts are listed beside it, where that is not done yet: those that stand in at least `least` texts.
    """
    path, tower, listed = run / TOKENIZER, config.model.text, run / WORDS
    read: list[str] | None = None
    if not path.exists() and given is not None:
        atomic_write(path, given)
    elif not path.exists():
        read = list(texts(np.random.default_rng([config.run.seed, 0])))
        made = train_tokenizer(read, tower.vocab_size)
        atomic_write(path, made.to_str(pretty=True).encode())
    tokenizer = ReportTokenizer.from_file(path, tower.max_tokens)
    if not listed.exists():
        read = list(texts(np.random.default_rng([config.run.seed, 0]))) if read is None else read
        atomic_write(listed, words_file(training_words(read, tokenizer, least=least)))
    return tokenizer
