"""The epochs of a training: single-task batches, one optimiser, a learning rate per task.

In: samples, model, optimiser and state, as `flexcare_model.training.train` prepares them. Out: the state after the last
epoch, with the best weights and the history.

An epoch trains the tasks one after the other, each with all its batches, then validates all. By the usual schedule a
task whose validation loss did not fall gets half its learning rate from then on, where several tasks are trained. The
weights with the largest sum of both validation metrics over the tasks are kept. A metric that is not defined adds
nothing to the sum, in no epoch, as this depends on the labels alone. If none is defined, the last weights are kept.
With `patience` the training stops after this number of epochs without larger ones.

Random numbers are a function of (seed, epoch, task): each part of an epoch begins its own streams. So a run that was
killed and started again, from `state.safetensors`, ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from flexcare_data.errors import UserError
from flexcare_data.tasks import TASKS
from flexcare_data.tasks.base import METRICS
from flexcare_model.data.batch import Batch
from flexcare_model.data.dataset import TaskDataset
from flexcare_model.data.loader import BatchLoader, shuffled
from flexcare_model.models import Model
from flexcare_model.models.base import Output
from flexcare_model.models.losses import prediction_loss
from flexcare_model.training.bank import fill_bank
from flexcare_model.training.checkpoint import TrainState, save_state
from flexcare_model.training.evaluate import Scores, mixed_precision, score
from flexcare_model.training.log import TrainingLog
from flexcare_model.training.metrics import written
from flexcare_model.training.run_config import RunConfig

logger = logging.getLogger(__name__)

_BATCHES_PER_LOSS = 20
"""Batches between two updates of the loss in the progress bar: to read the loss, the host waits for the GPU."""
_METRICS = (*METRICS["binary"], "average_precision", *METRICS["multilabel"], *METRICS["multiclass"])
HISTORY = {
    "epoch": pl.Int64, "phase": pl.String, "task": pl.String, "loss": pl.Float64, "lr": pl.Float64,
    **dict.fromkeys(_METRICS, pl.Float64),
}  # fmt: skip
"""Columns of history.parquet. phase: train (loss: mean over batches of the whole training loss), val (loss: sum over
batches of the prediction loss), after_<task> (test metrics after that task, if requested)."""


class TrainError(UserError):
    """Training cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class SplitDatasets:
    """The datasets of one task."""

    train: TaskDataset
    val: TaskDataset
    test: TaskDataset | None


