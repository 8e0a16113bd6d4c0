"""A trained model on a split: scores, metrics and predictions.

In: a model and a `TaskDataset`, or the folder of a run. Out: `Scores`; `metrics.json` and `predictions/<task>.parquet`
below the run's folder. Samples are read in the order of the cohort, in batches of the training's size, so that a model
whose output depends on the batch (M3Care) gives the same output every time.
"""

from __future__ import annotations

import json
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
from flexcare_model.data.loader import BatchLoader, in_order
from flexcare_model.data.raw_batch import Embedder
from flexcare_model.models import Model
from flexcare_model.models.losses import prediction_loss
from flexcare_model.training.checkpoint import load_model
from flexcare_model.training.metrics import compute, one_class, written
from flexcare_model.training.run_config import RunConfig


@dataclass(frozen=True)
class Scores:
    """Output of a model for n samples, in the order of the dataset.

    Attributes:
        task: the task.
        sample_ids: of the samples.
        labels: (n,) or (n, labels), as in the batch.
        scores: (n, C) probabilities.
        loss: sum over batches of the mean prediction loss, as the learning-rate rule needs it.
        details: requested tensors of the model, (n, ...).
    """

    task: Task
    sample_ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    loss: float
    details: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the task, NaN where one is not defined; none without samples."""
        return compute(self.task.name, self.labels, self.scores) if len(self.labels) else {}


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
) -> Scores:
    """Scores of all samples of ``data``; the model keeps its mode (train or eval).

    ``details``: names of tensors with a row per sample (see the model's docstring); those it lacks are left out.
    """
    wanted = tuple(details)
    data = data.without_augmentation()
    training = model.training
    model.eval()
    logits: list[Tensor] = []
    losses: list[Tensor] = []
    named: dict[str, list[Tensor]] = {name: [] for name in wanted}
    try:
        with torch.no_grad(), mixed_precision(loader.device, precision):
            for batch in loader.batches(data, in_order(len(data), batch_size)):
                output = model(batch, details=True) if wanted else model(batch)
                logits.append(output.logits.float())
                if data.labelled:
                    losses.append(prediction_loss(output.logits, batch.label, data.task.name))
                for name in wanted:
                    if name in output.details:
                        named[name].append(output.details[name])
    finally:
        model.train(training)
    return Scores(
        task=data.task,
        sample_ids=data.sample_ids,
        labels=data.labels.numpy(),
        scores=_probabilities(data, logits),
        loss=float(torch.stack(losses).double().sum()) if losses else 0.0,
        details={name: torch.cat(parts).float().cpu().numpy() for name, parts in named.items() if parts},
    )


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
    for task in run.tasks:
        data = load_task(output, task, "test", max_hours=run.max_hours, embedder=embedder)
        scores = score(model, data, loader, batch_size=run.batch_size, precision=run.precision)
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
    }  # fmt: skip
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
