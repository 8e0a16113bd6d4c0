"""The bank of a model that compares a sample with training samples (M3Care): which samples, and their vectors.

In: training samples, a seed. Out: their rows, the filled bank of the model, and bank.parquet. The vectors are stored
with the weights, so a run answers without its training data.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from flexcare_model.data.dataset import TaskDataset
from flexcare_model.data.loader import BatchLoader, in_order
from flexcare_model.models import Model
from flexcare_model.training.evaluate import mixed_precision


def draw_bank(subject_ids: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Rows of at most ``size`` random samples, at most one per patient, ascending.

    Example:
        >>> draw_bank(np.array([7, 7, 7, 8]), 5, seed=0).size
        2
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(subject_ids))
    _, first = np.unique(subject_ids[order], return_index=True)
    return np.sort(rng.permutation(order[first])[:size])


def fill_bank(
    model: Model, data: TaskDataset, loader: BatchLoader, *, seed: int, batch_size: int, precision: str
) -> np.ndarray:
    """Fill the bank of ``model`` with samples of ``data``, the training split; the model keeps its mode.

    Returns:
        The rows of ``data``.
    """
    rows = draw_bank(data.subject_ids, model.bank_size, seed)
    groups = [rows[group] for group in in_order(len(rows), batch_size)]
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), mixed_precision(loader.device, precision):
            model.fill_bank(
                loader.batches(data.without_augmentation(), groups), neighbours=min(batch_size, len(data)) - 1
            )
    finally:
        model.train(training)
    return rows


def bank_frame(data: TaskDataset, rows: np.ndarray) -> pl.DataFrame:
    """bank.parquet: sample_id and subject_id of the samples in the bank, in its order."""
    ids = np.asarray(data.sample_ids, dtype=object)[rows].tolist()
    return pl.DataFrame({"sample_id": pl.Series(ids, dtype=pl.String), "subject_id": data.subject_ids[rows]})
