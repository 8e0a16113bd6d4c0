"""Inputs as tensors on a device, which assembles the batches; only the positions come from the host.

In: memory-mapped readers of `flexcare_model.data.shards`, and what the samples of several datasets read from them. Out:
one shared reader per modality, and the positions of each dataset in it. Only inputs that are read are uploaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flexcare_data.modalities import IMAGE_SIDE
from flexcare_data.series import ColumnPlan, SharedRows, expand, row_numbers
from flexcare_data.store.shards import ShardedRows
from flexcare_model.data.shards import ImageMaps, NoteMaps, SeriesMaps, spans_read

_CHUNK = 1024
"""Images or texts per copy to the device; limits the memory on the host and the number of copies."""


@dataclass(frozen=True)
class Upload:
    """A planned upload: its size in bytes and the function that does it.

    ``run(device)`` gives the reader and, per dataset, the positions that replace its old ones.
    """

    nbytes: int
    run: Callable[[torch.device], tuple[Any, list[np.ndarray]]]


class SeriesOnDevice:
    """Hourly rows on a device; the 76 columns are made there, batch by batch."""

    def __init__(self, values: Tensor, observed: Tensor, plan: ColumnPlan):
        """Rows as in `SharedRows`; ``plan`` of the columns, with arrays."""
        self.values, self.observed = values, observed
        self.plan = ColumnPlan(*(torch.from_numpy(field).to(values.device) for field in plan))

    def gather(self, ranges: np.ndarray) -> Tensor:
        row = torch.from_numpy(row_numbers(ranges)).to(self.values.device)  # (B, T)
        padding, row = row < 0, row.clamp(min=0)
        series = expand(self.values[row], self.observed[row], self.plan, torch)  # (B, T, 76)
        return series.float().masked_fill_(padding.unsqueeze(-1), 0.0)


def upload_series(readers: Sequence[SeriesMaps], ranges: Sequence[np.ndarray]) -> Upload:
    """Plan the upload of all rows that the readers share."""
    shared = SharedRows([reader.rows for reader in readers])

    def run(device: torch.device) -> tuple[SeriesOnDevice, list[np.ndarray]]:
        values, observed = (torch.from_numpy(array).to(device) for array in shared.read())
        places = [shared.ranges(reader.rows.task, old) for reader, old in zip(readers, ranges, strict=True)]
        return SeriesOnDevice(values, observed, readers[0].plan), places

    return Upload(shared.nbytes, run)


class ImagesOnDevice:
    """Radiographs on a device, (n, 256, 256) uint8."""

    def __init__(self, images: Tensor):
        self.images = images

    def gather(self, numbers: np.ndarray) -> Tensor:
        return self.images[torch.from_numpy(numbers).to(self.images.device)]


def upload_images(readers: Sequence[ImageMaps], numbers: Sequence[np.ndarray]) -> Upload:
    """Plan the upload of the images that samples read, each once. ``numbers`` are -1 where a sample has none."""
    wanted = np.unique(np.concatenate(numbers))
    wanted = wanted[wanted >= 0]

    def run(device: torch.device) -> tuple[ImagesOnDevice, list[np.ndarray]]:
        images = torch.empty((len(wanted), IMAGE_SIDE, IMAGE_SIDE), dtype=torch.uint8, device=device)
        for start in range(0, len(wanted), _CHUNK):
            part = wanted[start : start + _CHUNK]
            images[start : start + len(part)] = readers[0].gather(part).to(device)
        return ImagesOnDevice(images), [np.where(old >= 0, np.searchsorted(wanted, old), -1) for old in numbers]

    return Upload(len(wanted) * IMAGE_SIDE**2, run)


class NotesOnDevice:
    """Tokens of texts on a device, one text after the other."""

    def __init__(self, storage: str, tokens: Tensor, scales: Tensor | None):
        self.storage, self.tokens, self.scales = storage, tokens, scales

    def gather(self, places: np.ndarray) -> tuple[Tensor, Tensor | None]:
        device = self.tokens.device
        spans = spans_read(places, self.storage)
        first, n = torch.from_numpy(spans).to(device).unbind(2)  # (B, K) each
        step = torch.arange(int(spans[:, :, 1].sum(axis=1).max(initial=0)), device=device).expand(len(spans), -1)
        end = n.cumsum(dim=1)  # (B, K), in the tokens of the sample
        inside = step < end[:, -1:]  # (B, N)
        note = torch.searchsorted(end, step.contiguous(), right=True).clamp_(max=n.shape[1] - 1)  # (B, N)
        row = torch.where(inside, (first - end + n).gather(1, note) + step, 0)
        tokens = self.tokens[row]
        tokens = tokens.masked_fill_(~inside.view(*inside.shape, *[1] * (tokens.ndim - 2)), 0)
        return tokens, None if self.scales is None else self.scales[row].masked_fill_(~inside, 0)


def upload_notes(readers: Sequence[NoteMaps], places: Sequence[np.ndarray]) -> Upload:
    """Plan the upload of the texts that samples read, each once, in the greatest length that is read."""
    notes = readers[0].notes
    spans = [spans_read(part, notes.storage) for part in places]
    every = np.concatenate([part.reshape(-1, 2) for part in spans])
    every = every[every[:, 1] > 0]
    first, text = np.unique(every[:, 0], return_inverse=True)
    length = np.zeros(len(first), np.int64)
    np.maximum.at(length, text, every[:, 1])
    start = np.cumsum(length) - length
    arrays = [notes.rows] if notes.scales is None else [notes.rows, notes.scales]

    def run(device: torch.device) -> tuple[NotesOnDevice, list[np.ndarray]]:
        tokens, *scales = (_upload_rows(rows, first, length, start, device) for rows in arrays)
        new = []
        for old in places:
            has = old[:, :, 1] > 0
            moved = np.where(has[:, :, None], old, 0)
            moved[has, 0] = start[np.searchsorted(first, old[has, 0])]
            new.append(moved)
        return NotesOnDevice(notes.storage, tokens, scales[0] if scales else None), new

    return Upload(int(length.sum()) * sum(rows.row_bytes for rows in arrays), run)


def _upload_rows(rows: ShardedRows, first: np.ndarray, length: np.ndarray, start: np.ndarray, device) -> Tensor:
    dtype = torch.from_numpy(rows.arrays[0][:0].copy()).dtype
    out = torch.zeros((int(length.sum()) or 1, *rows.row_shape), dtype=dtype, device=device)
    for chunk in range(0, len(first), _CHUNK):
        texts = slice(chunk, chunk + _CHUNK)
        packed = np.concatenate([rows.read(*text) for text in zip(first[texts], length[texts], strict=True)])
        out[start[chunk] : start[chunk] + len(packed)] = torch.from_numpy(packed).to(device)
    return out


UPLOADS: dict[str, tuple[type, Callable[..., Upload]]] = {
    "time_series": (SeriesMaps, upload_series),
    "image": (ImageMaps, upload_images),
    "note": (NoteMaps, upload_notes),
}
"""Mapped reader of each modality and how it is uploaded, in the order in which device memory is assigned."""
