import dataclasses
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcr_infer.errors import BrokenImageError, ConfigError
from mcr_infer.images import Radiograph, read_image
from mcr_infer.images.presets import PRESETS
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.phantom import make
from mcr_infer.phantom.dicom import write_dicom
from train.data import picture_cache
from train.data.picture_cache import open_pictures, rendering_digest, stored_picture
from train.data.strings import Strings
from train.data.workers import Job, run_jobs
from trees import write_png

SIDE = 64


def opened(cache, paths, *, side=SIDE, workers=0, **told):
    """Open pictures; return them, the failures, and how many were decoded now."""
    status = [path.stat() for path in paths]
    progress = []
    pictures, failures = open_pictures(
        cache, Strings.of(map(str, paths)), np.array([s.st_size for s in status], dtype=np.int64),
        np.array([s.st_mtime_ns for s in status], dtype=np.int64), side=side, workers=workers,
        progress=lambda done, total: progress.append((done, total)), **{"say": lambda _: None} | told,
    )  # fmt: skip
    return pictures, failures, progress


def images(folder, count, size=64):
    paths = [folder / f"{seed}.png" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_png(path, seed, size)
    return paths


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_is_small_enough_is_kept_bit_for_bit(tmp_path, workers):
    paths = images(tmp_path, 3)
    write_dicom(make(5, 64), tmp_path / "5.dcm")
    Image.fromarray(make(6, 64).stored).save(tmp_path / "6.png")
    Image.fromarray((make(7, 64).stored >> 4).astype(np.uint8)).save(tmp_path / "7.jpg", quality=90)
    paths += [tmp_path / name for name in ("5.dcm", "6.png", "7.jpg")]
    pictures, failures, progress = opened(tmp_path / "cache", paths, workers=workers)
    assert failures == []
    assert progress == [(6, 6)]
    for index, path in enumerate(paths):
        assert pictures[index].dtype == np.float32
        assert np.array_equal(pictures[index], read_image(path).pixels)


def test_larger_pictures_lose_half_a_level_at_most(tmp_path):
    phantom = make(3, 512)
    write_dicom(phantom, tmp_path / "deep.dcm")
    Image.fromarray((phantom.stored >> 4).astype(np.uint8)).save(tmp_path / "8.png")
    paths = [tmp_path / "deep.dcm", tmp_path / "8.png"]
    pictures, _, _ = opened(tmp_path / "cache", paths, side=200)
    for index, (path, levels) in enumerate(zip(paths, (65535, 255), strict=True)):
        pixels = read_image(path).pixels
        exact = np.asarray(Image.fromarray(pixels).resize((200, 200), Image.Resampling.BILINEAR))
        assert pictures[index].shape == (200, 200)
        assert np.abs(pictures[index] - exact).max() <= 0.5 / levels + 1e-7
        # What training sees of it, next to inference on the whole file: the second reduction blurs a little.
        geometry = Preprocess(image_size=160, patch_size=16)
        through, direct = geometry.image(pictures[index]), geometry.image(pixels)
        assert np.sqrt(np.mean((through - direct) ** 2)) < 0.012
        assert abs(float(through.mean() - direct.mean())) < 1e-3
    # 12 bits are more than 8 can hold.
    assert len(np.unique(pictures[0])) > 2000 > 256 >= len(np.unique(pictures[1]))


@pytest.mark.parametrize(
    ("shape", "aspect", "expected"),
    [
        ((300, 400), 1.0, (100, 133)), ((400, 300), 1.0, (133, 100)), ((90, 400), 1.0, (90, 400)),
        ((200, 200), 2.0, (200, 100)), ((200, 200), 0.5, (100, 200)), ((600, 400), 2.0, (300, 100)),
    ],
)  # fmt: skip
def test_the_shorter_side_is_reduced_and_pixels_become_square(shape, aspect, expected):
    pixels = np.random.default_rng(0).random(shape, dtype=np.float32)
    radiograph = Radiograph(pixels=pixels, source="dicom", aspect=aspect)
    stored = stored_picture(radiograph, 100)
    assert stored.shape == expected
    assert stored.dtype == (np.float32 if shape == expected else np.uint16)
    eight = dataclasses.replace(radiograph, source="jpeg")
    assert stored_picture(eight, 100).dtype == np.uint8


def test_what_is_cached_is_not_decoded_again_and_a_changed_file_is(tmp_path):
    paths = images(tmp_path, 5)
    cache = tmp_path / "cache"
    before, _, progress = opened(cache, paths)
    assert progress == [(5, 5)]
    assert opened(cache, paths[::-1])[2] == []
    write_png(paths[2], 77)
    os.utime(paths[2], ns=(1, 10**18))
    after, _, progress = opened(cache, paths)
    assert progress == [(5, 5)]
    assert np.array_equal(after[2], read_image(paths[2]).pixels)
    assert not np.array_equal(after[2], before[2])
    for index in (0, 1, 3, 4):
        assert np.array_equal(after[index], before[index])
    assert len(list(cache.glob("*/*.pictures"))) == 2
    backwards, _, _ = opened(cache, paths[::-1])
    assert np.array_equal(backwards[0], after[4])
    assert opened(cache, [*paths, paths[0].rename(tmp_path / "moved.png")][1:])[2] == [(5, 5)]


def test_another_side_or_rendering_has_a_folder_of_its_own(tmp_path, monkeypatch):
    assert rendering_digest(64) == rendering_digest(64) != rendering_digest(65)
    paths = images(tmp_path, 2)
    opened(tmp_path / "cache", paths)
    opened(tmp_path / "cache", paths, side=48)
    assert len({rendering_digest(64, preset) for preset in PRESETS}) == len(PRESETS)
    assert rendering_digest(64, "voi") == rendering_digest(64)
    before = rendering_digest(64)
    monkeypatch.setattr("mcr_infer.images.rendering.PERCENTILES", (2.0, 98.0))
    assert rendering_digest(64) != before
    assert opened(tmp_path / "cache", paths)[2] == [(2, 2)]
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_pictures_are_rendered_by_the_preset_of_the_tower(tmp_path):
    path = tmp_path / "5.dcm"
    write_dicom(make(5, 64), path)
    for preset in PRESETS:
        for _ in range(2):  # decoded, then from the cache
            pictures, _, _ = opened(tmp_path / "cache", [path], rendering=preset)
            assert np.array_equal(pictures[0], read_image(path, rendering=preset).pixels)
    assert len(list((tmp_path / "cache").iterdir())) == len(PRESETS)


def test_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "SHARD", 3)
    paths = images(tmp_path, 8, size=32)
    pictures, _, progress = opened(tmp_path / "cache", paths)
    assert progress == [(3, 8), (6, 8), (8, 8)]
    assert len(list(tmp_path.glob("cache/*/*.pictures"))) == 3
    assert len(list(tmp_path.glob("cache/*/*"))) == 6
    some = pickle.loads(pickle.dumps(pictures)).taken(np.array([7, 0, 4]))
    assert len(some) == 3
    for index, seed in enumerate((7, 0, 4)):
        assert np.array_equal(some[index], read_image(paths[seed]).pixels)


