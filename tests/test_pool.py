"""The shared thread pool belongs to the process, so each of these is one of its own."""

import subprocess
import sys

import pytest

OPEN = """
import threading, numpy as np
from mcr_infer.inference.bundle import Bundle
from mcr_infer.inference.open_tower import open_tower
from mcr_infer.errors import BackendError
bundle = Bundle.open()
def opened(side, purpose, threads=2):
    return open_tower(bundle, side, device="cpu", purpose=purpose, threads=threads)
golden = bundle.golden()
def holds(tower, side):
    got = tower.run({name: golden[f"{side}.{name}"] for name in tower.inputs}, ["embedding"])["embedding"]
    return bool(np.abs(got - golden[f"{side}.embedding"]).max() < 1e-4)
def refusal(*arguments):
    try:
        opened(*arguments)
    except BackendError as error:
        return str(error)
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", OPEN + code], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_towers_of_a_server_answer_at_once_with_one_set_of_threads():
    counts = run(
        """
import os
def threads(): return len(os.listdir("/proc/self/task"))
image = opened("image", "server", 4)
before = threads()
text = opened("text", "server", 4)
print(threads() - before, text._session.get_session_options().use_per_session_threads)
right = []
def ask(tower, side): right.append(all(holds(tower, side) for _ in range(5)))
both = [threading.Thread(target=ask, args=pair) for pair in ((image, "image"), (text, "text")) * 2]
[one.start() for one in both]; [one.join() for one in both]
print(right)
"""
    )
    assert counts.splitlines() == ["0 False", "[True, True, True, True]"]


def test_towers_that_were_open_before_keep_their_threads_and_go_on():
    assert run('first = opened("text", "bulk"); opened("image", "server"); print(holds(first, "text"))') == "True\n"


@pytest.mark.parametrize("purpose", ["bulk", "one_shot"])
def test_a_tower_with_threads_of_its_own_is_refused_beside_the_pool(purpose: str):
    said = run(f'opened("image", "server"); print(refusal("text", "{purpose}"))')
    assert said == (
        "the towers of this process share one pool of 2 threads: open this one with purpose 'server', too, "
        f"got '{purpose}'\n"
    )


def test_a_pool_of_another_size_is_refused():
    said = run('opened("image", "server"); print(refusal("text", "server", 3)); opened("text", "server", 2)')
    assert "share one pool of 2 threads, made by the first with purpose 'server'; got threads 3" in said


def test_a_pool_that_somebody_else_made_is_said():
    said = run('import onnxruntime; onnxruntime.set_global_thread_pool_sizes(1, 1); print(refusal("text", "server"))')
    assert "another library of the process has made it before" in said
