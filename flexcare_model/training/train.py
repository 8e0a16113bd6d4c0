"""The training loop of all models: single-task batches, one optimiser, a learning rate per task.

In: an output folder with cohorts and shards, a `RunConfig`. Out: the run's folder with model.safetensors, config.json,
history.parquet; `flexcare_model.training.evaluate` adds the test results.

An epoch trains the tasks one after the other, each with all its batches, then validates all. A task whose validation
loss did not fall gets half its learning rate from then on (with several tasks only). The weights with the largest sum
of both validation metrics over the tasks are kept.

Random numbers are a function of (seed, epoch, task): each part of an epoch begins its own streams. So a run that was
killed and started again, from `state.safetensors`, ends with the same weights as one that was not.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from tqdm import tqdm

from flexcare_data.errors import UserError
from flexcare_data.hashing import file_digest
from flexcare_data.store.folders import atomic_write
from flexcare_data.tasks import METRICS, TASKS
from flexcare_model.data.dataset import TaskDataset, load_task
from flexcare_model.data.loader import Feed, place_inputs, shuffled
from flexcare_model.data.raw_batch import Embedder
from flexcare_model.models import MODELS, Model
from flexcare_model.training.checkpoint import (
    WEIGHTS,
    TrainState,
    load_pretrained,
    load_state,
    load_weights,
    save_model,
    save_state,
)
from flexcare_model.training.evaluate import Scores, mixed_precision, score
from flexcare_model.training.origin import data_digest
from flexcare_model.training.run_config import Execution, RunConfig

logger = logging.getLogger(__name__)

_BATCHES_PER_LOSS = 20
"""The progress bar shows the mean loss every so many batches: to read it, the host waits for the GPU."""
_SUBSET_SEED = 0
"""Of the fixed share of the training data: the same samples for every model and seed."""
_METRICS = (*METRICS["binary"], "average_precision", *METRICS["multilabel"], *METRICS["multiclass"])
HISTORY = {
    "epoch": pl.Int64, "phase": pl.String, "task": pl.String, "loss": pl.Float64, "lr": pl.Float64,
    **dict.fromkeys(_METRICS, pl.Float64),
}  # fmt: skip
"""Columns of history.parquet. phase: train (loss: mean over batches of the whole training loss), val (loss: sum over
batches of the prediction loss), after_<task> (test metrics after that task, where asked for)."""


class TrainError(UserError):
    """Training cannot go on; the message says why and what to do."""


class NoSamplesError(TrainError):
    """The cohorts of a run have no training samples."""


@dataclass(frozen=True)
class Splits:
    """The samples of one task."""

    train: TaskDataset
    val: TaskDataset
    test: TaskDataset | None


def train(
    output: Path,
    folder: Path,
    run: RunConfig,
    execution: Execution,
    *,
    pretrained: Path | None = None,
    interaction: bool = False,
    embedder: Embedder | None = None,
    save_seconds: float = 60.0,
    code: str = "",
) -> tuple[Feed, TrainState]:
    """Train ``run`` to its end, going on where an earlier start in ``folder`` was killed.

    Args:
        output: folder with cohorts and shards.
        folder: of the run.
        pretrained: folder of the run whose weights a pretrained experiment starts from.
        interaction: evaluate the test split of all tasks after each task of each epoch (paper's figure 7). Nothing is
            selected by it.
        embedder: encoder of word-piece ids, where the notes are stored as such.
        save_seconds: write the state in the middle of an epoch if so much time has passed.
        code: digest of the code; a state that other code left is not gone on with.

    Returns:
        The feed, for the evaluation, and the state at the end. It stays on the disk until `forget_state`, as a run
        that is killed while its test split is scored has its training behind it.

    Raises:
        TrainError: no training samples, a loss that is not finite, not enough memory, no CUDA.
        CheckpointError: weights or a state of another run.
    """
    if run.pretrained != (pretrained is not None):
        expected = "the folder of the multi-task run" if run.pretrained else "no folder of an earlier run"
        raise TrainError(f"{run.experiment}: expected {expected} as --pretrained")
    device = choose_device(execution.device)
    if run.precision == "bfloat16" and device.type != "cuda":
        logger.warning("train.precision: bfloat16 applies on CUDA only; this run computes in float32")
    torch.set_num_threads(execution.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    data = _load(output, run, interaction, embedder)
    outputs = {task: splits.train.n_outputs for task, splits in data.items()}
    data = _placed(data, execution.data_device, device)
    feed = Feed(device, execution.workers)
    seed_everything(run.seed, 0, "weights")
    model = MODELS[run.model](run.settings, outputs).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.lr, fused=True)
    start = file_digest(pretrained / WEIGHTS) if pretrained is not None and (pretrained / WEIGHTS).is_file() else ""
    made_of = " ".join([data_digest(output, run.tasks), start, code])
    state = load_state(folder, model, optimizer, run, device, made_of)
    if state is not None:
        logger.info("%s: continuing at epoch %d of %d", folder, state.epoch, run.epochs)
    else:
        state = TrainState(rates=dict.fromkeys(run.tasks, run.lr), losses={task: [] for task in run.tasks})
        if pretrained is not None:
            fresh = load_pretrained(model, pretrained, run)
            logger.info("started from %s; %d tensors are fresh", pretrained, len(fresh))
    sizes = ", ".join(f"{TASKS[t].abbreviation} {len(s.train):,}/{len(s.val):,}" for t, s in data.items())
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info(
        "%s, %s, seed %d: %s parameters on %s; training/validation samples %s",
        run.model, run.experiment, run.seed, f"{n_parameters:,}", device, sizes,
    )  # fmt: skip
    loop = _Loop(
        folder, run, data, feed, model, optimizer, state, interaction, save_seconds, execution.compile, made_of
    )
    try:
        loop.run_epochs()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainError(_memory_advice(run, execution, device)) from None
    save_model(folder, state.best, run, outputs)
    atomic_write(folder / "history.parquet", history_frame(state).write_parquet)
    load_weights(model, state.best, folder)
    return feed, state


class _Loop:
    """Epochs of one run over what `train` has prepared."""

    def __init__(self, folder, run, data, feed, model, optimizer, state, interaction, save_seconds, compiled, made_of):
        self.folder: Path = folder
        self.run: RunConfig = run
        self.data: dict[str, Splits] = data
        self.feed: Feed = feed
        self.model: Model = model
        self.optimizer: torch.optim.Adam = optimizer
        self.state: TrainState = state
        self.interaction: bool = interaction
        self.save_seconds: float = save_seconds
        self.made_of: str = made_of
        if compiled:
            model.compile_layers()
        self.forward = model
        self.saved = time.monotonic()

    def run_epochs(self) -> None:
        state, run = self.state, self.run
        while state.epoch <= run.epochs:
            start, samples = time.monotonic(), 0
            while state.task < len(run.tasks):
                task = run.tasks[state.task]
                samples += self.train_task(task)
                if self.interaction:
                    self.evaluate_test(task)
                state.task += 1
                if time.monotonic() - self.saved > self.save_seconds:
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

    def save(self) -> None:
        save_state(self.folder, self.state, self.model, self.optimizer, self.run, self.made_of)
        self.saved = time.monotonic()

    def train_task(self, task: str) -> int:
        """All batches of ``task``; returns the number of samples."""
        data, run, rate = self.data[task].train, self.run, self.state.rates[task]
        if not len(data):
            return 0
        seed = seed_everything(run.seed, self.state.epoch, task)
        groups = shuffled(len(data), run.batch_size, seed)
        if run.percent < 100 and run.drg_subset == "per_epoch":
            # As released: the first batches of each epoch's new order.
            groups = groups[: len(groups) * run.percent // 100 + 1]
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=self.feed.device)
        generator = torch.Generator().manual_seed(seed)
        batches = tqdm(
            self.feed.batches(data, groups, generator),
            desc=f"epoch {self.state.epoch}/{run.epochs} {task}",
            total=len(groups),
            unit="batch",
            leave=False,
            disable=None,
        )
        for number, batch in enumerate(batches, 1):
            with mixed_precision(self.feed.device, run.precision):
                output = self.forward(batch)
                loss = self.model.loss(output, batch)
            self.optimizer.zero_grad()
            loss.backward()
            if self.model.gradient_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.model.gradient_clip)
            for group in self.optimizer.param_groups:
                group["lr"] = rate  # each task has its own
            self.optimizer.step()
            total += loss.detach()
            if not batches.disable and number % _BATCHES_PER_LOSS == 0:
                batches.set_postfix(loss=f"{float(total) / number:.4f}", refresh=False)
        mean = float(total) / len(groups)
        if not math.isfinite(mean):
            raise TrainError(
                f"{task}: the loss of epoch {self.state.epoch} is not finite; expected a number. Lower the learning "
                f"rate ({rate:g}) or use train.precision: float32"
            )
        self.state.history.append(self.row("train", task, loss=mean, lr=rate))
        return sum(len(rows) for rows in groups)

    def validate(self) -> None:
        """Score all tasks on validation, keep the weights if they are the best so far, adapt the rates."""
        state, total, measured = self.state, 0.0, False
        for task in self.run.tasks:
            scores = self.score(self.data[task].val)
            metrics = scores.metrics
            state.history.append(self.row("val", task, loss=scores.loss, lr=state.rates[task], **metrics))
            state.losses[task].append(scores.loss)
            total += sum(metrics.get(name, 0.0) for name in TASKS[task].metrics)
            measured |= bool(metrics)
        # Without a single validation sample there is nothing to select by, and the last weights are kept.
        if state.best_score is None or total > state.best_score or not measured:
            state.best_score, state.best_epoch = total, state.epoch
            state.best = {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}
        if len(self.run.tasks) > 1:
            adapt_rates(state.rates, state.losses)

    def evaluate_test(self, after: str) -> None:
        for task in self.run.tasks:
            scores = self.score(self.data[task].test)
            self.state.history.append(self.row(f"after_{after}", task, loss=scores.loss, **scores.metrics))

    def score(self, data: TaskDataset) -> Scores:
        return score(self.model, data, self.feed, batch_size=self.run.batch_size, precision=self.run.precision)

    def row(self, phase: str, task: str, **values: float) -> dict:
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


def seed_everything(seed: int, epoch: int, part: str) -> int:
    """Begin the random streams (Python, numpy, torch) of one part of a run; returns their seed."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{part}".encode()).digest()
    number = int.from_bytes(digest[:4], "little")
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002, a library called by a model may draw from it
    torch.manual_seed(number)
    return number


