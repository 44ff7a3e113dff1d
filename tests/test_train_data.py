import dataclasses

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.utils.data import DataLoader

from mcr_infer.errors import ConfigError
from mcr_infer.inference.long_text import DEFAULT, STRATEGIES, fit
from mcr_infer.inference.tokenizer import ReportTokenizer, train_tokenizer
from mcr_infer.phantom import make
from mcr_infer.phantom.findings import finding_set
from mcr_infer.reports import select_text
from train import config as cfg
from train.augment import augment
from train.data import Draw, Sample, Schedule, collate
from train.data.opening import open_pairs
from train.data.phantoms import SHARD, TEXTS, PhantomPairs, open_store, phantom_texts, write_text

FIRST = 1_000_030
COUNT = 60  # spans two shards
SIZE = 48
CONFIG = cfg.Config(
    model=cfg.Model(image=cfg.ImageTower(image_size=32, patch_size=8)),
    masking=cfg.Masking(image_ratio=0.5, text_ratio=0.3),
)


def open_phantoms(folder, workers=0):
    told = []
    store = open_store(
        folder, first_seed=FIRST, count=COUNT, size=SIZE, workers=workers, progress=lambda *done: told.append(done)
    )
    return store, told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def store(folder):
    return open_phantoms(folder)[0]


@pytest.fixture(scope="module")
def tokenizer(folder, store):
    rng = np.random.default_rng(0)
    texts = list(phantom_texts(store, (1, 1, 1, 1), 300, rng))
    path = folder / "tokenizer.json"
    train_tokenizer(texts, 500).save(str(path))
    return ReportTokenizer.from_file(path, 64)


def test_the_store_holds_what_the_generator_makes(store):
    assert len(store) == COUNT
    for index in (0, 25, COUNT - 1):
        phantom, stored = make(FIRST + index, SIZE), store[index]
        assert stored.seed == phantom.seed
        assert np.array_equal(stored.pixels, phantom.stored)
        assert (stored.findings, stored.view) == (phantom.findings, phantom.view)
    with pytest.raises(IndexError):
        store[COUNT]


