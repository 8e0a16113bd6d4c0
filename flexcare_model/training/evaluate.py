"""A trained model on a split: scores, metrics and predictions.

In: a model and a `TaskDataset`, or the folder of a run. Out: `Scores`; `metrics.json` and `predictions/<task>.parquet`
below the run's folder. Samples are read in the order of the cohort, and an answer depends on its sample only. The one
exception is M3Care with `evaluation: permutations`: it is scored in several random orders.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from flexcare_data.store.folders import atomic_write
from flexcare_data.tasks.base import Task
from flexcare_model.data.dataset import TaskDataset, load_task
from flexcare_model.data.loader import BatchLoader, in_order, one_per_patient
from flexcare_model.data.raw_batch import Embedder
from flexcare_model.models import MODELS, Model
from flexcare_model.models.losses import prediction_loss
from flexcare_model.training.checkpoint import load_model
from flexcare_model.training.metrics import compute, one_class, written
from flexcare_model.training.run_config import RunConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Output of a model for n samples, in the order of the dataset.

    Attributes:
        task: the task.
        sample_ids: of the samples.
        labels: (n,) or (n, labels), as in the batch.
        scores: (n, C) probabilities; the mean where the samples were scored in several orders.
        loss: sum over batches of the mean prediction loss, as the learning-rate rule needs it; mean over orders.
        details: requested tensors of the model, (n, ...).
        orders: scores in each order, where there were several.
    """

    task: Task
    sample_ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    loss: float
    details: dict[str, np.ndarray] = field(default_factory=dict)
    orders: tuple[np.ndarray, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the task, NaN where one is not defined; none without samples."""
        return compute(self.task.name, self.labels, self.scores) if len(self.labels) else {}

    @property
    def spread(self) -> dict[str, dict[str, float]]:
        """By metric that is defined: mean, std, min and max over the orders; none where there was one order."""
        if not self.orders or not len(self.labels):
            return {}
        found = pl.DataFrame([compute(self.task.name, self.labels, scores) for scores in self.orders])
        return {
            name: {part: float(getattr(values, part)()) for part in ("mean", "std", "min", "max")}
            for name in found.columns
            for values in [found[name].to_numpy()]
            if not np.isnan(values).any()
        }


def mixed_precision(device: torch.device, precision: str) -> AbstractContextManager:
    """Context of mixed precision on CUDA where ``precision`` is bfloat16; without effect elsewhere."""
    enabled = precision == "bfloat16" and device.type == "cuda"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def score(
    model: Model,
    data: TaskDataset,
    loader: BatchLoader,
    *,
    batch_size: int,
    precision: str = "float32",
    details: Iterable[str] = (),
    permutations: int = 0,
) -> Scores:
    """Scores of all samples of ``data``; the model keeps its mode (train or eval).

    Args:
        details: names of tensors with a row per sample (see the model's docstring); those it lacks are left out.
        permutations: if above 0, a model with a bank does not use it, but compares the samples of a batch with each
            other. It scores the samples in this many random orders, with at most one sample of a patient in a batch,
            and the means are given. No effect on other models.
    """
    data, wanted = data.without_augmentation(), tuple(details)
    several = bool(permutations and model.bank_size)
    if several:
        orders = [one_per_patient(data.subject_ids, batch_size, seed) for seed in range(permutations)]
    else:
        orders = [in_order(len(data), batch_size)]
    before = model.training, model.uses_bank
    model.eval()
    model.uses_bank = not several
    try:
        with torch.no_grad(), mixed_precision(loader.device, precision):
            passes = [_pass(model, data, loader, groups, wanted) for groups in orders]
    finally:
        model.train(before[0])
        model.uses_bank = before[1]
    scores = np.stack([part.scores for part in passes])
    return Scores(
        task=data.task,
        sample_ids=data.sample_ids,
        labels=data.labels.numpy(),
        scores=scores.astype(np.float64).mean(axis=0).astype(np.float32) if several else scores[0],
        loss=float(np.mean([part.loss for part in passes])),
        details={name: np.mean([part.details[name] for part in passes], axis=0) for name in passes[0].details},
        orders=tuple(scores) if several else (),
    )


@dataclass(frozen=True)
class _Pass:
    """All samples scored once, in the order of the dataset."""

    scores: np.ndarray
    loss: float
    details: dict[str, np.ndarray]


def _pass(
    model: Model, data: TaskDataset, loader: BatchLoader, groups: list[np.ndarray], wanted: tuple[str, ...]
) -> _Pass:
    logits: list[Tensor] = []
    losses: list[Tensor] = []
    named: dict[str, list[Tensor]] = {name: [] for name in wanted}
    for batch in loader.batches(data, groups):
        output = model(batch, details=True) if wanted else model(batch)
        logits.append(output.logits.float())
        if data.labelled:
            losses.append(prediction_loss(output.logits, batch.label, data.task.name))
        for name in wanted:
            if name in output.details:
                named[name].append(output.details[name])
    place = np.argsort(np.concatenate(groups)) if groups else np.zeros(0, np.int64)
    return _Pass(
        scores=_probabilities(data, logits)[place],
        loss=float(torch.stack(losses).double().sum()) if losses else 0.0,
        details={name: torch.cat(parts).float().cpu().numpy()[place] for name, parts in named.items() if parts},
    )


def permutations_of(run: RunConfig) -> int:
    """Number of random orders in which the test samples of ``run`` are scored; 0: their own, with the bank."""
    own = vars(MODELS[run.model].own_settings(run.settings))
    return own["permutations"] if own.get("evaluation") == "permutations" else 0


def _probabilities(data: TaskDataset, logits: list[Tensor]) -> np.ndarray:
    if not logits:
        return np.zeros((0, data.n_outputs), dtype=np.float32)
    joined = torch.cat(logits).cpu().double()
    return (joined.softmax(dim=1) if data.task.kind == "multiclass" else joined.sigmoid()).float().numpy()


def predictions(scores: Scores) -> pl.DataFrame:
    """sample_id and a Float32 column per output: `score`, the label's name, or `class_<k>`."""
    kind = scores.task.kind
    if kind == "binary":
        names = ["score"]
    elif kind == "multilabel":
        names = list(scores.task.labels)
    else:
        names = [f"class_{k}" for k in range(scores.scores.shape[1])]
    columns = {name: scores.scores[:, k] for k, name in enumerate(names)}
    return pl.DataFrame({"sample_id": pl.Series(scores.sample_ids, dtype=pl.String), **columns})


def evaluate_run(
    output: Path,
    folder: Path,
    loader: BatchLoader,
    *,
    embedder: Embedder | None = None,
    best_epoch: int | None = None,
    left_out: Mapping[str, str] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Score the test split of every task of the run in ``folder``; write its predictions and metrics.json.

    metrics.json has null for a metric that is not defined, and names the labels of one class.

    Args:
        best_epoch: epoch of the weights; None: as an earlier metrics.json says.
        left_out: tasks that were requested and not trained, with the reason.

    Returns:
        Metrics by task, None where one is not defined.
    """
    model, run = load_model(folder, device=loader.device)
    path = folder / "metrics.json"
    if best_epoch is None and path.is_file():
        best_epoch = json.loads(path.read_text()).get("epoch")
    counts: dict[str, int] = {}
    dropped: dict[str, dict[str, int]] = {}
    found: dict[str, dict[str, float | None]] = {}
    single: dict[str, list[str]] = {}
    spread: dict[str, dict[str, dict[str, float]]] = {}
    permutations = permutations_of(run) if model.bank_size else 0
    for task in run.tasks:
        data = load_task(output, task, "test", max_hours=run.max_hours, embedder=embedder)
        scores = score(
            model, data, loader, batch_size=run.batch_size, precision=run.precision, permutations=permutations
        )
        spread[task] = scores.spread
        for name, values in scores.spread.items():
            logger.info(
                "%s: %s in %d orders: mean %.4f, std %.4f, %.4f to %.4f",
                task, name, permutations, *(values[part] for part in ("mean", "std", "min", "max")),
            )  # fmt: skip
        counts[task], found[task] = len(data), written(scores.metrics)
        if names := one_class(task, scores.labels) if len(data) else []:
            single[task] = names
        if data.dropped or data.absent:
            dropped[task] = {**data.dropped, **data.absent}
        target = folder / "predictions" / f"{task}.parquet"
        atomic_write(target, predictions(scores).write_parquet)
    content = {
        "model": run.model, "experiment": run.experiment, "seed": run.seed, "split": "test", "epoch": best_epoch,
        "n": counts, "metrics": found, "dropped": dropped,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }  # fmt: skip
    if permutations:
        content["permutations"] = {"orders": permutations, "spread": spread}
    if single:
        content["one_class"] = single
    if left_out:
        content["left_out"] = dict(left_out)
    atomic_write(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
    return found


def write_no_result(folder: Path, run: RunConfig, left_out: Mapping[str, str]) -> None:
    """metrics.json of a run that could not be trained: no metrics, and its task with the reason."""
    content = {
        "model": run.model, "experiment": run.experiment, "seed": run.seed, "split": "test", "epoch": None,
        "n": {}, "metrics": {}, "dropped": {}, "left_out": dict(left_out),
    }  # fmt: skip
    atomic_write(folder / "metrics.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