def history_frame(state: TrainState) -> pl.DataFrame:
    """history.parquet, in the order in which things happened."""
    return pl.DataFrame(state.history, schema=HISTORY)


def choose_device(name: str) -> torch.device:
    """The device of the setting `device`: auto is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainError("train.device: cuda was asked for, and there is no CUDA device; use auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _load(output: Path, run: RunConfig, interaction: bool, embedder: Embedder | None) -> dict[str, Splits]:
    data = {}
    for task in run.tasks:
        parts = {}
        for split in ("train", "val", "test") if interaction else ("train", "val"):
            augment = run.augment and split == "train"
            parts[split] = load_task(output, task, split, max_hours=run.max_hours, augment=augment, embedder=embedder)
        for split, part in parts.items():
            for reason, count in {**part.dropped, **part.absent}.items():
                logger.info("%s, %s: %d samples with %s", task, split, count, reason)
        whole = parts["train"]
        if run.percent < 100 and run.drg_subset == "fixed":
            order = np.random.default_rng(_SUBSET_SEED).permutation(len(whole))
            parts["train"] = whole.subset(order[: max(1, len(whole) * run.percent // 100)])
        size = len(parts["train"])
        if size < run.batch_size:
            logger.warning("%s: %d training samples are less than a batch of %d", task, size, run.batch_size)
        data[task] = Splits(parts["train"], parts["val"], parts.get("test"))
    if not any(len(splits.train) for splits in data.values()):
        raise NoSamplesError(
            f"expected training samples in the cohorts of {', '.join(run.tasks)} in {output}, got none"
        )
    return data


def _placed(data: dict[str, Splits], where: str, device: torch.device) -> dict[str, Splits]:
    """``data`` with its inputs where the setting `data_device` says."""
    parts = {(task, name): part for task, s in data.items() for name, part in vars(s).items() if part is not None}
    placed = dict(zip(parts, place_inputs(list(parts.values()), where, device), strict=True))
    return {task: Splits(*(placed.get((task, name)) for name in ("train", "val", "test"))) for task in data}


def _is_out_of_memory(error: Exception) -> bool:
    # The CPU allocator of torch raises a plain RuntimeError.
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error) for words in ("allocate memory", "out of memory"))


def _memory_advice(run: RunConfig, execution: Execution, device: torch.device) -> str:
    advice = [f"train.batch_size below {run.batch_size}", f"train.max_hours below {run.max_hours}"]
    if device.type == "cuda":
        if execution.data_device != "cpu":
            advice.insert(0, "train.data_device: cpu, which leaves the inputs in the memory of the host")
        if run.precision == "float32":
            advice.append("train.precision: bfloat16")
        advice.append("no other process on this GPU")
    return f"not enough memory on {device} to train {run.model}; try one of\n  " + "\n  ".join(advice)