def test_only_missing_shards_are_made(folder, store):
    shards = sorted(folder.glob("phantoms-48-*/*.npy"))
    assert [int(path.stem) for path in shards] == [FIRST // SHARD, FIRST // SHARD + 1]
    before = [path.stat().st_mtime_ns for path in shards]
    assert open_phantoms(folder)[1] == []
    shards[1].unlink()
    again, told = open_phantoms(folder, workers=1)
    assert told == [(2 * SHARD, 2 * SHARD)]
    assert shards[0].stat().st_mtime_ns == before[0]
    assert np.array_equal(again[COUNT - 1].pixels, store[COUNT - 1].pixels)


def test_without_augmentation_the_tensor_is_that_of_inference(store, tokenizer):
    still = cfg.Augment(gamma=0, contrast=0, brightness=0, crop=0, rotation=0)
    plain = PhantomPairs(dataclasses.replace(CONFIG, augment=still), store, tokenizer)
    pairs = PhantomPairs(CONFIG, store, tokenizer)
    for index in (0, 7):
        phantom = make(FIRST + index, SIZE)
        expected, positions = CONFIG.model.preprocess.patches(phantom.radiograph().pixels)
        for sample in (plain[Draw(index, 3, False)], pairs.held_out(index)):
            assert np.array_equal(sample.patches, expected)
            assert np.array_equal(sample.visible, positions)
        (fitted,) = fit([select_text(phantom.report.text)], tokenizer, DEFAULT)
        assert np.array_equal(pairs.held_out(index).input_ids, fitted.pieces)
    assert not np.array_equal(pairs[Draw(0, 0, False)].patches, pairs.held_out(0).patches)


def test_a_draw_is_the_same_in_any_process_and_new_in_each_epoch(store, tokenizer):
    pairs = PhantomPairs(CONFIG, store, tokenizer)
    batches = [[Draw(index, 1, True) for index in (3, 9, 4)], [Draw(3, 2, True)]]
    here = [collate([pairs[draw] for draw in draws]) for draws in batches]
    workers = DataLoader(pairs, batch_sampler=batches, num_workers=1, collate_fn=collate)
    for one, other in zip(here, workers, strict=True):
        assert one.sources == other.sources
        for item in dataclasses.fields(one):
            if item.name != "sources":
                assert torch.equal(getattr(one, item.name), getattr(other, item.name))
    assert not torch.equal(here[0].patches[0], here[1].patches[0])
    assert here[0].sources == tuple(f"phantom {FIRST + place}" for place in (3, 9, 4))


def test_masked_draws_hide_the_configured_share_and_others_nothing(store, tokenizer):
    pairs = PhantomPairs(CONFIG, store, tokenizer)
    masked, whole = pairs[Draw(1, 0, True)], pairs[Draw(1, 0, False)]
    assert (len(masked.visible), len(masked.hidden)) == (8, 8)
    assert masked.word_mask.any()
    assert not masked.word_mask[:, [0, -1]].any()
    assert (len(whole.visible), len(whole.hidden)) == (16, 0)
    assert not whole.word_mask.any()


def test_positives_follow_the_configuration(store, tokenizer):
    sets = [finding_set(store[index].findings) for index in range(COUNT)]
    normal = [index for index in range(COUNT) if not sets[index]]
    assert len(normal) > 2
    loss = cfg.Loss(positives="findings")
    by_findings = PhantomPairs(dataclasses.replace(CONFIG, loss=loss), store, tokenizer)
    assert len({by_findings[Draw(index, 0, True)].key for index in normal}) == 1
    keys = [by_findings.held_out(index).key for index in range(COUNT)]
    assert len(set(keys)) == len(set(sets))
    by_report = PhantomPairs(CONFIG, store, tokenizer)
    texts = {}
    for epoch in range(4):
        for index in normal:
            sample = by_report[Draw(index, epoch, False)]
            texts.setdefault(sample.key, set()).add(tuple(sample.input_ids[0]))
    assert all(len(same) == 1 for same in texts.values())


def test_every_kind_of_text_is_written(store):
    rng = np.random.default_rng(0)
    stored = next(store[index] for index in range(COUNT) if store[index].findings)
    lengths = {}
    for place, kind in enumerate(TEXTS):
        shares = [float(place == other) for other in range(4)]
        texts = [write_text(stored, shares, rng).text for _ in range(20)]
        assert all(text.strip() for text in texts)
        assert len(set(texts)) > 1
        lengths[kind] = np.mean([len(text) for text in texts])
    assert lengths["full"] > max(lengths["findings"], lengths["impression"])
    assert lengths["findings"] > lengths["description"]


def test_labels_are_kinds_with_sides(store, tokenizer):
    pairs = PhantomPairs(CONFIG, store, tokenizer)
    for index in range(COUNT):
        for finding, label in zip(
            sorted(store[index].findings, key=lambda f: f"{f.side or ''} {f.kind}".strip()),
            pairs.labels(index).split(";"),
            strict=False,
        ):
            assert label == f"{finding.side or ''} {finding.kind}".strip()


def test_batches_pad_reports_and_nothing_else():
    def sample(length, count=1):
        return Sample(
            patches=np.ones((4, 9), np.float32), visible=np.array([0, 2]), hidden=np.array([1, 3]),
            targets=np.full((2, 36), 3.0, np.float32), input_ids=np.tile(np.arange(5, 5 + length), (count, 1)),
            masked_ids=np.full((count, length), 4), word_mask=np.ones((count, length), np.bool_), key=length,
            source=f"pair {length}",
        )  # fmt: skip

    batch = collate([sample(3), sample(5)])
    assert batch.input_ids.tolist() == [[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.word_mask.tolist() == [[True] * 3 + [False] * 2, [True] * 5]
    assert batch.masked_ids.tolist() == [[4, 4, 4, 0, 0], [4] * 5]
    assert batch.keys.tolist() == [3, 5]
    assert batch.patches.shape == (2, 4, 9)
    assert batch.targets.shape == (2, 2, 36)
    first, second = batch.split(1)
    assert (first.sources, second.sources) == (("pair 3",), ("pair 5",))
    assert second.input_ids.tolist() == [[5, 6, 7, 8, 9]]
    longer = collate([sample(3), sample(5, 3), sample(4), sample(5, 2), sample(2)])
    assert longer.pair_of.tolist() == [0, 1, 1, 1, 2, 3, 3, 4]
    assert longer.attention_mask.sum(dim=1).tolist() == [3, 5, 5, 5, 4, 5, 5, 2]
    parts = longer.split(2)
    assert [part.pair_of.tolist() for part in parts] == [[0, 1, 1, 1], [0, 1, 1], [0]]
    assert [part.attention_mask.sum(dim=1).tolist() for part in parts] == [[3, 5, 5, 5], [4, 5, 5], [2]]
    assert [part.keys.tolist() for part in parts] == [[3, 5], [4, 5], [2]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_long_phantom_texts_are_fitted_as_inference_does(store, tokenizer, strategy):
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, long_text=strategy))
    short = ReportTokenizer(tokenizer._tokenizer, 16)
    pairs, done = PhantomPairs(config, store, short), set()
    for index in range(COUNT):
        (fitted,) = fit([select_text(make(FIRST + index, SIZE).report.text)], short, strategy)
        done.add(fitted.strategy)
        assert np.array_equal(pairs.held_out(index).input_ids, fitted.pieces)
    assert strategy in done


def test_words_of_two_windows_are_hidden_in_both(store, tokenizer):
    data = dataclasses.replace(CONFIG.data, long_text="windows")
    config = dataclasses.replace(CONFIG, data=data, masking=cfg.Masking(text_ratio=0.5))
    short = ReportTokenizer(tokenizer._tokenizer, 16)
    pairs, shared = PhantomPairs(config, store, short), 0
    for index in range(COUNT):
        (fitted,) = fit([select_text(make(FIRST + index, SIZE).report.text)], short, "windows")
        hidden = {}
        for places, mask in zip(fitted.places, pairs.held_out(index, masked=True).word_mask, strict=True):
            for place, here in zip(places, mask, strict=True):
                shared += place in hidden
                assert hidden.setdefault(place, here) == here
        assert any(hidden.values())
        assert not all(hidden.values())
    assert shared > COUNT


def test_phantom_reports_keep_their_conclusion(store):
    rng = np.random.default_rng(0)
    stored = next(store[index] for index in range(COUNT) if store[index].findings)
    full, findings, impression, description = (
        write_text(stored, [float(place == other) for other in range(4)], rng) for place in range(4)
    )
    assert 0 < len(full.conclusion) < len(full.text)
    assert full.text.endswith(f" {full.conclusion}")
    assert (findings.conclusion, impression.conclusion) == (None, impression.text)
    assert (description.part, description.conclusion) == ("whole", None)


def schedule(first_step=0, **changes):
    told = {"batch_size": 4, "seed": 3, "first_step": first_step, "steps": 12, "unmasked_steps": 3} | changes
    return list(Schedule(22, **told))


def test_an_epoch_meets_every_item_once():
    batches = schedule()
    assert [draw.epoch for draws in batches for draw in draws] == [0] * 20 + [1] * 20 + [2] * 8
    first = [draw.index for draws in batches[:5] for draw in draws]
    assert len(set(first)) == 20
    assert set(first) <= set(range(22))
    assert first != [draw.index for draws in batches[5:10] for draw in draws]


def test_a_resumed_schedule_goes_on_where_it_stopped():
    assert schedule(first_step=7) == schedule()[7:]
    assert schedule(seed=4) != schedule()


def test_the_last_steps_are_unmasked():
    assert [draws[0].masked for draws in schedule()] == [True] * 9 + [False] * 3


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ConfigError, match="batch_size 30 is larger than the training set of 22"):
        schedule(batch_size=30)


def test_augmentation_keeps_the_sides():
    rng = np.random.default_rng(0)
    pixels = np.tile(np.linspace(0.2, 0.9, 64, dtype=np.float32), (64, 1))
    for _ in range(50):
        changed = augment(pixels, cfg.Augment(), rng)
        assert changed.dtype == np.float32
        assert min(changed.shape) >= 64 - 2 * int(0.06 * 64)
        assert changed.min() >= 0.0
        assert changed.max() <= 1.0
        middle = changed[len(changed) // 2]
        assert middle[-12:].mean() > middle[:12].mean() + 0.2


def test_augmentation_by_nothing_returns_the_same_pixels():
    pixels = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    still = cfg.Augment(gamma=0, contrast=0, brightness=0, crop=0, rotation=0)
    assert np.array_equal(augment(pixels, still, np.random.default_rng(0)), pixels)


def test_black_borders_stay_black():
    pixels = np.full((40, 40), 0.5, np.float32)
    pixels[:10] = 0.0
    bright = augment(pixels, cfg.Augment(crop=0, rotation=0, brightness=0.3), np.random.default_rng(1))
    assert float(bright[:10].max()) == 0.0


def test_phantoms_that_fill_no_batch_are_refused_before_one_is_made(tmp_path):
    data = cfg.Data(cache=str(tmp_path / "cache"), phantoms=cfg.Phantoms(size=48, train_count=20, validation_count=5))
    config = dataclasses.replace(CONFIG, data=data, optim=cfg.Optim(batch_size=32))
    with pytest.raises(ConfigError, match="batch_size 32 is larger than the training set of 20"):
        open_pairs(config, tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "cache").exists()
