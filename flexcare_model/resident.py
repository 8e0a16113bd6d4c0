"""Inputs that live on a device: a split that fits is uploaded once, and its batches are assembled there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from flexcare_model.arrays import ImagesOnDevice, NotesOnDevice, SeriesOnDevice
from flexcare_model.samples import TaskDataset
from flexcare_model.transforms import STORED_SIZE


def make_resident(datasets: Sequence[TaskDataset], device: torch.device, budget: int) -> list[str]:
    """Put the inputs of ``datasets`` on ``device`` whole, in the order series, images, notes, as ``budget`` bytes last.

    What several datasets share is there once. What does not fit stays memory-mapped.

    Returns:
        The modalities that are on the device now.
    """
    done = []
    with_series = [d for d in datasets if d.present[:, 0].any()]
    # Samples without a tail never look at one, so one copy with the tails serves every task.
    maps = max((d.sources.series for d in with_series), key=lambda m: m.nbytes, default=None)
    if maps is not None and maps.nbytes <= budget and len({d.sources.tails for d in with_series} - {None}) <= 1:
        series = SeriesOnDevice(maps, device)
        for dataset in with_series:
            dataset.sources.series = series
        budget -= maps.nbytes
        done.append("time_series")
    with_image = [d for d in datasets if d.present[:, 1].any()]
    if with_image:
        wanted = {d: np.unique(d.columns["image_row"][d.present[:, 1]]) for d in with_image}
        union = np.unique(np.concatenate(list(wanted.values())))
        size = len(union) * STORED_SIZE**2
        if size <= budget and _same_shards(d.sources.image_shards for d in with_image):
            images = ImagesOnDevice(with_image[0].sources.images, union, device)
            for dataset in with_image:
                dataset.sources.images = images
            budget -= size
            done.append("image")
    with_note = [d for d in datasets if (d.present[:, 2] & (d.columns["n_tokens"] > 0)).any()]
    if with_note and _same_shards(d.sources.note_shards for d in with_note):
        texts = [np.stack([d.columns["note_offset"], d.columns["n_tokens"]]) for d in with_note]
        texts = np.concatenate(texts, axis=1)
        offsets, first = np.unique(texts[0, texts[1] > 0], return_index=True)
        lengths = texts[1, texts[1] > 0][first]
        maps = with_note[0].sources.notes
        size = int(lengths.sum()) * (int(np.prod(maps.rows.row_shape)) * maps.rows.dtype.itemsize + 2)
        if size <= budget:
            notes = NotesOnDevice(maps, offsets, lengths, device)
            for dataset in with_note:
                dataset.sources.notes = notes
            done.append("note")
    return done


def _same_shards(lists: Iterable[list[str]]) -> bool:
    return len({tuple(names) for names in lists}) == 1
