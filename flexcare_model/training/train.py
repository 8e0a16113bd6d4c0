"""One training: load the data, make or restore the model, run the epochs, write the results.

In: an output folder with cohorts and shards, a `RunConfig`. Out: the run's folder with model.safetensors, config.json,
history.parquet, log.csv, and bank.parquet of a model with a bank. `flexcare_model.training.evaluate` adds the test
results. The epochs are in `flexcare_model.training.loop`.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from flexcare_data.hashing import file_digest
from flexcare_data.store.folders import atomic_write
from flexcare_data.tasks import TASKS
from flexcare_model.data.dataset import load_task
from flexcare_model.data.loader import BatchLoader, place_inputs
from flexcare_model.data.raw_batch import Embedder
from flexcare_model.models import MODELS
from flexcare_model.training.bank import bank_frame, draw_bank
from flexcare_model.training.checkpoint import (
    WEIGHTS,
    TrainState,
    load_pretrained,
    load_state,
    load_weights,
    save_model,
)
from flexcare_model.training.data_digest import data_digest
from flexcare_model.training.log import TrainingLog
from flexcare_model.training.loop import Loop, SplitDatasets, TrainError, history_frame, seed_everything
from flexcare_model.training.run_config import Execution, RunConfig

logger = logging.getLogger(__name__)

_SUBSET_SEED = 0
"""Seed of the fixed share of the training data: the same samples for every model and seed."""


class NoSamplesError(TrainError):
    """The cohorts of a run have no training samples."""


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
    key: str = "",
) -> tuple[BatchLoader, TrainState]:
    """Train ``run`` to its end; a killed training in ``folder`` continues.

    Args:
        output: folder with cohorts and shards.
        folder: of the run.
        pretrained: folder of the run whose weights a pretrained experiment starts from.
        interaction: evaluate the test split of all tasks after each task of each epoch (paper's figure 7). Nothing is
            selected by it.
        embedder: encoder of word-piece ids, where the notes are stored as such.
        save_seconds: write the state in the middle of an epoch if it is older than this.
        key: key of the run, which covers its code; a state with another key is ignored.

    Returns:
        The loader, for the evaluation, and the final state. The state stays on disk until `forget_state`, so that a
        run that is killed during the evaluation is not trained again.

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
    if execution.compile:
        torch.use_deterministic_algorithms(True, warn_only=True)
    else:
        # The same for code that is not compiled. The function above also loads the compiler: 2 s in each run.
        torch.set_deterministic_debug_mode("warn")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module class
    data = _load(output, run, interaction, embedder)
    outputs = {task: splits.train.n_outputs for task, splits in data.items()}
    data = _placed(data, execution.data_device, device)
    loader = BatchLoader(device, execution.workers)
    seed_everything(run.seed, 0, "weights")
    model = MODELS[run.model](run.settings, outputs).to(device)
    optimizer = make_optimizer(model, run)
    start = file_digest(pretrained / WEIGHTS) if pretrained is not None and (pretrained / WEIGHTS).is_file() else ""
    origin = " ".join([data_digest(output, run.tasks), start, key])
    state = load_state(folder, model, optimizer, run, device, origin)
    if state is not None:
        logger.info("%s: continuing at epoch %d of %d", folder, state.epoch, run.epochs)
    else:
        state = TrainState(rates=dict.fromkeys(run.tasks, run.lr), losses={task: [] for task in run.tasks})
        if pretrained is not None:
            fresh = load_pretrained(model, pretrained, run)
            logger.info("started from %s; %d tensors keep their initial values", pretrained, len(fresh))
    sizes = ", ".join(f"{TASKS[t].abbreviation} {len(s.train):,}/{len(s.val):,}" for t, s in data.items())
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    logger.info(
        "%s, %s, seed %d: %s parameters on %s; training/validation samples %s",
        run.model, run.experiment, run.seed, f"{n_parameters:,}", device, sizes,
    )  # fmt: skip
    if execution.compile:
        model.compile_layers()
    log = TrainingLog(folder, epoch=state.epoch, trained=run.tasks[: state.task])
    loop = Loop(folder, run, data, loader, model, optimizer, state, interaction, save_seconds, origin, log)
    try:
        loop.run_epochs()
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise TrainError(_memory_advice(run, execution, device)) from None
    finally:
        log.close()
    save_model(folder, state.best, run, outputs)
    atomic_write(folder / "history.parquet", history_frame(state).write_parquet)
    load_weights(model, state.best, folder)
    if model.bank_size:
        (splits,) = data.values()
        rows = draw_bank(splits.train.subject_ids, model.bank_size, run.seed)
        atomic_write(folder / "bank.parquet", bank_frame(splits.train, rows).write_parquet)
    return loader, state


def make_optimizer(model: torch.nn.Module, run: RunConfig) -> torch.optim.Optimizer:
    """Adam with the run's weight decay as part of the gradient, or AdamW, which shrinks the weights by it."""
    kind = torch.optim.AdamW if run.optimizer == "adamw" else torch.optim.Adam
    return kind(model.parameters(), lr=run.lr, weight_decay=run.weight_decay, fused=True)


def choose_device(name: str) -> torch.device:
    """The device of the setting `device`: auto is CUDA where there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainError("train.device: cuda is set, and there is no CUDA device; use auto or cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def _load(output: Path, run: RunConfig, interaction: bool, embedder: Embedder | None) -> dict[str, SplitDatasets]:
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
        data[task] = SplitDatasets(parts["train"], parts["val"], parts.get("test"))
    if not any(len(splits.train) for splits in data.values()):
        raise NoSamplesError(
            f"expected training samples in the cohorts of {', '.join(run.tasks)} in {output}, got none"
        )
    return data


def _placed(data: dict[str, SplitDatasets], where: str, device: torch.device) -> dict[str, SplitDatasets]:
    """``data`` with its inputs where the setting `data_device` says."""
    parts = {(task, name): part for task, s in data.items() for name, part in vars(s).items() if part is not None}
    placed = dict(zip(parts, place_inputs(list(parts.values()), where, device), strict=True))
    return {
        task: SplitDatasets(placed[task, "train"], placed[task, "val"], placed.get((task, "test"))) for task in data
    }


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