def test_failures_are_values_and_are_tried_again(tmp_path):
    paths = images(tmp_path, 4)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:500])
    paths[3].write_bytes(b"DICM or not")
    pictures, failures, _ = opened(tmp_path / "cache", paths, workers=1)
    assert [(failure.place, failure.reason) for failure in failures] == [(1, "truncated"), (3, "not_dicom")]
    with pytest.raises(KeyError):
        pictures[1]
    assert np.array_equal(pictures[2], read_image(paths[2]).pixels)
    assert opened(tmp_path / "cache", paths)[2] == [(4, 4)]
    paths[1].write_bytes(whole)
    pictures, failures, _ = opened(tmp_path / "cache", paths)
    assert [failure.place for failure in failures] == [3]
    assert np.array_equal(pictures[1], read_image(paths[1]).pixels)


def test_a_cache_of_failures_alone(tmp_path):
    (tmp_path / "0.png").write_bytes(b"nothing")
    pictures, failures, _ = opened(tmp_path / "cache", [tmp_path / "0.png"])
    assert (len(pictures), len(failures)) == (1, 1)
    with pytest.raises(KeyError):
        pictures[0]
    assert len(opened(tmp_path / "cache", [])[0]) == 0


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("end", "damage"),
    [
        ("pictures", lambda path: flip(path, 64 * 64 + 1000)),  # a pixel of the second picture
        ("pictures", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("pictures", lambda path: path.write_bytes(b"")),
        ("pictures", lambda path: path.unlink()),
        ("index", lambda path: flip(path, 36)),  # where the first picture begins
        ("index", lambda path: flip(path, 3)),  # the name of the first picture
        ("index", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    ],
)
def test_a_damaged_shard_is_noticed_and_made_again(tmp_path, end, damage):
    paths, told = images(tmp_path, 3), []
    opened(tmp_path / "cache", paths, say=told.append)
    assert told == []
    (index,), (pictures,) = tmp_path.glob("cache/*/*.index"), tmp_path.glob("cache/*/*.pictures")
    whole = index.read_bytes(), pictures.read_bytes()
    damage(pictures.with_suffix(f".{end}"))
    again, failures, progress = opened(tmp_path / "cache", paths, say=told.append)
    assert told[0] == "checking 1 cached shards"
    assert told[1:] == [f"{pictures} is not what was written; the disk may be failing. What was in it is decoded again"]
    assert (failures, progress) == ([], [(3, 3)])
    assert (index.read_bytes(), pictures.read_bytes()) == whole
    for seed, path in enumerate(paths):
        assert np.array_equal(again[seed], read_image(path).pixels)
    assert opened(tmp_path / "cache", paths, say=told.append)[2] == []
    assert told[2:] == ["checking 1 cached shards"]


def test_only_shards_that_are_asked_for_are_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "SHARD", 2)
    paths, told = images(tmp_path, 6, size=32), []
    opened(tmp_path / "cache", paths)
    shards = {}
    for path in tmp_path.glob("cache/*/*.pictures"):
        flip(path, 5)
        shards[path.stem] = path.stat().st_mtime_ns
    pictures, _, progress = opened(tmp_path / "cache", paths[2:4], say=told.append)
    assert told[0] == "checking 1 cached shards"
    assert progress == [(2, 2)]
    assert np.array_equal(pictures[0], read_image(paths[2]).pixels)
    made = [path for path in tmp_path.glob("cache/*/*.pictures") if path.stat().st_mtime_ns != shards[path.stem]]
    assert len(made) == 1
    assert made[0].stem in told[1]


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    paths = images(tmp_path, 1)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match=r"pictures cannot be kept in .*make room or set data\.cache"):
        opened(tmp_path / "cache", paths)


