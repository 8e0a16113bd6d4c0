"""The configuration of a run: model, experiment, seed and settings, all resolved.

In: the `train` section. Out: `RunConfig`.

`RunConfig` contains what changes the results and is written beside the weights; `Execution` contains what only decides
where and how fast they are computed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pydantic import ValidationError

from flexcare_data.errors import UserError
from flexcare_data.train_settings import PER_MODEL, Train, settings_of
from flexcare_model.data.batch import MAX_HOURS
from flexcare_model.experiments import EXPERIMENTS
from flexcare_model.models import MODELS, ModelConfig

RUN_FORMAT = 2
"""Version of config.json and of the weights beside it."""


class RunConfigError(UserError):
    """Invalid settings of a run; one line per mistake."""


@dataclass(frozen=True)
class RunConfig:
    """One run. ``settings`` are the model's; the other fields are explained in the configuration's `train` section."""

    model: str
    experiment: str
    seed: int
    tasks: tuple[str, ...]
    epochs: int
    lr: float
    batch_size: int = 32
    max_hours: int = MAX_HOURS
    percent: int = 100
    pretrained: bool = False
    augment: bool = True
    drg_subset: Literal["fixed", "per_epoch"] = "fixed"
    precision: Literal["float32", "bfloat16"] = "float32"
    optimizer: Literal["adam", "adamw"] = "adam"
    weight_decay: float = 0.0
    schedule: Literal["released", "constant", "halving", "cosine"] = "released"
    warmup: float = 0.0
    patience: int = 0
    idle_gradients: Literal["none", "zero"] = "none"
    settings: ModelConfig = field(default_factory=ModelConfig)

    def to_json(self, task_outputs: dict[str, int]) -> str:
        """The run as text, with the number of logits of each task, which depends on the data."""
        content = {"format": RUN_FORMAT, **asdict(self), "task_outputs": task_outputs}
        return json.dumps(content, indent=2, sort_keys=True) + "\n"


@dataclass(frozen=True)
class Execution:
    """Where and how fast a run is computed."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    data_device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
    workers: int = 0
    threads: int = 2


def resolve_run(model: str, experiment: str, seed: int, settings: dict[str, Any]) -> tuple[RunConfig, Execution]:
    """The run of ``model`` in ``experiment`` with ``seed`` under the `train` settings (missing ones: defaults).

    Raises:
        RunConfigError: an unknown name or setting, or several tasks for a single-task model.
    """
    problems = []
    if model not in MODELS:
        problems.append(f"model: expected one of {', '.join(MODELS)}; got {model!r}")
    if experiment not in EXPERIMENTS:
        problems.append(f"experiment: expected one of {', '.join(EXPERIMENTS)}; got {experiment!r}")
    try:
        train = Train.model_validate(settings)
    except ValidationError as error:
        problems += [f"train.{'.'.join(map(str, e['loc']))}: {e['msg']}, got {e['input']!r}" for e in error.errors()]
    if problems:
        raise RunConfigError("\n".join(problems))
    known = EXPERIMENTS[experiment]
    tasks = known.tasks or tuple(train.tasks)
    several = MODELS[model].multi_task
    if not several and (known.tasks is None or known.pretrained):
        raise RunConfigError(f"{model} is trained per task: expected a single-task experiment, got {experiment}")
    chosen = settings_of(train, model, fine_tuning=known.fine_tuning)
    training = {name: chosen.pop(name) for name in PER_MODEL}
    shared = {f.name: chosen.pop(f.name, getattr(train, f.name)) for f in fields(ModelConfig) if hasattr(train, f.name)}
    try:
        model_settings = ModelConfig(**shared, own=chosen)
    except ValueError as error:
        raise RunConfigError(f"train: {error}") from None
    run = RunConfig(
        model=model,
        experiment=experiment,
        seed=seed,
        tasks=tasks,
        batch_size=train.batch_size,
        max_hours=train.max_hours,
        percent=known.percent,
        pretrained=known.pretrained,
        augment=train.augment,
        drg_subset=train.drg_subset,
        precision=train.precision,
        settings=model_settings,
        **training,
    )
    return run, Execution(train.device, train.data_device, train.compile, train.workers, train.threads)


def parse_run(text: str) -> tuple[RunConfig, dict[str, int]]:
    """A run from its config.json, and its number of logits per task.

    Raises:
        RunConfigError: if the file is of another version or has other fields.
    """
    try:
        content = json.loads(text)
        version = content.pop("format")
        outputs = {str(name): int(n) for name, n in content.pop("task_outputs").items()}
        content["settings"] = ModelConfig(**content["settings"])
        content["tasks"] = tuple(content["tasks"])
        run = RunConfig(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunConfigError(f"config.json: expected the fields of a run of format {RUN_FORMAT}; {error}") from None
    if version != RUN_FORMAT:
        raise RunConfigError(f"config.json: expected format {RUN_FORMAT}, got {version}; train the run again")
    return run, outputs


def differences(one: RunConfig, other: RunConfig) -> list[str]:
    """Fields in which two runs differ, as `name: ..., ...` lines."""
    left, right = (asdict(run) | {f"settings.{k}": v for k, v in asdict(run.settings).items()} for run in (one, other))
    changed = [name for name in left if name != "settings" and left[name] != right[name]]
    return [f"{name}: {left[name]!r}, {right[name]!r}" for name in changed]
