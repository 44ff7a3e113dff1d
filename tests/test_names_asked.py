"""No command asks for a host name or leaves a file that the user did not ask for; run by `.ci/names-tests` in a namespace.

Telemetry asks for its first name seconds after the import, and most commands end sooner. So each process stays alive when
its work is done, until the last command is done and then for longer than onnxruntime takes with its telemetry on, which
is measured first.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

import mcr_infer
from mcr_infer import Bundle
from mcr_infer.telemetry import SWITCHES

pytestmark = pytest.mark.skipif(
    "MCR_INFER_TEST_NAMES" not in os.environ, reason="run .ci/names-tests: it needs a network namespace of its own"
)

ROOT = Path(mcr_infer.__file__).parents[1]
VENDOR = "mobile.events.data.microsoft.com"

# Variables that switch telemetry off by themselves; a CI machine sets some of them.
CLEARED = {*SWITCHES, "CI", "GITHUB_ACTIONS", "TF_BUILD", "JENKINS_URL", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}

# Python imports it at its start. The first process of a command waits at its end; what it starts ends as ever.
STAY = """
import atexit, os, pathlib, time
folder = os.environ.pop("STAY_UNTIL_TOLD", None)
if folder is not None:
    folder = pathlib.Path(folder)
    def stay():
        (folder / f"{os.getpid()}.done").touch()
        while not (folder / "leave").exists():
            time.sleep(0.1)
    atexit.register(stay)
"""

TRAIN = """
[model.image]
image_size = 32
patch_size = 8
width = 32
depth = 1
heads = 2
[model.text]
pretrained = "{bert}"
max_tokens = 32
[model.space]
embedding_dim = 16
[model.decoders]
image_width = 16
image_heads = 2
report_heads = 2
[optim]
steps = 2
batch_size = 4
warmup_steps = 1
unmasked_steps = 0
[data]
cache = "{cache}"
[data.phantoms]
size = 48
train_count = 50
validation_count = 50
[run]
workers = {workers}
log_every = 1
"""


class Recorder:
    """A name server that knows no name, and a listener on the interface.

    `names` are those asked for, of any name server; `addresses` those that packets were sent to. Loopback is left out of
    both: torch.distributed speaks to itself, and asks for the name of 127.0.0.1.
    """

    def __init__(self, stack: ExitStack) -> None:
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.asked = threading.Event()
        self._server = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        self._server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        self._server.bind(("::", 53))
        every_protocol = 3  # linux/if_ether.h: ETH_P_ALL, in network byte order below
        self._interface = stack.enter_context(
            socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(every_protocol))
        )
        self._interface.bind(("lo", every_protocol))
        for work in (self._answer, self._listen):
            threading.Thread(target=work, daemon=True).start()

    def _answer(self) -> None:
        while True:
            query, sender = self._server.recvfrom(4096)
            labels, at = [], 12
            while length := query[at]:
                labels.append(query[at + 1 : at + 1 + length].decode("ascii", "backslashreplace"))
                at += 1 + length
            if labels[-2:] != ["in-addr", "arpa"] or labels[-3] != "127":
                self.names.append(".".join(labels))
                self.asked.set()
            # RFC 1035 4.1.1: a response, recursion available, RCODE 3 (no such name), one question and nothing else.
            header = query[:2] + b"\x81\x83" + b"\0\1" + bytes(6)
            self._server.sendto(header + query[12 : at + 5], sender)

    def _listen(self) -> None:
        while True:
            packet = self._interface.recv(128)
            if packet[0] >> 4 == 4:
                address = ip_address(packet[16:20])
            elif packet[0] >> 4 == 6:
                address = ip_address(packet[24:40])
            else:
                continue
            if not (address.is_loopback or address.is_multicast):
                self.addresses.append(str(address))

    def reset(self) -> None:
        self.names.clear()
        self.addresses.clear()
        self.asked.clear()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    with ExitStack() as stack:
        yield Recorder(stack)


class User:
    """A user whose home, cache, temporary folder and working folder are empty and are watched."""

    def __init__(self, place: Path) -> None:
        self.folder, self._hold = place / "user", place / "hold"
        self.work = self.folder / "work"
        for folder in (self.work, self.folder / "home", self.folder / "tmp", self._hold):
            folder.mkdir(parents=True)
        (self._hold / "sitecustomize.py").write_text(STAY)
        kept = {
            name: value for name, value in os.environ.items() if name not in CLEARED and not name.startswith("XDG_")
        }
        self._environment = kept | {
            "HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp"), "STAY_UNTIL_TOLD": str(self._hold),
            "PYTHONPATH": os.pathsep.join([str(self._hold), str(ROOT)]), "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.running: list[tuple[list[str], subprocess.Popen[bytes]]] = []

    def run(self, *words: str | Path) -> None:
        """Run Python until its work is done; the process stays."""
        command = list(map(str, words))
        with (self._hold / f"{len(self.running)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.work, env=self._environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.running.append((command, process))
        while not (self._hold / f"{process.pid}.done").exists() and process.poll() is None:
            time.sleep(0.02)

    def let_go(self) -> None:
        """Let all end; each must have ended well."""
        (self._hold / "leave").touch()
        for number, (command, process) in enumerate(self.running):
            told = f"{command}\n{(self._hold / f'{number}.log').read_text(errors='replace')}"
            assert process.wait() == 0, told
        assert len(list(self._hold.glob("*.done"))) == len(self.running)

    def kill(self) -> None:
        for _, process in self.running:
            process.kill()
            process.wait()

    def files(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    user = User(tmp_path)
    try:
        yield user
    finally:
        user.kill()


@pytest.fixture(scope="module")
def seconds_to_first_name(recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Seconds that onnxruntime takes to ask for a name with its telemetry on; proof that the recorder would show it."""
    user = User(tmp_path_factory.mktemp("control"))
    recorder.reset()
    begun = time.monotonic()
    try:
        user.run("-c", "import onnxruntime")
        assert recorder.asked.wait(300), "telemetry that is on was not recorded"
        seconds = time.monotonic() - begun
    finally:
        user.kill()
    assert set(recorder.names) == {VENDOR}
    assert "home/.cache/Microsoft/DeveloperTools/.onnxruntime/deviceid" in user.files(), user.files()
    return seconds