# ---- Processes that die ---------------------------------------------------------------------------------------------


def read_or_die(path: str) -> Radiograph:
    if Path(path).read_bytes() == b"deadly":
        os._exit(9)
    return read_image(path)


@pytest.mark.slow
def test_a_decoder_that_dies_costs_its_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "SHARD", 3)
    paths = images(tmp_path, 7, size=32)
    paths[1].write_bytes(b"deadly")
    pictures, failures, progress = opened(tmp_path / "cache", paths, workers=1, read=read_or_die)
    assert [(failure.place, failure.reason) for failure in failures] == [(1, "decoder_died")]
    assert progress[-1] == (7, 7)
    for seed in (0, 2, 3, 4, 5, 6):
        assert np.array_equal(pictures[seed], read_image(paths[seed]).pixels)
    assert list(tmp_path.glob("cache/*/.*")) == []


def read_or_hang(path: str) -> Radiograph:
    content = Path(path).read_bytes()
    if content == b"a while":
        time.sleep(1.5)
        raise BrokenImageError("it took a while", reason="corrupt")
    if content == b"endless":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        time.sleep(3600)
    return read_image(path)


@pytest.mark.slow
def test_a_decoder_that_hangs_costs_its_file_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "SHARD", 3)
    paths = images(tmp_path, 9, size=32)
    for place in (1, 2, 7):
        paths[place].write_bytes(b"endless")
    told: list[str] = []
    pictures, failures, progress = opened(
        tmp_path / "cache", paths, workers=2, read=read_or_hang, seconds=3.0, say=told.append
    )
    assert [(failure.place, failure.reason) for failure in failures] == [
        (1, "decoder_hung"), (2, "decoder_hung"), (7, "decoder_hung"),
    ]  # fmt: skip
    assert failures[0].error == "no result within 3 seconds, and the process that decoded it was killed"
    assert progress[-1] == (9, 9)
    for seed in (0, 3, 4, 5, 6, 8):
        assert np.array_equal(pictures[seed], read_image(paths[seed]).pixels)
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_decoder_that_hangs_later_than_another_is_killed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_cache, "SHARD", 3)
    paths = images(tmp_path, 6, size=32)
    paths[1].write_bytes(b"endless")
    paths[3].write_bytes(b"a while")
    paths[4].write_bytes(b"endless")  # still within its time when the other one is killed
    _, failures, _ = opened(tmp_path / "cache", paths, workers=2, read=read_or_hang, seconds=3.0)
    assert [(failure.place, failure.reason) for failure in failures] == [
        (1, "decoder_hung"), (3, "corrupt"), (4, "decoder_hung"),
    ]  # fmt: skip
    assert multiprocessing.active_children() == []


