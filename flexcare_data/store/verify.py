"""Verify the store by reading every byte. In: its folder. Out: one line per problem."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from flexcare_data.hashing import file_digest, spec_key
from flexcare_data.store.folders import MANIFEST, StoreError, read_manifest
from flexcare_data.store.listing import files_of, find, ls
from flexcare_data.store.pools import POOL, part_name, read_pool


def verify(store: Path, names: Iterable[str] = ()) -> list[str]:
    """Read every byte again. Returns one line per problem; none if nothing is damaged.

    Args:
        names: folders or keys; none means all.
    """
    entries = ls(store)
    chosen = [find(entries, name) for name in names] or entries
    problems = []
    for entry in chosen:
        folder = Path(store) / entry.name
        if entry.kind == "stage":
            found = _stage_problems(folder)
        elif entry.kind == "pool":
            found = _pool_problems(folder)
        elif entry.kind == "incomplete":
            found = [_why_incomplete(folder)]
        else:
            continue
        key = entry.name[-12:]
        if entry.spec and spec_key(entry.spec) != key:
            found.append(f"its spec has the key {spec_key(entry.spec)}, its name says {key}")
        open_to_others = [path for path in (folder, *files_of(folder)) if _world_readable(path)]
        if open_to_others:
            found.append(f"{len(open_to_others)} files or folders are readable by others; run chmod -R o= on it")
        problems += [f"{entry.name}: {problem}" for problem in found]
    return problems


def _stage_problems(folder: Path) -> list[str]:
    manifest = read_manifest(folder)
    problems = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if path.is_symlink() or path.resolve() != folder.resolve() / name:
            problems.append(f"{name}: expected a plain file, got a link")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif path.stat().st_size != expected["bytes"]:
            problems.append(f"{name}: expected {expected['bytes']} bytes, got {path.stat().st_size}")
        elif file_digest(path) != expected["sha256"]:
            problems.append(f"{name}: its content has changed since it was written")
    for name, link in manifest["links"].items():
        path = folder / name
        if not path.is_symlink() or str(path.readlink()) != link:
            problems.append(f"{name}: expected a link to {link}")
        elif not path.is_dir():
            problems.append(f"{name}: the folder {link} is missing")
        elif name == "shards" and "index.parquet" in manifest["files"]:
            problems += _missing_parts(folder)
    known = {MANIFEST, *manifest["files"], *manifest["links"]}
    extra = [path for path in files_of(folder) if path.relative_to(folder).as_posix() not in known]
    if extra:
        problems.append(f"{len(extra)} files are not in the manifest")
    return problems


def _missing_parts(folder: Path) -> list[str]:
    try:
        shards = pl.read_parquet(folder / "index.parquet", columns=["shard"])["shard"].unique().drop_nulls()
    except pl.exceptions.PolarsError:
        return []  # a damaged index has been reported by its digest
    absent = [name for name in shards if not (folder / "shards" / f"{name.removesuffix('.npy')}.npy").is_file()]
    return [f"{len(absent)} parts of the pool that index.parquet names are missing"] if absent else []


def _pool_problems(folder: Path) -> list[str]:
    problems = []
    key = {"images": "dicom_id", "notes": "text_key"}.get(read_pool(folder).get("pool", ""))
    for path in sorted(folder.glob("part-*.parquet")):
        part = path.stem
        arrays = sorted(folder.glob(f"{part}.npy")) + sorted(folder.glob(f"{part}.*.npy"))
        digests = {array.name[len(part) + 1 : -len(".npy")].strip("."): file_digest(array) for array in arrays}
        try:
            index = pl.read_parquet(path)
            keys = index[key or index.columns[0]].to_list()
        except (pl.exceptions.PolarsError, OSError):
            problems.append(f"{path.name}: cannot be read; remove it and build again")
            continue
        if part_name(keys, digests) != part:
            problems.append(f"{part}: arrays or index have changed since they were written; remove this part")
    return problems


def _why_incomplete(folder: Path) -> str:
    try:
        read_pool(folder) if (folder / POOL).exists() else read_manifest(folder)
    except StoreError as error:
        return str(error)
    return "was incomplete when it was listed and is complete now"


def _world_readable(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not stat.S_ISLNK(mode) and bool(mode & stat.S_IRWXO)
