"""Open shards (NPY files) and their index tables with checks: nothing is unpickled, every position is valid.

In: files below `data/` of an output folder. Out: rows of an index for given ids, memory-mapped arrays, and
`ShardedRows`, which numbers the rows of several shards from 0 on.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl

from flexcare_data.schema import HOURLY_INDEX
from flexcare_data.store.folders import StoreError, check_format, check_upstream

Kinds = dict[str, tuple[int, ...]]
"""Number types that a shard may have, as NPY writes them, and the shape of one row of each."""


class ShardError(StoreError):
    """A shard or its index contradicts the other files. The message holds paths and counts, never values."""


def read_output_table(path: Path) -> pl.DataFrame:
    """A table of an output folder.

    Raises:
        StoreError: if it does not exist, or was written in another output format.
    """
    if not path.exists():
        raise StoreError(f"{path}: no such table; build it with `snakemake cohorts` or check the output folder")
    return pl.read_parquet(check_format(path))


def cohort_path(output: Path, task: str) -> Path:
    """The cohort of ``task`` in an output folder.

    Raises:
        StoreError: if it was made from other hourly series than the folder shows.
    """
    return check_upstream(output / f"cohorts/{task}.parquet", "hourly", output / HOURLY_INDEX.path)


def look_up(path: Path, ids: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """Rows of the index at ``path`` for ``ids``, in their order; nulls where the first id is null.

    Raises:
        ShardError: if the index lacks an id.
    """
    index = read_output_table(path).with_columns(pl.lit(True).alias("known"))
    index = index.with_columns(pl.col(name).cast(ids.schema[name]) for name in on)
    found = ids.join(index, on=on, how="left", maintain_order="left", validate="m:1")
    lacking = found.filter(pl.col(on[0]).is_not_null() & pl.col("known").is_null()).height
    if lacking:
        raise ShardError(f"{path}: lacks {lacking} of the {on[0]} values that the cohort names; rebuild it")
    return found


def check_inside(path: Path, numbers: pl.Series, largest: pl.Series | int) -> None:
    """Raise ShardError unless all ``numbers`` of the index at ``path`` are from 0 to ``largest``; nulls pass."""
    outside = int(((numbers < 0) | (numbers > largest)).sum())
    if outside:
        raise ShardError(f"{path}: {outside} entries point outside their shard; rebuild it")


def open_array(path: Path, kinds: Kinds) -> np.ndarray:
    """Map an NPY file into memory, unpickled and writable in private only (torch wants writable arrays).

    Raises:
        ShardError: if it is absent, of none of ``kinds``, or not as long as its header says.
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
        raise ShardError(
            f"{path}: expected an array {shape} of {dtype}, as in its header, got {n_bytes:,} bytes; rebuild it"
        )
    if not n_bytes:  # nothing to map
        return np.zeros(shape, dtype)
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


class ShardedRows:
    """Arrays of several shards. Row r of the k-th of ``names`` has the number ``base[k] + r``.

    Attributes:
        folder, names: where the shards are.
        arrays: one per shard, memory-mapped.
        base: number of the first row of each shard, and the number of all rows.
    """

    def __init__(self, folder: Path, names: list[str], kinds: Kinds):
        """All shards must be of the same one of ``kinds``."""
        self.folder, self.names = folder, names
        for name in names:
            if Path(name).name != name:
                raise ShardError(f"{folder}: expected the index to name files of this folder, got another path")
        self.arrays = [open_array(folder / name, kinds) for name in names]
        found = {(array.dtype, array.shape[1:]) for array in self.arrays}
        if len(found) > 1:
            raise ShardError(f"{folder}: expected shards of one kind, got {len(found)}; rebuild it")
        self.base = np.concatenate([[0], np.cumsum([len(array) for array in self.arrays])]).astype(np.int64)

    def read(self, first: int, n: int) -> np.ndarray:
        """``n`` rows from row ``first`` on, all of one shard; a view, not a copy."""
        shard = int(np.searchsorted(self.base, first, side="right")) - 1
        return self.arrays[shard][first - self.base[shard] : first - self.base[shard] + n]

    def spans(self, names: pl.Series) -> tuple[pl.Series, pl.Series]:
        """First row and number of rows of the shard of each name; null for a name that is not here."""
        first = dict(zip(self.names, self.base.tolist(), strict=False))
        length = {name: len(array) for name, array in zip(self.names, self.arrays, strict=True)}
        one, two = (names.replace_strict(known, default=None, return_dtype=pl.Int64) for known in (first, length))
        return one, two

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.arrays[0].shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.arrays[0].dtype

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return math.prod(self.row_shape) * self.dtype.itemsize
