"""From datasets to batches on a device: assembled here, in worker processes, or on the device itself.

The order of the batches and the random numbers of the augmentation are the same in all three ways.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from flexcare_model.data.batch import Batch
from flexcare_model.data.dataset import SampleError, TaskDataset
from flexcare_model.data.image_transforms import STORED_SIZE
from flexcare_model.data.raw_batch import RawBatch
from flexcare_model.data.shards import ImagesOnDevice, NotesOnDevice, SeriesOnDevice

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.5
"""Share of the free memory of a GPU that inputs may take."""
_AHEAD = 2


def in_order(n: int, batch_size: int) -> list[np.ndarray]:
    """Rows of ``n`` samples in their order, batch by batch; the last may be smaller."""
    return [np.arange(start, min(start + batch_size, n)) for start in range(0, n, batch_size)]


def shuffled(n: int, batch_size: int, seed: int) -> list[np.ndarray]:
    """Rows of ``n`` samples in random order, batch by batch, without the last incomplete batch.

    Fewer samples than one batch make one small batch, as there would be nothing to train on otherwise.
    """
    order = np.random.default_rng(seed).permutation(n)
    batches = [order[start : start + batch_size] for start in range(0, n, batch_size)]
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch_size else batches


@dataclass(frozen=True)
class Feed:
    """Makes batches on ``device``; ``workers`` processes assemble them, 0: this one."""

    device: torch.device
    workers: int = 0

    def batches(
        self, data: TaskDataset, groups: Sequence[np.ndarray], generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """One batch per group of rows of ``data``, in order."""
        convert = self.device.type == "cpu"
        resident = data.resident
        if self.workers and not resident:
            source = iter(
                DataLoader(
                    _RawBatches(data, convert),
                    batch_sampler=groups,
                    num_workers=self.workers,
                    collate_fn=_unchanged,
                    generator=torch.Generator(),  # or it would draw from the stream of the dropout
                )
            )
        else:
            source = (data.raw_batch(rows, convert=convert) for rows in groups)
            if self.device.type == "cuda" and not resident:
                source = _ahead(source)
        for raw in source:
            yield data.finish(raw, self.device, generator=generator)


class _RawBatches(Dataset):
    """A dataset of whole batches for a DataLoader, whose workers hand on what the shards hold."""

    def __init__(self, data: TaskDataset, convert: bool):
        self.data, self.convert = data, convert

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> RawBatch:
        return self.data.raw_batch([row], convert=self.convert)

    def __getitems__(self, rows: Sequence[int]) -> RawBatch:
        return self.data.raw_batch(rows, convert=self.convert)


def _unchanged(batch: RawBatch) -> RawBatch:
    return batch


def _ahead(source: Iterator[RawBatch]) -> Iterator[RawBatch]:
    """``source`` computed by a thread, up to two batches before they are asked for."""
    made: queue.Queue = queue.Queue(maxsize=_AHEAD)
    stopped = threading.Event()

    def offer(item: RawBatch | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                made.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in source:
                offer(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # handed to the reader, who raises it
            offer(error)
        else:
            offer(None)

    thread = threading.Thread(target=work, name="batches ahead", daemon=True)
    thread.start()
    try:
        while isinstance(item := made.get(), RawBatch):
            yield item
        if item is not None:
            raise item
    finally:
        stopped.set()
        thread.join()


def place_inputs(datasets: Sequence[TaskDataset], where: str, device: torch.device) -> None:
    """Put the inputs of ``datasets`` where the setting `data_device` says.

    Raises:
        SampleError: if they shall live on a GPU and there is none, or do not fit on it.
    """
    if where == "cuda" and device.type != "cuda":
        raise SampleError(f"train.data_device: expected cuda only with a model on cuda, got it with {device.type}")
    if where == "cpu" or device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    done = make_resident(datasets, device, int(free * (RESIDENT_SHARE if where == "auto" else 1.0)))
    logger.info("inputs on the GPU: %s", ", ".join(done) or "none, they do not fit")
    if where == "cuda" and not all(data.resident for data in datasets):
        raise SampleError(
            f"train.data_device: cuda was asked for, only {', '.join(done) or 'nothing'} fits on the GPU; use auto"
        )


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
