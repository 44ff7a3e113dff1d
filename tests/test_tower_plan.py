"""The calibration of the image tower: short, remembered for this machine and bundle alone, and of no effect on vectors."""

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mcr_infer import Bundle, ImageEncoder
from mcr_infer.errors import BackendError, BundleError, ConfigError
from mcr_infer.inference import autotune as tuning
from mcr_infer.inference.autotune import BATCHES, SECONDS, TRUSTED_SECONDS, autotune, cpu_model, runtime_version
from tiny import tiny_bundle


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "_SLOT", 0.005)
    return tmp_path / "cache" / "mcr-infer" / "plans"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def test_a_plan_is_measured_once_and_remembered_privately(bundle: Bundle, memory: Path):
    plan = autotune(bundle, device="cpu", cores=2)
    assert (plan.remembered, plan.batch_size in BATCHES) == (False, True)
    assert (plan.threads, plan.intra_op_threads) in {(2, 1), (1, 2)}
    assert plan.images_per_second > 100
    again = autotune(bundle, device="cpu", cores=2)
    assert again == replace(plan, remembered=True)
    (record,) = memory.iterdir()
    assert (record.stat().st_mode & 0o777, memory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert json.loads(record.read_text())["key"] == {
        "fingerprint": bundle.fingerprint, "precision": "fp32", "budget": 1.0, "device": "cpu", "cores": 2,
        "threads": None, "batch_size": None, "cpu": cpu_model(), "runtime": runtime_version(),
    }  # fmt: skip


def test_every_part_of_the_key_has_a_plan_of_its_own(bundle: Bundle, memory: Path, monkeypatch: pytest.MonkeyPatch):
    asked = {"device": "cpu", "cores": 1}
    autotune(bundle, **asked)
    for change in ({"budget": 0.5}, {"cores": 2}, {"threads": 2}, {"batch_size": 3}):
        assert not autotune(bundle, **(asked | change)).remembered
    assert not autotune(replace(bundle, fingerprint="0" * 64), **asked).remembered
    for name in ("cpu_model", "runtime_version"):
        monkeypatch.setattr(tuning, name, lambda: "another")
        assert not autotune(bundle, **asked).remembered
        monkeypatch.undo()
        monkeypatch.setenv("XDG_CACHE_HOME", str(memory.parents[1]))
    assert autotune(bundle, **asked).remembered
    assert len(list(memory.iterdir())) == 8


def test_auto_is_the_device_that_the_tower_gets(bundle: Bundle, memory: Path):
    autotune(bundle, cores=1)
    assert json.loads(next(memory.iterdir()).read_text())["key"]["device"] == "cpu"
    assert autotune(bundle, device="cpu", cores=1).remembered


def test_what_the_user_says_stands(bundle: Bundle):
    plan = autotune(bundle, device="cpu", cores=4, batch_size=3)
    assert plan.batch_size == 3
    assert plan.threads * plan.intra_op_threads == 4
    plan = autotune(bundle, device="cpu", cores=4, threads=2)
    assert (plan.threads, plan.intra_op_threads) == (2, 2)
    assert autotune(bundle, device="cpu", cores=1, threads=3, batch_size=5).threads == 3


GOOD = {"threads": 1, "intra_op_threads": 1, "batch_size": 1, "images_per_second": 1.0}


def write(record: Path, **changes: object) -> None:
    record.write_text(json.dumps(json.loads(record.read_text()) | changes))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: record.write_bytes(b"{"),
        lambda record: record.chmod(0o602),
        lambda record: write(record, format_version=2),
        lambda record: write(record, key={}),
        lambda record: write(record, at=int(time.time()) - TRUSTED_SECONDS - 5),
        lambda record: write(record, at=int(time.time()) + 100),
        lambda record: write(record, plan=[]),
        lambda record: write(record, plan=GOOD | {"threads": 0}),
        lambda record: write(record, plan=GOOD | {"threads": True}),
        lambda record: write(record, plan=GOOD | {"batch_size": None}),
        lambda record: write(record, plan=GOOD | {"images_per_second": "9"}),
    ],
)
def test_a_record_that_is_old_damaged_or_open_to_others_is_measured_again(bundle: Bundle, memory: Path, spoil):
    autotune(bundle, device="cpu", cores=1)
    spoil(next(memory.iterdir()))
    assert not autotune(bundle, device="cpu", cores=1).remembered
    assert autotune(bundle, device="cpu", cores=1).remembered