def test_the_recorder_sees_names_and_bare_addresses(recorder: Recorder):
    recorder.reset()
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("archive.example.org", 443)
    for address in ("192.0.2.7", "203.0.113.9"):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, 443), timeout=60)
    while len(set(recorder.addresses)) < 2:
        time.sleep(0.01)
    assert set(recorder.names) == {"archive.example.org"}
    assert set(recorder.addresses) == {"192.0.2.7", "203.0.113.9"}


def pretrained_models(folder: Path) -> tuple[Path, Path]:
    """Save a small BERT and a small CLIP as their library does."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    import foreigners

    bert = foreigners.dual_encoder(folder / "both")
    size = AutoTokenizer.from_pretrained(bert).vocab_size
    config = BertConfig(
        vocab_size=size, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(bert)
    return bert, foreigners.clip(folder / "clip")


def test_no_command_asks_for_a_name_or_leaves_a_file(
    recorder: Recorder, user: User, seconds_to_first_name: float, tmp_path: Path
):
    work, mcr = user.work, ("-m", "mcr_infer")
    bert, clip = pretrained_models(tmp_path / "models")
    settings = tmp_path / "train.toml"
    settings.write_text(TRAIN.format(bert=bert, cache=work / "pictures", workers=2))
    shutil.copytree(Bundle.open().path, work / "bundle")
    recorder.reset()

    user.run("-c", "import mcr_infer, onnxruntime, tokenizers, transformers, timm, open_clip, huggingface_hub")
    user.run(*mcr, "--help")
    user.run(*mcr, "demo", "dicoms", "--count", "6")
    user.run(*mcr, "embed-images", "dicoms", "--workers", "2", "--keep-locals")
    user.run(*mcr, "embed-reports", "dicoms/truth.csv")
    user.run(*mcr, "query", "left pneumothorax")
    user.run(*mcr, "query", "left pneumothorax", "--rerank")
    user.run(*mcr, "query", "--image", "dicoms/phantom-000003.dcm", "--json")
    user.run(*mcr, "verify")
    user.run(*mcr, "verify", "mcr-index")
    user.run(*mcr, "info")
    user.run(*mcr, "rebuild")
    user.run(*mcr, "export", "--out", "rows.parquet")
    user.run(*mcr, "build-engine", "bundle", "--flavor", "rtx", "--tower", "text", "--arch", "sm86")
    user.run("-m", "train", "--config", settings, "--out", "run")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    user.run(*torchrun, "-m", "train", "--config", settings, "--out", "run-of-two")
    user.run("-m", "export.to_onnx", "run", "--out", "exported")
    user.run("-m", "export.from_transformers", clip, "--out", "foreign")
    user.run("-m", "benchmarks.contender", "--help")
    recorder.asked.wait(1.5 * seconds_to_first_name + 2)
    user.let_go()

    assert (set(recorder.names), set(recorder.addresses)) == (set(), set())
    made = "dicoms|mcr-index|bundle|run|run-of-two|exported|foreign|pictures"
    expected = rf"home/\.cache/mcr-infer/|work/({made})/|work/rows\.parquet$"
    assert [path for path in sorted(user.files()) if not re.match(expected, path)] == []