@dataclass
class Loop:
    """Epochs of one run.

    Attributes:
        folder: of the run.
        data: samples of each task.
        state: progress of the run; changed in place.
        interaction: score the test split of all tasks after each task.
        save_seconds: save the state in the middle of an epoch if it is older than this.
        origin: digests of data, first weights and code, stored with the state.
        log: where measurements of the training are written.
    """

    folder: Path
    run: RunConfig
    data: dict[str, SplitDatasets]
    loader: BatchLoader
    model: Model
    optimizer: torch.optim.Optimizer
    state: TrainState
    interaction: bool
    save_seconds: float
    origin: str
    log: TrainingLog
    _saved: float = field(default_factory=time.monotonic, init=False)

    def run_epochs(self) -> None:
        """Train and validate from the state's epoch to the last one."""
        state, run = self.state, self.run
        if run.idle_gradients == "zero":
            self.restore_idle_gradients()
        while state.epoch <= run.epochs and not self.is_exhausted:
            start, samples = time.monotonic(), 0
            while state.task < len(run.tasks):
                task = run.tasks[state.task]
                samples += self.train_task(task)
                if self.interaction:
                    self.evaluate_test(task)
                state.task += 1
                if time.monotonic() - self._saved > self.save_seconds:
                    self.save()
            self.validate()
            seconds = time.monotonic() - start
            losses = "  ".join(
                f"{TASKS[row['task']].abbreviation} {row['loss']:.4f}"
                for row in state.history
                if row["epoch"] == state.epoch and row["phase"] == "train"
            )
            logger.info(
                "epoch %d/%d  loss %s  best epoch %d  %.0f samples/s  %.1f s",
                state.epoch, run.epochs, losses, state.best_epoch, samples / seconds, seconds,
            )  # fmt: skip
            state.epoch, state.task = state.epoch + 1, 0
            self.save()
        if state.epoch <= run.epochs:
            logger.info("stopped: no better validation score in %d epochs", run.patience)

    @property
    def is_exhausted(self) -> bool:
        """Whether the last ``patience`` epochs brought no better validation score; follows from the state alone."""
        return 0 < self.run.patience <= self.state.epoch - 1 - self.state.best_epoch

    def restore_idle_gradients(self) -> None:
        """Give a gradient of zero to all parameters that have had one, as in a run that was not interrupted."""
        for parameter in self.model.parameters():
            if parameter in self.optimizer.state and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def groups(self, task: str, seed: int = 0) -> list[np.ndarray]:
        """Rows of the batches of ``task`` in one epoch, in the order that ``seed`` draws."""
        data, run = self.data[task].train, self.run
        groups = shuffled(len(data), run.batch_size, seed)
        if run.percent < 100 and run.drg_subset == "per_epoch":
            # As released: the first batches of each epoch's new order.
            groups = groups[: len(groups) * run.percent // 100 + 1]
        return groups

    def rates(self, task: str) -> list[float]:
        """Learning rate of each batch of ``task`` in the current epoch."""
        run, rate = self.run, self.state.rates[task]
        counts = {name: len(self.groups(name)) for name in run.tasks}
        if run.schedule != "cosine":
            return [rate] * counts[task]
        place, each = run.tasks.index(task), sum(counts.values())
        start = (self.state.epoch - 1) * each + sum(counts[name] for name in run.tasks[:place])
        steps, warmup = run.epochs * each, run.warmup * each
        return [rate * cosine(start + number, steps, warmup) for number in range(counts[task])]

    def save(self) -> None:
        save_state(self.folder, self.state, self.model, self.optimizer, self.run, self.origin)
        self._saved = time.monotonic()

    def train_task(self, task: str) -> int:
        """Train on all batches of ``task``; returns the number of samples."""
        data, run = self.data[task].train, self.run
        if not len(data):
            return 0
        start, device = time.monotonic(), self.loader.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seed = seed_everything(run.seed, self.state.epoch, task)
        groups = self.groups(task, seed)
        rates = self.rates(task)
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=device)
        parts: dict[str, torch.Tensor] = {}
        generator = torch.Generator().manual_seed(seed)
        batches = tqdm(
            self.loader.batches(data, groups, generator),
            desc=f"epoch {self.state.epoch}/{run.epochs} {task}",
            total=len(groups),
            unit="batch",
            leave=False,
            disable=None,
        )
        for number, batch in enumerate(batches, 1):
            with mixed_precision(self.loader.device, run.precision):
                output = self.model(batch)
                loss = self.model.loss(output, batch)
            self.optimizer.zero_grad(set_to_none=run.idle_gradients == "none")
            loss.backward()
            if self.model.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.model.gradient_clip)
            for group in self.optimizer.param_groups:
                group["lr"] = rates[number - 1]  # one rate per task
            self.optimizer.step()
            total += loss.detach()
            for name, value in self.loss_parts(output, batch).items():
                parts[name] = parts[name] + value if name in parts else value
            if not batches.disable and number % _BATCHES_PER_LOSS == 0:
                batches.set_postfix(loss=f"{float(total) / number:.4f}", refresh=False)
        mean = float(total) / len(groups)
        if not math.isfinite(mean):
            raise TrainError(
                f"{task}: the loss of epoch {self.state.epoch} is not finite; expected a number. Lower the learning "
                f"rate ({rates[-1]:g}) or use train.precision: float32"
            )
        self.state.history.append(self.row("train", task, loss=mean, lr=rates[-1]))
        samples = sum(len(rows) for rows in groups)
        self.state.steps += len(groups)
        self.log.add(
            **self.row("train", task, step=self.state.steps, loss=mean, lr=rates[-1]),
            **{f"{name}_loss": float(value) / len(groups) for name, value in parts.items()},
            samples_per_second=round(samples / (time.monotonic() - start), 1),
            peak_gpu_mib=torch.cuda.max_memory_allocated(device) // 2**20 if device.type == "cuda" else None,
        )
        return samples

    @staticmethod
    def loss_parts(output: Output, batch: Batch) -> dict[str, torch.Tensor]:
        """Prediction loss and extra losses of a step, for the log; float64, on the device, which is not waited for."""
        with torch.no_grad():
            prediction = prediction_loss(output.logits, batch.label, batch.task_name)
        return {
            name: value.detach().double() for name, value in {"prediction": prediction, **output.extra_losses}.items()
        }

    def validate(self) -> None:
        """Score all tasks on validation, keep the weights if they are the best so far, adapt the rates."""
        state, total, measured = self.state, 0.0, False
        for task in self.run.tasks:
            scores = self.score(self.data[task].val)
            metrics = written(scores.metrics)
            rate = (self.rates(task) or [state.rates[task]])[-1]
            state.history.append(self.row("val", task, loss=scores.loss, lr=rate, **metrics))
            state.losses[task].append(scores.loss)
            known = [value for name in TASKS[task].metrics if (value := metrics.get(name)) is not None]
            total += sum(known)
            measured |= bool(known)
            own = sum(known) if known else None
            self.log.add(**self.row("val", task, step=state.steps, loss=scores.loss), score=own)
        # Without a defined metric there is nothing to select by, and the last weights are kept.
        if state.best_score is None or total > state.best_score or not measured:
            state.best_score, state.best_epoch = total, state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        if self.run.schedule == "halving" or (self.run.schedule == "released" and len(self.run.tasks) > 1):
            adapt_rates(state.rates, state.losses)

    def evaluate_test(self, after: str) -> None:
        """Add the test metrics of all tasks after training ``after``."""
        for task in self.run.tasks:
            test = self.data[task].test
            assert test is not None  # loaded with `interaction`
            scores = self.score(test)
            self.state.history.append(self.row(f"after_{after}", task, loss=scores.loss, **written(scores.metrics)))

    def score(self, data: TaskDataset) -> Scores:
        if self.model.bank_size:
            # With the current weights; the kept weights so have their own bank. Such a model is trained on one task.
            (splits,) = self.data.values()
            fill_bank(
                self.model, splits.train, self.loader, seed=self.run.seed, batch_size=self.run.batch_size,
                precision=self.run.precision,
            )  # fmt: skip
        return score(self.model, data, self.loader, batch_size=self.run.batch_size, precision=self.run.precision)

    def row(self, phase: str, task: str, **values: float | None) -> dict[str, Any]:
        return {"epoch": self.state.epoch, "phase": phase, "task": task, **values}


