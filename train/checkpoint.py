"""The run folder: the configuration, the weights and all that is needed to go on bit for bit.

RUN/config.toml          the resolved configuration
RUN/tokenizer.json       trained at the start of the run
RUN/words.txt            the words of the training texts, for the bundle
RUN/text_tower.json      the shape of a pretrained text tower, which the configuration does not know
RUN/data.json            what was found when real pairs were surveyed
RUN/state.safetensors    weights, their average, optimisers, loss scale and step: one rename replaces all together
RUN/model.safetensors    the weights alone, for export and evaluation: the average, where one is kept
RUN/metrics.jsonl        one JSON object a line (`train.training_log`)
"""

import contextlib
import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import BertConfig

from mcr_infer.errors import ConfigError
from mcr_infer.files import atomic_write
from train.config import Config, read_config
from train.model import MCR
from train.optim import Average
from train.settings import differences, dump_toml, read_toml
from train.step import Learner
from train.training_log import METRICS

CONFIG, TOKENIZER, STATE, MODEL, TEXT_TOWER = (
    "config.toml", "tokenizer.json", "state.safetensors", "model.safetensors", "text_tower.json",
)  # fmt: skip

_ATTEMPTS = 10
"""Tries, a second apart, to hold a run folder."""

_TOWERS = ("image_tower.", "text_tower.", "maps.", "aggregators.")

_FREE = ("run.workers:", "run.log_every:", "run.evaluate_every:", "run.checkpoint_every:")
"""Values that may change when a run goes on: they do not touch what is learnt."""


_OTHER_START = ("image.pretrained:", "image.rendering:", "text.dropout:")
"""Values of the model that may differ from those of a run whose weights are taken: no weight changes its meaning."""


@contextlib.contextmanager
def open_run(run: Path, config: Config) -> Iterator[Config | None]:
    """Hold a run folder, which is made where there is none, and yield the configuration it was last trained with.

    None where it has not begun to train (`begin_run`). Raises `ConfigError` where another process trains into it, or where
    the configuration is another; `optim.steps` may be raised.
    """
    run.mkdir(parents=True, exist_ok=True)
    folder = os.open(run, os.O_RDONLY)
    try:
        _hold(folder, run)
        yield _former(run, config)
    finally:
        os.close(folder)


def begin_run(run: Path, config: Config) -> None:
    """Write the configuration into a run folder: from here on it trains with this one."""
    atomic_write(run / CONFIG, dump_toml(config).encode())


def _hold(folder: int, run: Path) -> None:
    """Lock an open run folder; the kernel lets go when this process and its data workers have ended, however they end.

    Workers of a killed run notice after some seconds that it is gone: a restart waits that long for them.
    """
    for attempt in range(_ATTEMPTS):
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if attempt + 1 < _ATTEMPTS:
                time.sleep(1.0)
    raise ConfigError(f"another process is training into {run}: wait for it, or give another --out")


def _read_former(run: Path) -> Config:
    """Read the configuration of a run; one of an earlier release does not say that its long texts were cut."""
    values = read_toml(run / CONFIG)
    if isinstance(data := values.setdefault("data", {}), dict):
        data.setdefault("long_text", "truncate")
    return read_config(values)


def _former(run: Path, config: Config) -> Config | None:
    """Read the configuration that a run was started with, and refuse one that differs from it."""
    if not (run / CONFIG).exists():
        return None
    former = _read_former(run)
    free = (*_FREE, "optim.steps:") if config.optim.steps > former.optim.steps else _FREE
    changed = [line for line in differences(former, config) if not line.startswith(free)]
    if changed:
        cuts = former.data.long_text == "truncate" != config.data.long_text
        raise ConfigError(
            f"{run} was started with another configuration ({'; '.join(changed)}): "
            "give another --out, or remove the folder to start over"
            + (
                "; a run that cuts long texts, as earlier releases did, goes on with --set data.long_text=truncate"
                * cuts
            )
        )
    return former


def save_state(run: Path, learner: Learner, average: Average | None, step: int) -> None:
    """Save the weights for export, then everything that the steps from `step` on depend on."""
    weights = {name: tensor.contiguous() for name, tensor in learner.model.state_dict().items()}
    tensors = {f"model/{name}": tensor for name, tensor in weights.items()}
    for name, parameter in learner.model.named_parameters():
        for optimizer in learner.optimizers:
            for key, value in optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
    if average is not None:
        tensors |= {f"average/{name}": tensor for name, tensor in average.weights.items()}
        weights = average.weights
    facts = {"step": str(step), "scaler": json.dumps(learner.scaler.state_dict())}
    if learner.pretrained_text:
        atomic_write(run / TEXT_TOWER, learner.model.text_tower.bert.config.to_json_string().encode())
    atomic_write(run / MODEL, save(weights, {"step": str(step)}))
    # The state comes last: a run that it calls finished is not touched again, so its model must be there already.
    atomic_write(run / STATE, save(tensors, facts))


