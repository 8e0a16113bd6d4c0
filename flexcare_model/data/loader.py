"""Batches of a dataset on a device, assembled in this process, in worker processes, or on the device.

The order of the batches and the random numbers of the augmentation are the same in all three cases.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from flexcare_data.modalities import MODALITIES
from flexcare_data.parallel import prefetch
from flexcare_model.data.batch import Batch
from flexcare_model.data.dataset import TaskDataset, to_device
from flexcare_model.data.index import SampleError
from flexcare_model.data.raw_batch import RawBatch

logger = logging.getLogger(__name__)

MEMORY_FOR_INPUTS = 0.5
"""Fraction of the free memory of a GPU that inputs may take."""
_AHEAD = 2
"""Batches that are assembled while the GPU computes."""


def in_order(n: int, batch_size: int) -> list[np.ndarray]:
    """Rows of ``n`` samples in their order, batch by batch; the last may be smaller."""
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def shuffled(n: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """Rows of ``n`` samples in random order, batch by batch, without the last incomplete batch.

    Fewer samples than one batch make one small batch, so that a small task is trained too.
    """
    order = np.random.default_rng(seed).permutation(n)
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


def one_per_patient(subject_ids: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Rows of all samples in random batches of at most ``batch_size``, with at most one sample of a patient in each.

    There are as few batches as possible, but as many as one patient has samples. Their sizes differ by at most 1.

    Example:
        >>> sorted(rows.tolist() for rows in one_per_patient(np.array([7, 7, 7]), 2, seed=0))
        [[0], [1], [2]]
    """
    if not len(subject_ids):
        return []
    rng = np.random.default_rng(seed)
    patients, own = np.unique(subject_ids, return_inverse=True)
    number = max(-(-len(subject_ids) // batch_size), int(np.bincount(own).max()))
    # Patients in random order, the samples of one next to each other, dealt to the batches in turn.
    place = rng.permutation(len(patients))[own]
    order = np.lexsort([rng.random(len(own)), place])
    return [order[k::number] for k in range(number)]


@dataclass(frozen=True)
class BatchLoader:
    """Make batches on ``device``. ``workers``: processes that assemble them; 0: this process."""

    device: torch.device
    workers: int = 0

    def batches(
        self, data: TaskDataset, groups: Sequence[np.ndarray], generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One batch per group of rows of ``data``, in order."""
        if self.workers and not data.on_device:  # a worker process has no access to tensors of the GPU
            source: Iterator[RawBatch] = iter(
                DataLoader(
                    _RawBatches(data),
                    batch_sampler=[rows.tolist() for rows in groups],
                    num_workers=self.workers,
                    collate_fn=_unchanged,
                    generator=torch.Generator(),  # without it, the global generator of dropout would be used
                )
            )
        else:
            made = (data.raw_batch(rows) for rows in groups)
            source = prefetch(made, _AHEAD) if self.device.type == "cuda" and not data.resident else made
        for raw in source:
            yield data.finish(raw, self.device, generator=generator)


class _RawBatches(Dataset):
    """A dataset of whole batches for a DataLoader, whose workers return the stored inputs."""

    def __init__(self, data: TaskDataset):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> RawBatch:
        return self.data.raw_batch([row])

    def __getitems__(self, rows: Sequence[int]) -> RawBatch:
        return self.data.raw_batch(rows)


def _unchanged(batch: Any) -> Any:
    return batch


def place_inputs(datasets: Sequence[TaskDataset], where: str, device: torch.device) -> list[TaskDataset]:
    """``datasets`` with their inputs where the setting `data_device` says.

    Raises:
        SampleError: if the inputs must be on a GPU and there is none, or they do not fit on it.
    """
    if where == "cuda" and device.type != "cuda":
        raise SampleError(f"train.data_device: expected cuda only with a model on cuda, got it with {device.type}")
    if where == "cpu" or device.type != "cuda":
        return list(datasets)
    free, _ = torch.cuda.mem_get_info(device)
    placed = to_device(datasets, device, budget=free * (MEMORY_FOR_INPUTS if where == "auto" else 1.0))
    done = [name for name in MODALITIES if any(name in data.on_device for data in placed)]
    logger.info("inputs on the GPU: %s", ", ".join(done) or "none, they do not fit")
    if where == "cuda" and not all(data.resident for data in placed):
        raise SampleError(
            f"train.data_device: cuda is set, but only {', '.join(done) or 'nothing'} fits on the GPU; use auto"
        )
    return placed
