"""Ways of losing data besides whole modalities at random: inside a modality, and more often for sicker patients.

In: the test samples of a task. Out: the same samples with less, for `inside.score_with_less`. What is lost follows from
the seed and the sample_id alone, and a higher rate loses all that a lower rate loses, so that rates are comparable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from flexcare_data.modalities import MODALITIES
from flexcare_data.series import COLUMN_PLAN, ColumnPlan, expand, last_rows
from flexcare_data.variables import CATEGORIES, DEFAULTS, VARIABLES
from flexcare_model.data.batch import CROP_SIDE, PATCH_SIZE, PATCHES, Batch
from flexcare_model.data.dataset import TaskDataset
from flexcare_model.data.raw_batch import RawBatch

SEVERITY_HOURS = 24
"""Last hours of a series whose measurements are counted."""
_SIDE = CROP_SIDE // PATCH_SIZE
_CHUNK = 512
"""Samples whose measurements are counted at a time."""


# --- inside a modality ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _KeyedBatch(RawBatch):
    keys: np.ndarray  # (B,) uint64, one per sample


class LessInside(TaskDataset):
    """The samples of ``data`` with a share of the content of one modality lost; each keeps all its modalities.

    - time_series: whole hours. Their measurements count as never made: the values of the last kept measurement are
      carried forward, and the masks are 0.
    - image: patches of 16 x 16 pixels, which become the mean colour of ImageNet (0 after normalisation).
    - note: tokens, which are removed; the others move together. One token remains.
    """

    def __init__(self, data: TaskDataset, modality: str, rate: float, *, seed: int = 0) -> None:
        self.__dict__.update(data.__dict__)
        self.modality, self.rate, self.seed = modality, rate, seed
        self._keys = sample_keys(data.sample_ids)

    def raw_batch(self, rows: Sequence[int] | np.ndarray) -> RawBatch:
        raw = super().raw_batch(rows)
        return _KeyedBatch(**vars(raw), keys=self._keys[np.asarray(rows, dtype=np.int64)])

    def finish(
        self, raw: RawBatch, device: torch.device | str = "cpu", *, generator: torch.Generator | None = None
    ) -> Batch:
        assert isinstance(raw, _KeyedBatch)
        return self._lose(super().finish(raw, device, generator=generator), raw.keys)

    def _lose(self, batch: Batch, keys: np.ndarray) -> Batch:
        stream = self.seed * len(MODALITIES) + MODALITIES.index(self.modality)

        def draws(n: int) -> np.ndarray:
            return uniform(keys, n, seed=stream)

        if self.modality == "time_series":
            lost = draws(batch.ts.shape[1]) < self.rate
            changed = lose_hours(batch.ts.cpu().numpy(), batch.ts_len.cpu().numpy(), lost, self._defaults())
            return replace(batch, ts=torch.from_numpy(changed).to(batch.device))
        if self.modality == "image":
            lost_patches = torch.from_numpy(draws(PATCHES) < self.rate).to(batch.device)
            return replace(batch, img=lose_patches(batch.img, lost_patches))
        tokens, length = lose_tokens(batch.note_tok, batch.note_len, draws(batch.note_tok.shape[1]), self.rate)
        return replace(batch, note_tok=tokens, note_len=length, visible=None)  # type: ignore[arg-type]  # counted again

    def _defaults(self) -> np.ndarray:
        plan = self.inputs.readers["time_series"].plan
        fields = (field.cpu().numpy() if isinstance(field, Tensor) else field for field in plan)
        return default_columns(ColumnPlan(*fields))


def default_columns(plan: ColumnPlan = COLUMN_PLAN) -> np.ndarray:
    """The value columns (59,) of an hour before the first measurement, as ``plan`` standardises them."""
    values = [
        float(CATEGORIES[name].index(str(DEFAULTS[name]))) if name in CATEGORIES else float(DEFAULTS[name])
        for name in VARIABLES
    ]
    return expand(np.array([values]), np.zeros((1, 0)), plan)[0].astype(np.float32)


def lose_hours(ts: np.ndarray, length: np.ndarray, lost: np.ndarray, defaults: np.ndarray) -> np.ndarray:
    """``ts`` (B, T, 76) as if nothing had been measured in the ``lost`` (B, T) hours.

    A value is that of the last measurement in an hour that is kept. Without one it is the value that the first hour
    carried from before, or the default where the first hour has a measurement itself.

    Args:
        length: (B,) hours of each series; the padding stays 0.
        defaults: (59,) value columns without any measurement, see `default_columns`.
    """
    n_values = len(COLUMN_PLAN.variable)
    values, observed = ts[..., :n_values], ts[..., n_values:] > 0
    kept = observed & ~lost[..., None]
    step = np.arange(ts.shape[1])[None, :, None]
    source, unchanged = (np.maximum.accumulate(np.where(which, step, -1), axis=1) for which in (kept, observed))
    by_column = COLUMN_PLAN.variable
    changed = (source != unchanged)[..., by_column]
    last = source[..., by_column]
    carried = np.take_along_axis(values, np.maximum(last, 0), axis=1)
    before = np.where(observed[:, :1][..., by_column], defaults, values[:, :1])
    found = np.where(changed, np.where(last >= 0, carried, before), values)
    out = np.concatenate([found, kept], axis=-1).astype(ts.dtype)
    out[np.arange(ts.shape[1]) >= length[:, None]] = 0
    return out


def lose_patches(img: Tensor, lost: Tensor) -> Tensor:
    """``img`` (B, 3, 224, 224) with 0 in the ``lost`` (B, 196) patches, row by row."""
    mask = lost.view(-1, _SIDE, _SIDE).repeat_interleave(PATCH_SIZE, dim=1).repeat_interleave(PATCH_SIZE, dim=2)
    return img.masked_fill(mask[:, None], 0.0)


def lose_tokens(tokens: Tensor, length: Tensor, draws: np.ndarray, rate: float) -> tuple[Tensor, Tensor]:
    """``tokens`` (B, N, width) without those whose draw (B, N) is below ``rate``, and the new lengths (B,).

    The token with the largest draw of a note is never lost.
    """
    n = tokens.shape[1]
    if n == 0:
        return tokens, length
    chance = torch.from_numpy(draws).to(tokens.device)
    inside = torch.arange(n, device=tokens.device) < length[:, None]
    chance = chance.masked_fill(~inside, -1.0)
    kept = inside & ((chance >= rate) | (chance == chance.max(dim=1, keepdim=True).values))
    order = (~kept).to(torch.int8).argsort(dim=1, stable=True)  # kept ones first, in their order
    moved = tokens.gather(1, order[..., None].expand_as(tokens))
    count = kept.sum(dim=1)
    return moved.masked_fill((torch.arange(n, device=tokens.device) >= count[:, None])[..., None], 0), count


# --- more often for sicker patients -----------------------------------------------------------------------------


def severity_ranks(data: TaskDataset) -> np.ndarray:
    """How sick each sample is compared with the others, in (0, 1), without any label.

    The rank of the number of measurements (observed cells of the hourly grid) in the last `SEVERITY_HOURS` of the
    series: more is measured of sicker patients. Equal numbers share their mean rank. A sample without a series has 0.5.
    """
    ranks = np.full(len(data), 0.5)
    has = np.flatnonzero(data.present[:, MODALITIES.index("time_series")])
    if not len(has):
        return ranks
    ranges = last_rows(data.inputs.used("time_series")[has], SEVERITY_HOURS)
    reader, n_values = data.inputs.readers["time_series"], len(COLUMN_PLAN.variable)
    chunks = [reader.gather(ranges[start : start + _CHUNK]) for start in range(0, len(has), _CHUNK)]
    counts = np.concatenate([chunk[..., n_values:].sum(dim=(1, 2)).cpu().numpy() for chunk in chunks])
    _, place, tied = np.unique(counts, return_inverse=True, return_counts=True)
    last = np.cumsum(tied)
    ranks[has] = (last - tied / 2)[place] / len(has)
    return ranks


def loss_rates(ranks: np.ndarray, rate: float) -> np.ndarray:
    """Probability of losing a modality (n,), rising with the rank; the mean over evenly spread ranks is ``rate``.

    Example:
        >>> loss_rates(np.array([0.1, 0.5, 0.9]), 0.5).tolist()
        [0.1, 0.5, 0.9]
    """
    return np.zeros_like(ranks) if rate <= 0 else ranks ** ((1 - rate) / rate)


# --- draws ------------------------------------------------------------------------------------------------------


def sample_keys(sample_ids: Sequence[str]) -> np.ndarray:
    """A number for each sample (n,) uint64, by its sample_id alone."""
    digests = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in sample_ids)
    return np.array([int.from_bytes(digest, "little") for digest in digests], dtype=np.uint64)


def uniform(keys: np.ndarray, n: int, *, seed: int) -> np.ndarray:
    """Numbers in [0, 1) for ``n`` places of each key, (len(keys), n), by key, place and seed alone (SplitMix64)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        start = _mixed(keys + np.uint64(seed + 1) * np.uint64(0xD1342543DE82EF95))
        mixed = _mixed(start[:, None] + np.arange(1, n + 1, dtype=np.uint64)[None, :] * step)
    return (mixed >> np.uint64(11)) / float(1 << 53)


def _mixed(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