def load_state(run: Path, learner: Learner, average: Average | None) -> int:
    """Restore a learner and its average from a run; return the step to go on with, 0 where nothing was saved yet."""
    path = run / STATE
    if not path.exists():
        return 0
    try:
        with safe_open(path, framework="pt") as archive:
            facts = archive.metadata()
            step, scaler = int(facts["step"]), json.loads(facts["scaler"])
        tensors = load_file(path)
    except (SafetensorError, KeyError, TypeError) as exc:
        raise ConfigError(f"{path} is damaged ({exc}): remove it to start the run over") from exc
    kinds: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        kinds[kind][name] = tensor.to(learner.world.device)
    learner.model.load_state_dict(kinds.pop("model"))
    averaged = kinds.pop("average", None)
    if average is not None and averaged is not None:
        average.weights = averaged
    names = learner.names
    for optimizer in learner.optimizers:
        for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
            name = names[parameter]
            found = {kind: values[name] for kind, values in kinds.items() if name in values}
            if found:
                # The step counter stays where the optimiser keeps it; torch puts it beside the weights when it is fused.
                optimizer.state[parameter] = found
    if scaler:
        learner.scaler.load_state_dict(scaler)
    return step


def drop_metrics_after(run: Path, step: int) -> None:
    """Remove metric lines of steps that a resumed run will take again, and a line that a kill cut short."""
    path = run / METRICS
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    atomic_write(path, "".join(kept).encode())


def load_model(run: Path) -> tuple[MCR, Config]:
    """Load the trained model of a run, in eval mode, with its configuration; what it was pretrained on is not needed."""
    config = _read_former(run)
    return _load(run, config, config).eval(), config


def start_model(source: Path, config: Config) -> MCR:
    """Make the model of a configuration with the weights of a run: their average, where the run keeps one.

    Raises `ConfigError`, which names the values, where its architecture is another.
    """
    former = _read_former(source)
    changed = [line for line in differences(former.model, config.model) if not line.startswith(_OTHER_START)]
    changed = [f"model.{line}" for line in changed]
    changed += [f"masking.{line}" for line in differences(former.masking, config.masking) if "text_mode" in line]
    if config.model.image.pretrained not in (None, former.model.image.pretrained):
        changed.append(f"model.image.pretrained: {former.model.image.pretrained} -> {config.model.image.pretrained}")
    if changed:
        raise ConfigError(f"--init-from {source}: its weights are those of another architecture ({'; '.join(changed)})")
    return _load(source, former, config)


def bare_model(run: Path, config: Config) -> MCR:
    """Make the model of a run that has a checkpoint, without its weights and without what it was pretrained on."""
    pretrained = config.model.text.pretrained is not None
    return MCR(config, fill=False, text_settings=_text_settings(run) if pretrained else None)


def _text_settings(run: Path) -> BertConfig:
    """Read the shape of a pretrained text tower; raises `ConfigError`."""
    try:
        return BertConfig.from_json_file(run / TEXT_TOWER)
    except (OSError, ValueError) as exc:
        raise ConfigError(
            f"the checkpoint in {run} is damaged: {TEXT_TOWER} cannot be read ({type(exc).__name__}: {exc}); put it back "
            "from a copy, or copy config.json of the pretrained tower there"
        ) from exc


def _load(run: Path, former: Config, config: Config) -> MCR:
    """Load the weights of a run, made with one configuration, into the model of another."""
    path = run / MODEL
    if not path.exists():
        raise ConfigError(f"{run} holds no {MODEL}: the run has not saved a checkpoint yet")
    settings = _text_settings(run) if former.model.text.pretrained is not None else None
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise ConfigError(
            f"the checkpoint in {run} is damaged ({type(exc).__name__}: {exc}): put its files back from "
            "a copy, or let the run go on to its next checkpoint, which writes them again"
        ) from exc
    model = MCR(config, fill=False, text_settings=settings)
    model.load_state_dict(weights)
    return model


def tower_state(model: MCR) -> dict[str, Tensor]:
    """Return the weights that `encode_image` and `encode_text` use, by name: no decoder, no temperature."""
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(_TOWERS)}
