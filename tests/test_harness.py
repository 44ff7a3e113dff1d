"""How benchmarks measure: rounds in turn, intervals that hold what they should, a look at the machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import harness
from benchmarks.harness import Gauge, for_seconds, in_turn, measure, quantile, ratio
from benchmarks.part import Measure
from benchmarks.roofline import Architecture


def test_a_measure_is_the_median_with_an_interval():
    assert measure([3.0]) == Measure(value=3.0)
    assert measure([1.0, 2.0]) == Measure(value=1.5)
    found = measure([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found.value == 3.0
    assert found.low is not None
    assert found.high is not None
    assert 1.0 <= found.low <= 3.0 <= found.high <= 100.0
    assert measure([1.0, 2.0, 3.0, 4.0, 100.0]) == found  # the seed is fixed


def test_the_interval_covers_the_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(200):
        found = measure(rng.normal(5.0, 1.0, size=25).tolist())
        inside += found.low <= 5.0 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_a_percentile_wants_as_many_values_as_it_has_parts():
    values = [float(one) for one in range(1, 102)]
    found = quantile(values, 0.99)
    assert found.value == 100.0
    assert found.low is not None
    assert found.high is not None
    assert 95.0 <= found.low < 100.0 < found.high <= 101.0
    with pytest.raises(ValueError, match="50 values have no 99th percentile, 100 would"):
        quantile(values[:50], 0.99)


def test_ratios_are_of_pairs():
    """A machine that gets three times as slow half-way moves both; the ratio of each pair is the same."""
    slow = [1.0, 1.0, 3.0, 3.0]
    assert ratio([2 * one for one in slow], slow) == Measure(value=2.0, low=2.0, high=2.0)


def test_ways_run_in_turn_after_a_warm_up():
    seen: list[str] = []
    found = in_turn({name: lambda name=name: seen.append(name) for name in "abc"}, rounds=3)
    assert "".join(seen) == "abc" + "abc" + "bca" + "cab"
    assert {name: len(timing.wall) for name, timing in found.items()} == {"a": 3, "b": 3, "c": 3}
    waited: list[int] = []
    in_turn({"a": lambda: None}, rounds=2, synchronise=lambda: waited.append(1))
    assert len(waited) == 5  # after the warm-up, and before and after each call


def test_a_way_with_a_clock_of_its_own_is_timed_by_it():
    made: list[int] = []

    def clock(call):
        call()
        return 42.0

    found = in_turn({"a": lambda: made.append(1), "b": lambda: made.append(2)}, rounds=2, clocks={"a": clock})
    assert found["a"].wall == [42.0, 42.0]
    assert 42.0 not in found["b"].wall
    assert made == [1, 2, 1, 2, 2, 1]  # the warm-up and two rounds: each call once


def test_calls_are_made_for_some_time():
    assert len(for_seconds(lambda: None, 0.0)) == 3
    times = for_seconds(lambda: time.sleep(0.005), 0.05)
    assert 3 <= len(times) <= 11
    assert min(times) >= 0.005


def test_a_noisy_machine_is_flagged(monkeypatch: pytest.MonkeyPatch):
    seconds = iter([{"user": 0.0, "idle": 0.0, "steal": 0.0}, {"user": 60.0, "idle": 30.0, "steal": 10.0}])
    monkeypatch.setattr(harness, "_processor_times", lambda: next(seconds))
    own = iter([0.0, 60.0])
    monkeypatch.setattr(harness, "_own_seconds", lambda: next(own))
    with Gauge() as gauge:
        pass
    gauge.seconds = [1.0] * 20
    assert gauge.flags() == ("the host took 10% of the processor time away (limit 2%)",)
    assert gauge.pace_ms == 1000.0
    gauge.seconds = [1.0] * 10 + [2.0] * 10
    assert gauge.flags()[0].startswith("noisy machine: a fixed piece of work varied by 67%")


def test_what_other_programs_take_is_told_from_our_own_work(monkeypatch: pytest.MonkeyPatch):
    seconds = iter([{"user": 0.0, "idle": 0.0, "steal": 0.0}, {"user": 90.0, "idle": 10.0, "steal": 0.0}])
    monkeypatch.setattr(harness, "_processor_times", lambda: next(seconds))
    own = iter([5.0, 65.0])
    monkeypatch.setattr(harness, "_own_seconds", lambda: next(own))
    with Gauge() as gauge:
        pass
    gauge.seconds = [1.0] * 20
    assert gauge.others == pytest.approx(0.3)
    assert gauge.flags() == ("other programs took 30% of the processor time (limit 5%)",)


def test_own_work_counts_children_that_have_ended():
    before = harness._own_seconds()
    spin = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    assert harness._own_seconds() - before >= 0.3


def test_times_are_those_of_the_cores_that_may_be_used(tmp_path: Path):
    core = min(os.sched_getaffinity(0))
    stat = tmp_path / "stat"
    stat.write_text(f"cpu  900 0 0 0\ncpu{core} 300 0 100 500 0 0 0 100 0 0\ncpu9999 700 0 0 0\nintr 5\n")
    found = harness._processor_times(stat)
    tick = 1 / os.sysconf("SC_CLK_TCK")
    assert found["user"] == pytest.approx(300 * tick)
    assert sum(found.values()) == pytest.approx(1000 * tick)
    assert sum(harness._processor_times(tmp_path / "none").values()) == 0


def test_operations_of_a_vit_b_16():
    """17.6 billion multiply-adds is what ViT-B/16 is known for at 224 pixels and 197 tokens, its head left out."""
    vit = Architecture(name="ViT-B/16", width=768, depth=12, mlp=3072, patch=768)
    assert vit.operations(197) / 2e9 == pytest.approx(17.6, rel=0.01)
    assert vit.operations(197, batch=3) == 3 * vit.operations(197)
    products = sum(2 * m * k * n for m, k, n in vit.products(197)) * 12
    assert products / vit.operations(197) == pytest.approx(0.95, abs=0.03)