class Slow:
    """Takes less than the limit an item, and more for three of them and for the shard; what it made is a line of a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def item(self, item: tuple[int, str, str]) -> str:
        time.sleep(1.2)
        return item[2]

    def finish(self, job: Job, made: list[str]) -> None:
        time.sleep(3.5)
        (self.folder / job.name).write_text(" ".join(made))


@pytest.mark.slow
def test_many_slow_items_and_slow_storage_are_no_hanging_decoder(tmp_path):
    job = Job("all", ((0, "", "a"), (1, "", "b"), (2, "", "c")))
    assert list(run_jobs(Slow(tmp_path), [job], workers=1, seconds=3.0)) == [(job, ())]
    assert (tmp_path / "all").read_text() == "a b c"


class Doomed(Slow):
    def finish(self, _: Job, __: list[str]) -> None:
        os._exit(9)


@pytest.mark.slow
def test_processes_that_die_at_no_item_are_no_fault_of_a_file(tmp_path):
    with pytest.raises(ConfigError, match=r"die although they are at no picture.*set run\.workers lower"):
        list(run_jobs(Doomed(tmp_path), [Job("all", ((0, "", "a"),))], workers=1))


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_finished_shard(tmp_path):
    paths = images(tmp_path, 24, size=128)
    script = tmp_path / "decode.py"
    script.write_text(
        textwrap.dedent("""
        import signal, sys
        from pathlib import Path
        import numpy as np
        from train.data import picture_cache
        from train.data.strings import Strings
        picture_cache.SHARD = 2
        folder, count, most = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
        def told(*_):
            if len(list(folder.glob("cache/*/*.index"))) >= most:
                signal.pause()  # it is killed before it has made all
        paths = [folder / f"{seed}.png" for seed in range(count)]
        status = [path.stat() for path in paths]
        picture_cache.open_pictures(
            folder / "cache", Strings.of(map(str, paths)), np.array([s.st_size for s in status]),
            np.array([s.st_mtime_ns for s in status]), side=64, workers=0, progress=told, say=print)
        """)
    )
    finished = 0
    for wanted in (1, 6):
        job = subprocess.Popen([sys.executable, str(script), str(tmp_path), "24", str(wanted + 3)])
        while len(list(tmp_path.glob("cache/*/*.index"))) < wanted:
            assert job.poll() is None
            time.sleep(0.001)
        job.kill()
        job.wait()
        shards = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cache/*/*.index")}
        assert len(shards) >= max(wanted, finished)
        finished = len(shards)
    pictures, failures, progress = opened(tmp_path / "cache", paths)
    assert failures == []
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    assert all(done > 2 * finished for done, _ in progress)
    for index, path in enumerate(paths):
        assert np.array_equal(pictures[index], read_image_reduced(path))


def read_image_reduced(path: Path) -> np.ndarray:
    return stored_picture(read_image(path), SIDE).astype(np.float32) / np.float32(255)


def test_what_killed_workers_left_is_swept_after_a_day(tmp_path):
    paths = images(tmp_path, 1, size=32)
    opened(tmp_path / "cache", paths)
    (folder,) = (tmp_path / "cache").iterdir()
    for name, age in (("old", 90_000), ("new", 60)):
        part = folder / f".{name}.1.part"
        part.write_bytes(b"half")
        os.utime(part, (time.time() - age,) * 2)
    opened(tmp_path / "cache", paths)
    assert [path.name for path in folder.glob(".*")] == [".new.1.part"]
