"""Pools of the store: folders that grow by immutable parts and are shared by several stages.

In: keys (a dicom_id, the hash of a text) with arrays. Out: `Pool`, which finds the arrays of a key. The spec of a pool
alone decides the arrays of a key, so a new cohort or edition adds only the missing ones.
"""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from flexcare_data.hashing import canonical, file_digest, spec_key
from flexcare_data.store.folders import (
    NOT_WRITABLE,
    STORE_FORMAT,
    StoreError,
    atomic_write,
    cannot_write,
    ensure_folder,
    publish_mode,
    read_json,
    sweep,
    temporary_path,
)

POOL = "pool.json"
_PART = re.compile(r"part-[0-9a-f]{12}")


class Pool:
    """Append-only folder of immutable parts, each some arrays and an index of the keys in them.

    ``part-<id>.parquet`` has the key column, then columns that locate the key in ``part-<id>.npy`` (or
    ``part-<id>.<name>.npy``). It is written last: arrays without it are never read. The id is a digest of keys and
    arrays, so that equal parts of two writers are one file, and a damaged part is known by its name.
    """

    def __init__(self, folder: Path, *, key: str, spec: dict[str, Any] | None = None, group_readable: bool = True):
        """Open the pool at ``folder``; with ``spec`` make it if it does not exist.

        Raises:
            StoreError: if there is no pool, or one with another spec.
        """
        self.folder, self.key, self.group_readable = Path(folder), key, group_readable
        if spec is not None:
            spec = json.loads(canonical(spec))
            if not (self.folder / POOL).exists():
                ensure_folder(self.folder, group_readable=group_readable)
                text = json.dumps({"format": STORE_FORMAT, "spec": spec}, indent=1, sort_keys=True) + "\n"
                atomic_write(self.folder / POOL, text, group_readable=group_readable)
        self.spec = read_pool(self.folder)
        if spec is not None and spec != self.spec:
            raise StoreError(f"{self.folder}: a pool with another spec; use another folder")

    def parts(self) -> list[str]:
        """Names of the complete parts, sorted."""
        names = sorted(path.stem for path in self.folder.glob("part-*.parquet") if _PART.fullmatch(path.stem))
        return [name for name in names if (self.folder / f"{name}.npy").is_file()]

    def lookup(self) -> pl.DataFrame:
        """All keys: the columns of the part indices and ``shard``, the part that holds the key; sorted by key.

        Of a key in several parts (two writers at once) the part first by name counts. Empty without parts.
        """
        frames = [self.index(part).with_columns(shard=pl.lit(part)) for part in self.parts()]
        if not frames:
            return pl.DataFrame(schema={self.key: pl.String, "shard": pl.String})
        try:
            return pl.concat(frames).unique(self.key, keep="first", maintain_order=True).sort(self.key)
        except pl.exceptions.PolarsError as error:
            raise StoreError(f"{self.folder}: parts differ in their columns, run `store verify`: {error}") from None

    def index(self, part: str) -> pl.DataFrame:
        """The index of one part, as written."""
        path = self.folder / f"{part}.parquet"
        try:
            frame = pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise StoreError(f"{path}: cannot be read, remove this part: {error}") from None
        if self.key not in frame.columns:
            raise StoreError(f"{path}: expected a column {self.key}, got {frame.columns}")
        return frame

    def array(self, part: str, name: str = "") -> np.ndarray:
        """An array of a part, mapped read-only."""
        path = self.folder / _array_file(part, name)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise StoreError(f"{path}: cannot be read, remove this part and build again: {error}") from None

    def add(self, index: pl.DataFrame, arrays: dict[str, np.ndarray | Path]) -> str:
        """Add a part; returns its name. An array given as a path (made by `scratch`) is moved in, not copied."""
        if index[self.key].n_unique() != index.height or index.height == 0:
            raise StoreError(f"part: expected unique keys, got {index.height} rows, {index[self.key].n_unique()} keys")
        moved = {}
        try:
            for name, array in sorted(arrays.items()):
                if isinstance(array, Path):
                    moved[name] = array
                else:
                    moved[name] = self.scratch()
                    np.save(moved[name], array, allow_pickle=False)
            digests = {name: file_digest(path) for name, path in moved.items()}
            part = part_name(index[self.key].to_list(), digests)
            for name, path in moved.items():
                publish_mode(path, self.group_readable)
                path.replace(self.folder / _array_file(part, name))
            path = self.folder / f"{part}.parquet"
            atomic_write(path, index.write_parquet, group_readable=self.group_readable)
        except OSError as error:
            if error.errno not in NOT_WRITABLE:
                raise
            raise StoreError(cannot_write(self.folder, error)) from None
        finally:
            for path in moved.values():
                path.unlink(missing_ok=True)
        return part

    def withdraw(self, part: str) -> None:
        """Take a part out of the pool. Its arrays stay, as a stage may read them; `store prune` removes them."""
        (self.folder / f"{part}.parquet").unlink(missing_ok=True)

    def prepare(self) -> None:
        """Remove temporary files of killed builds; call before adding parts.

        Raises:
            StoreError: where parts cannot be written.
        """
        if not os.access(self.folder, os.W_OK):
            raise StoreError(cannot_write(self.folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES))))
        sweep(self.folder)

    def scratch(self) -> Path:
        """A temporary name for an array inside the pool, for `add`."""
        return temporary_path(self.folder / "part.npy")


def read_pool(folder: Path) -> dict[str, Any]:
    """The spec of a pool."""
    path = Path(folder) / POOL
    spec = read_json(path).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{path}: expected `spec` to be an object")
    return spec


def part_name(keys: list[str], digests: dict[str, str]) -> str:
    """Name of a part by its keys and the sha256 of its arrays."""
    return f"part-{spec_key([keys, digests])}"


def _array_file(part: str, name: str) -> str:
    return f"{part}.{name}.npy" if name else f"{part}.npy"
