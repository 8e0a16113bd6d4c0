"""Weights on disk: `model.safetensors` with `config.json` beside it, and the state from which a killed run continues.

Safetensors and JSON only, nothing pickled. A file is written under a temporary name and moved, so that a reader finds
the old file or the new one. Weights carry the digest of their config.json: one cannot be used with another.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from flexcare_data.errors import UserError
from flexcare_data.store.folders import atomic_write
from flexcare_model.models import MODELS, Model
from flexcare_model.training.run_config import RunConfig, RunConfigError, differences, parse_run

logger = logging.getLogger(__name__)

WEIGHTS, CONFIG, STATE = "model.safetensors", "config.json", "state.safetensors"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class CheckpointError(UserError):
    """Weights or a state cannot be used; the message says which file, what was expected and what to do."""


def save_model(folder: Path, weights: dict[str, Tensor], run: RunConfig, task_outputs: dict[str, int]) -> None:
    """Write ``weights`` and the run's config.json into ``folder``."""
    text = run.to_json(task_outputs)
    atomic_write(folder / CONFIG, text)
    _save(folder / WEIGHTS, weights, {"config_sha256": _digest(text)})


def load_model(folder: Path, *, device: torch.device | str = "cpu") -> tuple[Model, RunConfig]:
    """The trained model of the run in ``folder``, in eval mode, and its run.

    Raises:
        CheckpointError: if a file is missing or damaged, or if the weights were not saved with this config.json.
    """
    path = folder / CONFIG
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: expected {CONFIG} and {WEIGHTS} of a finished run, at least one is missing")
    text = path.read_text()
    try:
        run, task_outputs = parse_run(text)
    except RunConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from None
    weights, metadata = _load(folder / WEIGHTS)
    if metadata.get("config_sha256") != _digest(text):
        raise CheckpointError(f"{folder}: {WEIGHTS} was saved with another {CONFIG}; restore the file or train again")
    model = MODELS[run.model](run.settings, task_outputs)
    load_weights(model, weights, folder / WEIGHTS)
    return model.to(device).eval(), run


def load_weights(model: Model, weights: dict[str, Tensor], path: Path) -> None:
    """Put ``weights`` into ``model``; names and shapes must be the same."""
    check_weights(model, weights, path)
    model.load_state_dict(weights)


def check_weights(model: Model, weights: dict[str, Tensor], path: Path) -> None:
    """Raise CheckpointError unless ``weights`` have the names and shapes of ``model``."""
    own = model.state_dict()
    wrong = sorted(set(own) ^ set(weights)) + [n for n in own if n in weights and own[n].shape != weights[n].shape]
    if wrong:
        raise CheckpointError(
            f"{path}: {len(wrong)} tensors do not fit this model, for example {wrong[0]}; it belongs to another config"
        )


def load_pretrained(model: Model, folder: Path, run: RunConfig) -> list[str]:
    """Start ``model`` from the weights of the run in ``folder``, except for what belongs to its tasks alone.

    Heads of tasks that the earlier run did not have, and the rows of their task tokens, keep their initial values.

    Returns:
        Names of the tensors that keep their initial values.
    """
    source, earlier = load_model(folder)
    if earlier.model != run.model or earlier.settings != run.settings:
        raise CheckpointError(
            f"{folder}: expected the weights of a {run.model} with these settings, got another (expected, found):\n"
            + "\n".join(differences(run, earlier))
        )
    own, given = model.state_dict(), source.state_dict()
    fresh = [name for name in own if name not in given]
    # The table of task tokens has a row for each task; rows that were never trained have their initial values.
    model.load_state_dict({name: given.get(name, value) for name, value in own.items()})
    return fresh


@dataclass
class TrainState:
    """Progress of a run: everything that its result depends on.

    Random numbers are not part of it: each (seed, epoch, task) begins a new stream (`flexcare_model.training.loop`).

    Attributes:
        epoch: the current epoch, from 1.
        steps: steps of the optimiser so far.
        task: position of the next task in it.
        rates: learning rate of each task.
        losses: validation losses of each task, one per epoch.
        best_score, best_epoch: of the kept weights; epoch 0: none yet.
        best: the kept weights.
        history: rows of history.parquet.
    """

    rates: dict[str, float]
    losses: dict[str, list[float]]
    epoch: int = 1
    steps: int = 0
    task: int = 0
    best_score: float | None = None
    best_epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)


def save_state(
    folder: Path, state: TrainState, model: Model, optimizer: Optimizer, run: RunConfig, origin: str
) -> None:
    """Write all that is needed to continue to one file; ``origin`` names the data and the code that made it."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in state.best.items()}
    for name, parameter in model.named_parameters():
        moments = optimizer.state.get(parameter, {})
        tensors |= {f"adam/{name}/{key}": moments[key] for key in _MOMENTS if key in moments}
    names = ("rates", "losses", "epoch", "steps", "task", "best_score", "best_epoch", "history")
    content = {name: getattr(state, name) for name in names}
    _save(folder / STATE, tensors, {"run": run.to_json({}), "state": json.dumps(content), "origin": origin})


def load_state(
    folder: Path,
    model: Model,
    optimizer: Optimizer,
    run: RunConfig,
    device: torch.device,
    origin: str,
) -> TrainState | None:
    """Restore model and optimizer from the killed run in ``folder``; None where there is nothing to resume.

    A checkpoint from other data or other code is ignored.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    tensors, metadata = _load(path)
    try:
        earlier, content = parse_run(metadata["run"])[0], json.loads(metadata["state"])
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "best": {}, "adam": {}}
        for name, value in tensors.items():
            group, rest = name.split("/", 1)
            groups[group][rest] = value
        state = TrainState(best=groups["best"], **content)
    except (RunConfigError, KeyError, ValueError, TypeError):
        raise CheckpointError(f"{path}: expected the state of a run, got something else; remove it") from None
    if lines := differences(run, earlier):
        raise CheckpointError(
            f"{path}: was left by a run with another config (now, then); remove it to start again:\n" + "\n".join(lines)
        )
    if metadata.get("origin") != origin:
        logger.warning("%s: was left by a run on other data or by other code; this run starts from the beginning", path)
        return None
    load_weights(model, groups["model"], path)
    if groups["best"]:
        check_weights(model, groups["best"], path)
    for name, parameter in model.named_parameters():
        moments = {key: groups["adam"][f"{name}/{key}"] for key in _MOMENTS if f"{name}/{key}" in groups["adam"]}
        if moments:
            optimizer.state[parameter] = {key: value.to(device) for key, value in moments.items()}
    return state


def forget_state(folder: Path) -> None:
    """Remove the state: the run in ``folder`` has its results."""
    (folder / STATE).unlink(missing_ok=True)


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    # Safetensors needs contiguous tensors on the CPU.
    ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    atomic_write(path, lambda temporary: save_file(ready, temporary, metadata))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return load_file(path), metadata
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is damaged ({error}); remove it") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
