"""A trained run applied to any cohort of one of its tasks, with any subset of the modalities.

In: the folder of a run, a cohort. Out: one row per sample: its scores, which modalities it had, and (FlexCare and
variants) which modality combinations were used with their fusion weights, which sum to 1.

A score depends on its sample and the run only, not on order, batch or other samples. M3Care uses the bank of its run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
import torch

from flexcare_data.modalities import LETTERS, MODALITIES
from flexcare_model.data.dataset import TaskDataset, load_task
from flexcare_model.data.index import SampleError
from flexcare_model.data.loader import BatchLoader
from flexcare_model.models import Model
from flexcare_model.notes.encoder import Encoder, EncoderError
from flexcare_model.notes.loading import load_into_memory
from flexcare_model.training.checkpoint import load_model
from flexcare_model.training.evaluate import predictions, score
from flexcare_model.training.run_config import RunConfig


def predict(
    folder: Path,
    task: str,
    *,
    output: Path | None = None,
    split: str | None = None,
    without: Sequence[str] = (),
    cohort: Path | pl.DataFrame | None = None,
    encoder: str | None = None,
    device: torch.device | str = "cpu",
) -> pl.DataFrame:
    """Score a cohort with the run in ``folder``.

    Args:
        folder: of the run, with model.safetensors and config.json.
        task: one of the run's tasks.
        output: folder with cohorts and shards; None: the one that contains the run.
        split: train, val or test; None: all samples.
        without: modalities to remove (time_series, image, note). Samples without any modality left have no row.
        cohort: other samples than those of the output folder, with or without labels.
        encoder: where the notes are stored as word-piece ids, the encoder to use (see `find_embedder`).
        device: where to compute.

    Returns:
        sample_id; the scores as in predictions/<task>.parquet; modalities (letters of T, I, N); combinations, those
        used, joined by a comma, and weight_<combination>, where the model has such.

    Raises:
        SampleError: if the run was not trained on ``task``, or the cohort cannot be read.
        CheckpointError: if the run's files do not belong together.
    """
    model, run = load_model(folder, device=device)
    if task not in run.tasks:
        raise SampleError(f"{folder}: expected a task of this run, {', '.join(run.tasks)}; got {task}")
    output = output or output_of(folder)
    data = load_task(
        output, task, split, max_hours=run.max_hours, max_tokens=run.settings.max_tokens, augment=False, cohort=cohort,
        embedder=find_embedder(output, encoder, device),
    )  # fmt: skip
    data = data.without(*without) if without else data
    if (width := run.settings.note_width) != data.note_width and data.present[:, MODALITIES.index("note")].any():
        raise SampleError(
            f"{folder}: expected note vectors of width {width}, as in its training, got {data.note_width} in {output}; "
            "use data of the same note encoder, or --without note"
        )
    return _explained(model, run, data, BatchLoader(torch.device(device)))


def output_of(folder: Path) -> Path:
    """The output folder that the run in ``folder`` belongs to: the nearest folder above with cohorts.

    Raises:
        SampleError: if there is none.
    """
    for place in Path(folder).absolute().parents:
        if (place / "cohorts").is_dir():
            return place
    raise SampleError(f"{folder}: expected a run below an output folder with cohorts/, found none; set --output")


def _explained(model: Model, run: RunConfig, data: TaskDataset, loader: BatchLoader) -> pl.DataFrame:
    scores = score(
        model, data, loader, batch_size=run.batch_size, precision=run.precision, details=("fusion_weights", "available")
    )
    frame = predictions(scores).with_columns(
        modalities=pl.Series(["".join(_chosen(LETTERS, row)) for row in data.present], dtype=pl.String)
    )
    if "fusion_weights" not in scores.details:
        return frame
    names = cast("Sequence[str]", model.combinations)
    used = scores.details["available"] > 0
    weights = scores.details["fusion_weights"]
    return frame.with_columns(
        pl.Series("combinations", [",".join(_chosen(names, row)) for row in used], dtype=pl.String),
        *(pl.Series(f"weight_{name}", weights[:, k], dtype=pl.Float32) for k, name in enumerate(names)),
    )


def _chosen(names: Sequence[str], row: np.ndarray) -> list[str]:
    return [name for name, used in zip(names, row, strict=True) if used]


def find_embedder(output: Path, encoder: str | None, device: torch.device | str) -> Encoder | None:
    """The frozen encoder for notes that are stored as word-piece ids; None where vectors are stored, or no notes.

    ``encoder``: folder or hub name; None or ``tiny``: the small one that is stored beside the notes.

    Raises:
        EncoderError: if it cannot be found, or is not the one whose tokenizer made the ids.
    """
    from flexcare_data.store.pools import read_pool

    notes = output / "data" / "notes"
    if not (notes / "shards").exists():
        return None
    settings = read_pool(notes / "shards")
    if settings.get("storage") != "tokens":
        return None
    if encoder in (None, "tiny"):
        beside = (notes / "index.parquet").resolve().parent / "encoder"
        if not beside.exists():
            raise EncoderError(f"{notes} holds word-piece ids: name the encoder that they were made for (--encoder)")
        encoder = str(beside)
    loaded = load_into_memory(encoder)
    if loaded.digest != settings.get("encoder"):
        raise EncoderError(f"encoder {encoder}: is not the one that the word-piece ids in {notes} were made for")
    return loaded.to(device)
