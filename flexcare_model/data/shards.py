"""The shards of an output folder as arrays that assemble whole batches: memory-mapped, or resident on a device.

In: `data/hourly/`, `data/cxr/`, `data/notes/`. Out: tensors of a batch. Every modality has two sources with the same
``gather``: one over memory maps (the operating system's page cache is the buffer) and one over tensors that live on a
device. Positions are global: row r of the k-th shard has number ``base[k] + r``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numba
import numpy as np
import torch
from torch import Tensor

from flexcare_data.errors import UserError
from flexcare_data.variables import CATEGORIES, CONTINUOUS, VARIABLES

N_VALUE_COLUMNS = sum(len(CATEGORIES.get(name, ("",))) for name in VARIABLES)
N_COLUMNS = N_VALUE_COLUMNS + len(VARIABLES)
FIRST_COLUMN = np.cumsum([0] + [len(CATEGORIES.get(name, ("",))) for name in VARIABLES])[:-1]
"""First input column of each variable."""
N_CATEGORIES = np.array([len(CATEGORIES.get(name, ())) for name in VARIABLES])
"""One-hot columns of each variable; 0 where continuous."""
_CONTINUOUS = np.array([(v, FIRST_COLUMN[v]) for v in range(len(VARIABLES)) if not N_CATEGORIES[v]])
_CATEGORICAL = np.array([(v, FIRST_COLUMN[v], N_CATEGORIES[v]) for v in range(len(VARIABLES)) if N_CATEGORIES[v]])

NO_TAIL = np.iinfo(np.int64).max
"""``tail_row`` of a sample whose series is that of its stay to the end."""


Kinds = dict[str, tuple[int, ...]]
"""Number types that a shard may have, as NPY writes them, and the shape of its rows."""
VALUES: Kinds = {"<f8": (len(VARIABLES),)}
OBSERVED: Kinds = {"|u1": (len(VARIABLES),)}
IMAGES: Kinds = {"|u1": (256, 256)}
NOTES: Kinds = {"<f2": (768,), "|i1": (768,), "<i4": ()}
SCALES: Kinds = {"<f2": ()}


class ShardError(UserError):
    """A shard below the output folder is not what its index says."""


def open_array(path: Path, kinds: Kinds) -> np.ndarray:
    """Map an NPY file into memory, unpickled and writable in private only (torch wants writable arrays).

    Raises:
        ShardError: if it is absent, of none of ``kinds``, or not as long as it says.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            n_bytes = path.stat().st_size - file.tell()
    except FileNotFoundError:
        raise ShardError(f"{path}: expected a shard that the index names, found no file; rebuild it") from None
    except (ValueError, EOFError):
        raise ShardError(f"{path}: expected an NPY array, got something else; rebuild it") from None
    if shape[1:] != kinds.get(dtype.str) or not shape or fortran:
        expected = " or ".join(f"{row} of {np.dtype(kind)}" for kind, row in kinds.items())
        raise ShardError(f"{path}: expected rows {expected}, got an array {shape} of {dtype}; rebuild it")
    if math.prod(shape) * dtype.itemsize != n_bytes:
        raise ShardError(f"{path}: expected an array {shape} of {dtype}, as it says, got {n_bytes:,} bytes; rebuild it")
    if not n_bytes:  # nothing to map
        return np.zeros(shape, dtype)
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # no check for a zero divisor in the inner loop
def _write_hours(out, b, t, values, observed, first, n, continuous, categorical, mean, std):
    """Expand rows ``first`` .. ``first + n`` to the 76 columns at ``out[b, t:t + n]``.

    ``continuous`` (12, 2) and ``categorical`` (5, 3): number of the variable, its first column, its categories.
    """
    n_variables = values.shape[1]
    n_values = out.shape[2] - n_variables
    for k in range(n):
        row = first + k
        for c in range(n_values):
            out[b, t + k, c] = 0.0
        for i in range(continuous.shape[0]):
            out[b, t + k, continuous[i, 1]] = (values[row, continuous[i, 0]] - mean[i]) / std[i]
        for i in range(categorical.shape[0]):
            chosen = int(values[row, categorical[i, 0]])
            if 0 <= chosen < categorical[i, 2]:
                out[b, t + k, categorical[i, 1] + chosen] = 1.0
        for v in range(n_variables):
            out[b, t + k, n_values + v] = observed[row, v]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _fill_series(out, values, observed, tail_values, tail_observed, spans, continuous, categorical, mean, std):
    """Write the 76 columns of each sample into ``out`` (B, T, 76), zeros after its last hour.

    ``spans`` (B, 5): first row to read, number of rows, row of the stay from which the tail replaces, first row of
    the tail, first hour that is read.
    """
    for b in range(out.shape[0]):
        length, first = spans[b, 1], spans[b, 4]
        own = min(length, max(spans[b, 2] - first, 0))
        _write_hours(out, b, 0, values, observed, spans[b, 0], own, continuous, categorical, mean, std)
        if own < length:
            row = spans[b, 3] + first + own - spans[b, 2]
            _write_hours(out, b, own, tail_values, tail_observed, row, length - own, continuous, categorical, mean, std)
        out[b, length:] = 0.0