def adapt_rates(rates: dict[str, float], losses: dict[str, list[float]]) -> None:
    """Halve, in place, the rate of each task whose last validation loss is not below the one before.

    Example:
        >>> rates = {"drg": 1.0, "phenotyping": 1.0}
        >>> adapt_rates(rates, {"drg": [5.0, 5.0], "phenotyping": [5.0, 4.0]})
        >>> rates
        {'drg': 0.5, 'phenotyping': 1.0}
    """
    for task, values in losses.items():
        if len(values) > 1 and values[-1] >= values[-2]:
            rates[task] /= 2.0


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate in ``step`` (from 0) of ``steps``: a line up to 1 over ``warmup`` steps, then half a
    cosine down to nearly 0.

    Example:
        >>> [round(cosine(step, 6, 2), 3) for step in range(6)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    """
    if step < warmup:
        return min(1.0, (step + 1) / warmup)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1.0, steps - warmup)))


def seed_everything(seed: int, epoch: int, part: str) -> int:
    """Start the random streams (Python, numpy, torch) of one part of a run; returns their seed."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{part}".encode()).digest()
    number = int.from_bytes(digest[:4], "little")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002, a library called by a model may draw from it
    torch.manual_seed(number)
    return number


def history_frame(state: TrainState) -> pl.DataFrame:
    """history.parquet, rows in the order of training."""
    return pl.DataFrame(state.history, schema=HISTORY)