def test_a_cache_that_cannot_be_written_is_a_note_and_no_error(bundle: Bundle, tmp_path: Path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    told: list[str] = []
    for _ in range(2):
        assert not autotune(bundle, device="cpu", cores=1, notify=told.append).remembered
    assert len(told) == 2
    assert "cannot be remembered in" in told[0]
    assert "(Not a directory)" in told[0]
    monkeypatch.setattr(tuning, "cache_folder", lambda _: None)
    assert not autotune(bundle, device="cpu", cores=1, notify=told.append).remembered
    assert "(no home folder)" in told[2]
    assert not autotune(bundle, device="cpu", cores=1).remembered  # nobody listens


class Clock:
    """Time that passes only where somebody sleeps: in each thread of a pool by itself, in the main thread when all ended."""

    def __init__(self) -> None:
        self._now, self._threads, self._lock = 0.0, dict[int, float](), threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            if threading.current_thread() is not threading.main_thread():
                return self._threads.setdefault(threading.get_ident(), self._now)
            self._now = max([self._now, *self._threads.values()])
            self._threads.clear()
            return self._now

    def sleep(self, seconds: float) -> None:
        now = self()
        with self._lock:
            if threading.current_thread() is threading.main_thread():
                self._now = now + seconds
            else:
                self._threads[threading.get_ident()] = now + seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the calibration reads and a slow tower sleeps by."""
    clock = Clock()
    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=clock, time=time.time))
    monkeypatch.setattr(tuning, "ImageEncoder", SlowEncoder)
    monkeypatch.setattr(SlowEncoder, "sleep", clock.sleep, raising=False)
    return clock


class SlowEncoder:
    """A tower that takes a given time a radiograph, and half of it to open."""

    seconds = 1.0
    largest = 1000
    sleep: Callable[[float], None]

    def __init__(self, _: Bundle, **_how: object) -> None:
        self.sleep(self.seconds / 2)

    def encode(self, batch: list) -> None:
        if len(batch) > self.largest:
            raise BackendError("the profile of this engine ends before that")
        self.sleep(self.seconds * len(batch))


def test_a_slow_tower_is_measured_less_and_never_for_long(bundle: Bundle, clock: Clock):
    plan = autotune(bundle, device="cpu", cores=2)
    assert 0 < clock() < SECONDS + 0.5
    assert (plan.threads, plan.batch_size) == (2, 1)
    assert plan.images_per_second == pytest.approx(2.0)


def test_batches_that_an_engine_refuses_are_passed_over(bundle: Bundle, clock: Clock, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SlowEncoder, "seconds", 0.001)
    monkeypatch.setattr(SlowEncoder, "largest", 32)
    plan = autotune(bundle, device="tensorrt", cores=2)
    assert plan.threads == 1
    assert plan.batch_size in (8, 16, 32)
    with pytest.raises(BackendError, match="the profile of this engine"):
        autotune(bundle, device="tensorrt", cores=2, batch_size=33)


def test_what_cannot_run_is_refused_as_by_the_run_itself(bundle: Bundle):
    with pytest.raises(ConfigError, match=r"in \(0, 1\]; got 2"):
        autotune(bundle, device="cpu", cores=1, budget=2.0)
    with pytest.raises(BundleError, match="no towers in int8"):
        autotune(bundle, device="cpu", cores=1, precision="int8")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_plan_decides_about_speed_and_not_about_vectors(precision: str):
    shipped = Bundle.open()
    rng = np.random.default_rng(4)
    items = [shipped.preprocess.patches(rng.random((160, 160), dtype=np.float32), budget=0.35) for _ in range(16)]
    found = []
    for threads, size in ((1, 1), (1, 16), (2, 4), (2, 8)):
        encoder = ImageEncoder(shipped, device="cpu", precision=precision, threads=threads)
        found.append(np.concatenate([encoder.encode(items[at : at + size]) for at in range(0, 16, size)]))
    for other in found[1:]:
        if precision == "int8":  # one item a call
            assert np.array_equal(found[0], other)
        assert (found[0] * other).sum(axis=1).min() >= 0.99999


def test_threads_may_share_one_encoder_and_each_gets_its_own_vectors():
    shipped = Bundle.open()
    rng = np.random.default_rng(5)
    items = [shipped.preprocess.patches(rng.random((160, 160), dtype=np.float32), budget=0.25) for _ in range(24)]
    encoder = ImageEncoder(shipped, device="cpu", precision="int8", threads=1)
    alone = [encoder.encode([one]) for one in items]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: encoder.encode([one]), items))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