def open_hours(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """values.npy and observed.npy of ``folder``, as long as one another."""
    values, observed = open_array(folder / "values.npy", VALUES), open_array(folder / "observed.npy", OBSERVED)
    if len(values) != len(observed):
        raise ShardError(f"{folder}: expected as many rows observed as values, got {len(observed)} and {len(values)}")
    return values, observed


class SeriesMaps:
    """Hourly rows on disk to (B, T, 76) float32: one-hot, standardised, right padded with zeros."""

    def __init__(self, hourly: Path, tails: Path | None):
        self.values, self.observed = open_hours(hourly)
        self.tail_values, self.tail_observed = self.values[:0], self.observed[:0]
        if tails is not None:
            self.tail_values, self.tail_observed = open_hours(tails)
        scaler = json.loads((hourly / "scaler.json").read_text())
        if tuple(scaler["columns"]) != CONTINUOUS or not all(std > 0 for std in scaler["std"]):
            raise ShardError(f"{hourly / 'scaler.json'}: expected {CONTINUOUS}, each with a std above 0")
        self.mean, self.std = np.array(scaler["mean"], dtype=np.float64), np.array(scaler["std"], dtype=np.float64)

    def gather(self, spans: np.ndarray, hours: int) -> Tensor:
        """Series of a batch, (B, ``hours``, 76). ``spans`` (B, 5) as in `series_spans`."""
        out = np.empty((len(spans), hours, N_COLUMNS), dtype=np.float32)
        _fill_series(
            out, self.values, self.observed, self.tail_values, self.tail_observed, spans,
            _CONTINUOUS, _CATEGORICAL, self.mean, self.std,
        )  # fmt: skip
        return torch.from_numpy(out)

    @property
    def nbytes(self) -> int:
        return sum(a.nbytes for a in (self.values, self.observed, self.tail_values, self.tail_observed))


def series_spans(
    offset: np.ndarray, n_hours: np.ndarray, tail_row: np.ndarray, tail_offset: np.ndarray, max_hours: int
) -> np.ndarray:
    """What `SeriesMaps.gather` reads for samples of ``n_hours`` rows (0: no series), the last ``max_hours`` of them."""
    length = np.minimum(n_hours, max_hours)
    first = n_hours - length
    return np.stack([offset + first, length, tail_row, tail_offset, first], axis=1)


class SeriesOnDevice:
    """The rows of `SeriesMaps` as tensors of a device; the 76 columns are made there, batch by batch."""

    def __init__(self, maps: SeriesMaps, device: torch.device):
        self.n_main = len(maps.values)
        self.values = torch.from_numpy(np.concatenate([maps.values, maps.tail_values])).to(device)
        self.observed = torch.from_numpy(np.concatenate([maps.observed, maps.tail_observed])).to(device)
        variable = np.repeat(np.arange(len(VARIABLES)), np.maximum(N_CATEGORIES, 1))
        self.variable = torch.from_numpy(variable).to(device)  # of each of the 59 value columns
        category = np.arange(N_VALUE_COLUMNS) - FIRST_COLUMN[variable]
        self.category = torch.from_numpy(category.astype(np.float64)).to(device)
        self.one_hot = torch.from_numpy(N_CATEGORIES[variable] > 0).to(device)
        mean, std = np.zeros(N_VALUE_COLUMNS), np.ones(N_VALUE_COLUMNS)
        mean[_CONTINUOUS[:, 1]], std[_CONTINUOUS[:, 1]] = maps.mean, maps.std
        self.mean, self.std = torch.from_numpy(mean).to(device), torch.from_numpy(std).to(device)

    def gather(self, spans: np.ndarray, hours: int) -> Tensor:
        device = self.values.device
        offset, length, tail_row, tail_offset, first = torch.from_numpy(spans).to(device).unsqueeze(-1).unbind(1)
        step = torch.arange(hours, device=device).unsqueeze(0)  # (1, T)
        hour = first + step
        row = torch.where(hour >= tail_row, self.n_main + tail_offset + hour - tail_row, offset + step)  # (B, T)
        inside = step < length
        row = torch.where(inside, row, 0)
        numbers = self.values[row][..., self.variable]  # (B, T, 59)
        columns = torch.where(self.one_hot, (numbers == self.category).double(), (numbers - self.mean) / self.std)
        series = torch.cat([columns.float(), self.observed[row].float()], dim=-1)  # (B, T, 76)
        return series.masked_fill_(~inside.unsqueeze(-1), 0.0)


class ShardedRows:
    """Arrays of several NPY shards, opened when first read. ``names`` in a fixed order give the global numbers."""

    def __init__(self, folder: Path, names: list[str], kinds: Kinds):
        """All shards must be of one of ``kinds``."""
        self.folder, self.names = folder, names
        for name in names:
            if Path(name).name != name:
                raise ShardError(f"{folder}: expected the index to name files of this folder, got another path")
        self.arrays = [open_array(folder / name, kinds) for name in names]
        kinds = {(array.dtype, array.shape[1:]) for array in self.arrays}
        if len(kinds) > 1:
            raise ShardError(f"{folder}: expected shards of one kind, got {len(kinds)}; rebuild it")
        self.base = np.concatenate([[0], np.cumsum([len(array) for array in self.arrays])]).astype(np.int64)

    def read(self, first: int, n: int) -> np.ndarray:
        """``n`` rows from global row ``first`` on, all of one shard."""
        shard = int(np.searchsorted(self.base, first, side="right")) - 1
        return self.arrays[shard][first - self.base[shard] : first - self.base[shard] + n]

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.arrays[0].shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype


class ImageMaps:
    """Radiographs on disk, (256, 256) uint8 each."""

    def __init__(self, rows: ShardedRows):
        self.rows = rows

    def gather(self, numbers: np.ndarray) -> Tensor:
        """Images with global row ``numbers`` (n,), as (n, 256, 256)."""
        out = np.empty((len(numbers), *self.rows.row_shape), dtype=self.rows.dtype)
        for place, number in zip(out, numbers, strict=True):
            place[...] = self.rows.read(number, 1)[0]
        return torch.from_numpy(out)


class ImagesOnDevice:
    """The images ``numbers`` (sorted, unique) of a source as one tensor of a device."""

    def __init__(self, maps: ImageMaps, numbers: np.ndarray, device: torch.device):
        self.numbers = numbers
        self.images = torch.empty((len(numbers), *maps.rows.row_shape), dtype=torch.uint8, device=device)
        for start in range(0, len(numbers), 1024):  # bounded memory of the host
            part = numbers[start : start + 1024]
            self.images[start : start + len(part)] = maps.gather(part).to(device)

    def gather(self, numbers: np.ndarray) -> Tensor:
        places = _places(self.numbers, numbers)
        return self.images[torch.from_numpy(places).to(self.images.device)]


class NoteMaps:
    """Token vectors on disk: float16, int8 with one scale per token, or word-piece ids (see `NoteMaps.storage`)."""

    def __init__(self, rows: ShardedRows):
        self.rows = rows
        self.storage = {"float16": "float16", "int8": "int8"}.get(rows.dtype.name, "tokens")
        self.scales = None
        if self.storage == "int8":
            names = [f"{name.removesuffix('.npy')}.scale.npy" for name in rows.names]
            self.scales = ShardedRows(rows.folder, names, SCALES)

    def gather(self, offsets: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Tokens of texts at global ``offsets`` (B,), right padded with zeros to the longest: (B, N, width) as stored
        (ids: (B, N)), and for int8 the scales (B, N)."""
        longest = int(lengths.max(initial=0))
        tokens = _gather_ragged(self.rows, offsets, lengths, longest)
        return tokens, None if self.scales is None else _gather_ragged(self.scales, offsets, lengths, longest)

    def gather_vectors(self, offsets: np.ndarray, lengths: np.ndarray) -> Tensor:
        """As `gather`, but converted to float32 on the way: (B, N, width). Not for ids."""
        out = np.empty((len(offsets), int(lengths.max(initial=0)), *self.rows.row_shape), dtype=np.float32)
        for place, offset, length in zip(out, offsets, lengths, strict=True):
            if length and self.scales is None:
                torch.from_numpy(place[:length]).copy_(torch.from_numpy(self.rows.read(offset, length)))
            elif length:
                scale = self.scales.read(offset, length).astype(np.float32)
                _dequantise(place, self.rows.read(offset, length), scale)
            place[length:] = 0.0
        return torch.from_numpy(out)


@numba.njit(cache=True, nogil=True)
def _dequantise(out, levels, scale):
    for t in range(levels.shape[0]):
        for k in range(levels.shape[1]):
            out[t, k] = np.float32(levels[t, k]) * scale[t]


def _gather_ragged(rows: ShardedRows, offsets: np.ndarray, lengths: np.ndarray, longest: int) -> Tensor:
    out = np.empty((len(offsets), longest, *rows.row_shape), dtype=rows.dtype)
    for place, offset, length in zip(out, offsets, lengths, strict=True):
        if length:
            place[:length] = rows.read(offset, length)
        place[length:] = 0
    return torch.from_numpy(out)


class NotesOnDevice:
    """The texts at ``offsets`` (sorted, unique, none empty) of a source, end to end in one tensor of a device."""

    def __init__(self, maps: NoteMaps, offsets: np.ndarray, lengths: np.ndarray, device: torch.device):
        self.storage = maps.storage
        self.offsets = offsets
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self.tokens = _upload(maps.rows, offsets, lengths, self.starts, device)
        self.scales = None if maps.scales is None else _upload(maps.scales, offsets, lengths, self.starts, device)

    def gather(self, offsets: np.ndarray, lengths: np.ndarray) -> tuple[Tensor, Tensor | None]:
        device = self.tokens.device
        starts = np.zeros(len(offsets), dtype=np.int64)
        starts[lengths > 0] = self.starts[_places(self.offsets, offsets[lengths > 0])]
        start = torch.from_numpy(starts).to(device).unsqueeze(1)
        step = torch.arange(int(lengths.max(initial=0)), device=device).unsqueeze(0)
        inside = step < torch.from_numpy(lengths).to(device).unsqueeze(1)  # (B, N)
        row = torch.where(inside, start + step, 0)
        tokens = self.tokens[row]
        tokens = tokens.masked_fill_(~inside.view(*inside.shape, *[1] * (tokens.ndim - 2)), 0)
        return tokens, None if self.scales is None else self.scales[row].masked_fill_(~inside, 0)


def _upload(rows: ShardedRows, offsets, lengths, starts, device: torch.device) -> Tensor:
    sample = torch.from_numpy(rows.arrays[0][:0].copy())
    out = torch.zeros((int(starts[-1]) or 1, *rows.row_shape), dtype=sample.dtype, device=device)
    for first in range(0, len(offsets), 1024):  # bounded memory of the host, few copies
        texts = slice(first, first + 1024)
        parts = [rows.read(*text) for text in zip(offsets[texts], lengths[texts], strict=True) if text[1]]
        if parts:
            packed = torch.from_numpy(np.concatenate(parts)).to(device)
            out[starts[first] : starts[first] + len(packed)] = packed
    return out


def _places(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    places = np.searchsorted(known, wanted)
    if len(wanted) and (places.max() >= len(known) or (known[places] != wanted).any()):
        raise ShardError("samples asked for rows that were not put on the device; make resident every dataset used")
    return places
