"""Digest of the data of a run: everything that its samples are made from.

In: an output folder, the tasks. Out: hex digits, equal for equal data in any folder. Files of the store have their
digests in its manifests, and a shard of radiographs or notes is named by its content, so little is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from flexcare_data.hashing import file_digest
from flexcare_data.series import series_files
from flexcare_data.store.folders import MANIFEST, StoreError, read_manifest


def data_digest(output: Path, tasks: Iterable[str]) -> str:
    """sha256 of names and contents of the cohorts of ``tasks``, the hourly grids, and the indices of the shards."""
    names = {"data/cxr/index.parquet", "data/notes/index.parquet"}
    for task in tasks:
        names |= {f"cohorts/{task}.parquet", *series_files(task)}
    total = hashlib.sha256()
    for name in sorted(names):
        path = Path(output) / name
        if path.is_file():
            total.update(f"{name} {_content(path.resolve())}\n".encode())
    return total.hexdigest()


def _content(path: Path) -> str:
    """sha256 of a file; from the manifest of its stage where there is one."""
    for folder in path.parents[:2]:
        if (folder / MANIFEST).is_file():
            try:
                return read_manifest(folder)["files"][path.relative_to(folder).as_posix()]["sha256"]
            except (StoreError, KeyError):
                break
    return file_digest(path)
