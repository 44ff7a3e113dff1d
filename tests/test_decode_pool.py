"""Whatever a file does to the process that decodes it costs that file alone. The processes are real, the codec is not."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import codecs_that_fail as codecs
import dicoms
from mcr_infer.errors import BrokenImageError, DecodingError, ImageError
from mcr_infer.images import read_image
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.pipeline.decoding import DecodePool, Limits
from mcr_infer.pipeline.decoding.messages import Decoded, failure_from_message, from_bytes
from mcr_infer.sources import PlainFile

PREPROCESS = Preprocess(image_size=32, patch_size=8)
FAST = Limits(seconds=3.0)
"""Short for a decoder that hangs, and long for one that decodes 40 x 48 pixels on a busy machine."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for files, with the codec installed for workers to come."""
    codecs.install(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("CODEC_LOG", str(tmp_path / "log"))
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


def pool(**changes: object) -> DecodePool:
    return DecodePool(PREPROCESS, **({"workers": 2, "slots": 8} | changes))


def source(path: Path) -> PlainFile:
    return PlainFile(path=str(path))


def children(pid: int | str = "self") -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def test_patches_are_those_of_this_process(tmp_path: Path):
    stored = dicoms.picture()
    paths = [
        dicoms.write(tmp_path / f"{n}.dcm", np.roll(stored, n, axis=0), SOPInstanceUID=f"1.2.{n}") for n in range(6)
    ]
    with pool() as decoder:
        for number, future in enumerate([decoder.submit(source(path)) for path in paths]):
            decoded = future.result(timeout=60)
            radiograph = read_image(paths[number])
            patches, positions = PREPROCESS.patches(radiograph.pixels)
            assert np.array_equal(decoder.patches(decoded.slot), patches)
            assert np.array_equal(decoder.positions(decoded.slot), positions)
            assert (decoded.id, decoded.study_uid, decoded.reduction) == (f"1.2.{number}", "1.2.3", 1)
            assert decoded.metadata["view"] == "PA"
            assert decoded.metadata["study_year"] == 2019
            decoder.release(decoded.slot)


def test_more_jobs_than_slots_wait_for_their_turn(tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    with pool(slots=1) as decoder:
        futures = [decoder.submit(source(path)) for _ in range(3)]
        first = futures[0].result(timeout=60)
        time.sleep(0.2)
        assert not futures[1].done()
        decoder.release(first.slot)
        second = futures[1].result(timeout=60)
        assert second.slot == first.slot


def test_failures_come_back_as_they_were_raised(tmp_path: Path):
    (tmp_path / "empty.dcm").touch()
    with pool() as decoder, pytest.raises(BrokenImageError, match=r"empty \(0 bytes\)") as caught:
        decoder.submit(source(tmp_path / "empty.dcm")).result(timeout=60)
    assert caught.value.reason == "empty_file"


def test_a_file_that_kills_its_decoder_twice_fails_alone(folder: Path):
    bad, good = codecs.write_command(folder / "bad.dcm", "die"), codecs.write_command(folder / "good.dcm", "fine")
    with pool() as decoder:
        futures = [decoder.submit(source(path)) for path in (good, bad, good, good)]
        for number in (0, 2, 3):
            assert futures[number].result(timeout=60).id
        with pytest.raises(
            BrokenImageError, match=r"died \(signal 11\), twice, the second time with nothing else"
        ) as caught:
            futures[1].result(timeout=60)
        assert caught.value.reason == "decoder_died"
        assert decoder.deaths == 2


def test_exit_status_of_a_worker_is_told(folder: Path):
    bad = codecs.write_command(folder / "bad.dcm", "leave")
    with pool() as decoder, pytest.raises(BrokenImageError, match=r"died \(exit status 7\), twice"):
        decoder.submit(source(bad)).result(timeout=60)


def test_the_second_try_is_alone(folder: Path, tmp_path: Path):
    once = codecs.write_command(folder / "once.dcm", f"die-once {tmp_path / 'mark'}")
    slow = codecs.write_command(folder / "slow.dcm", "sleep")
    with pool(workers=3) as decoder:
        futures = [decoder.submit(source(path)) for path in (slow, once, slow, slow, slow)]
        assert all(future.result(timeout=60).id for future in futures)
        assert decoder.deaths == 1
    spans = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    (begun, ended) = next((float(a), float(b)) for what, a, b in spans if what == "die-once")
    others = [(float(a), float(b)) for what, a, b in spans if what == "sleep"]
    assert len(others) == 4
    assert all(b <= begun or a >= ended for a, b in others)


def test_a_decoder_that_hangs_is_ended(folder: Path):
    bad, good = codecs.write_command(folder / "bad.dcm", "hang"), codecs.write_command(folder / "good.dcm", "fine")
    with pool(limits=FAST) as decoder:
        futures = [decoder.submit(source(path)) for path in (bad, good)]
        assert futures[1].result(timeout=60).id
        with pytest.raises(BrokenImageError, match="no result within 3 seconds, twice") as caught:
            futures[0].result(timeout=60)
        assert caught.value.reason == "decoder_hung"


def test_a_decoder_gets_no_more_memory_than_it_may_have(folder: Path):
    bad, good = (
        codecs.write_command(folder / "bad.dcm", f"ask {1 << 30}"),
        codecs.write_command(folder / "good.dcm", "fine"),
    )
    with pool(limits=Limits(memory_bytes=256 << 20)) as decoder:
        futures = [decoder.submit(source(path)) for path in (bad, good)]
        with pytest.raises(BrokenImageError, match="more than the 256 MiB that decoding may take") as caught:
            futures[0].result(timeout=60)
        assert caught.value.reason == "decoder_memory"
        assert futures[1].result(timeout=60).id
        assert decoder.deaths == 0


def test_a_file_that_changes_while_it_is_read_is_not_taken(folder: Path):
    path = folder / "moving.dcm"
    codecs.write_command(path, f"touch {path}")
    stamp = source(path).stamp()
    with pool() as decoder, pytest.raises(BrokenImageError, match="changed while it was read") as caught:
        decoder.submit(source(path), stamp=(stamp.size, stamp.mtime_ns)).result(timeout=60)
    assert caught.value.reason == "changed"


def test_an_idle_worker_that_somebody_kills_is_replaced(folder: Path):
    path = codecs.write_command(folder / "good.dcm", "fine")
    with pool(workers=1) as decoder:
        assert decoder.submit(source(path)).result(timeout=60).id
        (worker,) = children()
        os.kill(worker, signal.SIGKILL)
        assert decoder.submit(source(path)).result(timeout=60).id
        assert children() != [worker]


def test_bytes_that_only_this_process_can_read_are_handed_over(tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())

    class Held:
        path = "dicomweb://pacs/instances/1"
        opened_by = "parent"

        def open(self) -> BytesIO:
            return BytesIO((tmp_path / "0.dcm").read_bytes())

    class Refused(Held):
        def open(self) -> BytesIO:
            raise BrokenImageError("the server does not have it", reason="missing")

    with pool() as decoder:
        here, there = decoder.submit(Held()).result(timeout=60), decoder.submit(source(path)).result(timeout=60)
        assert here.digest == there.digest
        with pytest.raises(BrokenImageError, match="does not have it"):
            decoder.submit(Refused()).result(timeout=60)


def test_cancelled_jobs_say_so_and_nothing_is_waited_for(folder: Path, tmp_path: Path):
    mark = tmp_path / "hangs"
    bad, good = (
        codecs.write_command(folder / "bad.dcm", f"hang {mark}"),
        codecs.write_command(folder / "good.dcm", "fine"),
    )
    with pool(workers=1) as decoder:
        done = decoder.submit(source(good))
        decoded = done.result(timeout=60)
        futures = [decoder.submit(source(path)) for path in (bad, good)]
        while not mark.exists():
            time.sleep(0.01)
        decoder.cancel()
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(timeout=60)
        with pytest.raises(CancelledError):
            decoder.submit(source(good)).result(timeout=60)
        assert decoder.patches(decoded.slot).any()
    assert children() == []


def test_a_signal_handler_may_cancel_in_the_middle_of_a_call(tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    with pool() as decoder:

        def interrupted() -> None:
            with decoder._lock:  # as within submit() or release()
                decoder.cancel()

        thread = threading.Thread(target=interrupted, daemon=True)
        thread.start()
        thread.join(timeout=60)
        assert not thread.is_alive()
        with pytest.raises(CancelledError):
            decoder.submit(source(path)).result(timeout=60)


def test_a_server_that_does_not_answer_is_not_waited_for():
    asked, let_go, answered = threading.Event(), threading.Event(), []

    class Silent:
        path = "dicomweb://pacs/instances/1"
        opened_by = "parent"

        def open(self) -> BytesIO:
            asked.set()
            let_go.wait()
            answered.append(self)
            raise BrokenImageError("too late", reason="missing")

    with pool() as decoder:
        futures = [decoder.submit(Silent()) for _ in range(20)]
        assert asked.wait(timeout=60)
        decoder.cancel()
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(timeout=60)
    assert answered == []
    let_go.set()


def test_workers_that_cannot_begin_are_an_error_and_no_endless_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pool() as decoder:
        for _ in range(2):
            with pytest.raises(DecodingError, match=r"ends as soon as it begins \(exit status 1\)"):
                decoder.submit(source(path)).result(timeout=60)


PARENT = """
import sys, time
from mcr_infer.pipeline.decoding import DecodePool
from mcr_infer.inference.preprocess import Preprocess
from mcr_infer.sources import PlainFile

pool = DecodePool(Preprocess(image_size=32, patch_size=8), workers=2, slots=4)
hung, done = [pool.submit(PlainFile(path=path)) for path in sys.argv[1:]]
done.result()
print("ready", flush=True)
hung.result()
"""


def test_no_worker_outlives_the_process_that_started_it(folder: Path, tmp_path: Path):
    bad, good = codecs.write_command(folder / "bad.dcm", "hang"), codecs.write_command(folder / "good.dcm", "fine")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(bad), str(good)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        workers = children(parent.pid)
        parent.kill()
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("packet", [b"\x80\x04K\x01.", b"[1]", b"{", b"null"])
def test_what_is_no_message_is_not_believed(packet: bytes):
    with pytest.raises(DecodingError, match="something other than a message"):
        from_bytes(packet)


def test_answers_are_looked_at_before_they_are_used():
    answer = {"slot": 0, "id": "1.2", "digest": "0", "study_uid": None, "series_uid": None, "patient_key": None,
              "reduction": 1, "metadata": {}, "notes": ["cut"], "seconds": {}, "peak_mib": 70}  # fmt: skip
    assert Decoded.from_message(answer).id == "1.2"
    with pytest.raises(DecodingError, match="slot is no int"):
        Decoded.from_message(answer | {"slot": "0"})
    with pytest.raises(DecodingError, match="without 'digest'"):
        Decoded.from_message({name: value for name, value in answer.items() if name != "digest"})
    for notes in ("cut", [1], ["\x1b[2J"]):
        with pytest.raises(DecodingError, match="notes are no lines of text"):
            Decoded.from_message(answer | {"notes": notes})
    with pytest.raises(DecodingError, match="patient_key is no key"):
        Decoded.from_message(answer | {"patient_key": "4711"})
    with pytest.raises(DecodingError, match="unknown kind"):
        failure_from_message({"failed": "SystemExit", "reason": "x", "error": "y"})
    error = failure_from_message({"failed": "BrokenImageError", "reason": "cut", "error": "it is cut"})
    assert isinstance(error, ImageError)
    assert (str(error), error.reason) == ("it is cut", "cut")


def test_limits_are_valid_from_birth():
    with pytest.raises(Exception, match="greater than 0"):
        Limits(seconds=0)
