"""Looking after the store: what is in it, whether it is sound, what may go, what made it.

In: the folder of the store. Out: values and text for the command line (`python -m flexcare_data store ls | verify |
prune | explain`). Only `prune` with ``dry_run=False`` changes anything.
"""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from flexcare_data.pool import POOL, part_name, read_pool
from flexcare_data.store import (
    MANIFEST,
    StoreError,
    file_digest,
    is_abandoned,
    is_temporary,
    read_manifest,
    remove,
    spec_key,
    temporary_path,
)

_NAME = re.compile(r"(?P<stage>[A-Za-z0-9_-]+)-(?P<key>[0-9a-f]{12})")
_KEY = re.compile(r"[0-9a-f]{12}")
_DAY = 86_400.0
_UNFINISHED_DAYS = 7
"""A temporary folder of another machine is taken for abandoned after this time."""
_SETTLED_DAYS = 1
"""A folder without manifest, younger than this, may belong to a job that runs now."""


@dataclass(frozen=True)
class Entry:
    """A folder of the store.

    Attributes:
        name: of the folder, ``<stage>-<key>``.
        kind: stage, pool, incomplete (no valid manifest), temporary.
        files, bytes: of everything in it.
        age_days: since its newest file was written.
        spec: what decides its content; empty where unknown.
        needs: names of the folders of this store that its spec or links mention.
    """

    name: str
    kind: str
    files: int
    bytes: int
    age_days: float
    spec: dict[str, Any]
    needs: tuple[str, ...]


@dataclass(frozen=True)
class Removal:
    """Something that `prune` removes (or would): its path below the store, why, its size, whether it is gone."""

    path: str
    reason: str
    bytes: int
    done: bool


# --- ls ---------------------------------------------------------------------------------------------------------


def ls(store: Path) -> list[Entry]:
    """Folders of the store, sorted by name. Folders with other names than ours are not shown and never touched."""
    store = _existing(store)
    names = sorted(path.name for path in store.iterdir() if path.is_dir() and not path.is_symlink())
    ours = [name for name in names if is_temporary(name) or _NAME.fullmatch(name)]
    by_key: dict[str, list[str]] = {}
    for name in ours:
        if match := _NAME.fullmatch(name):
            by_key.setdefault(match["key"], []).append(name)
    return [_entry(store, name, by_key) for name in ours]


def table(entries: Iterable[Entry]) -> str:
    """The entries as text, one line each."""
    rows = [("folder", "kind", "files", "MB", "days old")]
    rows += [(e.name, e.kind, f"{e.files:,}", f"{e.bytes / 1e6:,.1f}", f"{e.age_days:.1f}") for e in entries]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[:2] = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def _entry(store: Path, name: str, by_key: dict[str, list[str]]) -> Entry:
    folder = store / name
    sizes, newest = [], folder.lstat().st_mtime
    for path in _files(folder):
        found = path.lstat()
        sizes.append(found.st_size)
        newest = max(newest, found.st_mtime)
    spec: dict[str, Any] = {}
    links: list[str] = []
    kind = "temporary"
    if not is_temporary(name):
        try:
            if (folder / POOL).exists():
                kind, spec = "pool", read_pool(folder)
            else:
                manifest = read_manifest(folder)
                kind, spec = "stage", manifest["spec"]
                links = [link.removeprefix("../") for link in manifest["links"].values()]
        except StoreError:
            kind = "incomplete"
    mentioned = {other for key in _keys(spec) for other in by_key.get(key, ())} | set(links)
    age = max(0.0, (time.time() - newest) / _DAY)
    return Entry(name, kind, len(sizes), sum(sizes), age, spec, tuple(sorted(mentioned - {name})))


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path


def _keys(value: Any) -> Iterator[str]:
    """Every text in a spec that looks like a key."""
    if isinstance(value, str):
        if _KEY.fullmatch(value):
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _keys(part)
    elif isinstance(value, list):
        for part in value:
            yield from _keys(part)


# --- verify -----------------------------------------------------------------------------------------------------


def verify(store: Path, names: Iterable[str] = ()) -> list[str]:
    """Read every byte again. Returns one line per problem, none if all is sound.

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
        open_to_others = [path for path in (folder, *_files(folder)) if _world_readable(path)]
        if open_to_others:
            found.append(f"{len(open_to_others)} files or folders can be read by everybody; run chmod -R o= on it")
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
    extra = [path for path in _files(folder) if path.relative_to(folder).as_posix() not in known]
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
    key = {"cxr": "dicom_id", "notes": "text_key"}.get(read_pool(folder).get("pool", ""))
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
    return "was incomplete a moment ago"


def _world_readable(path: Path) -> bool:
    mode = path.lstat().st_mode
    return not stat.S_ISLNK(mode) and bool(mode & stat.S_IRWXO)


# --- prune ------------------------------------------------------------------------------------------------------


def prune(
    store: Path, *, keep: Iterable[str] = (), keep_days: float | None = None, dry_run: bool = True
) -> list[Removal]:
    """Remove what is not needed; with ``dry_run`` only say what that is.

    Always: what killed processes left behind. With ``keep`` or ``keep_days``: also every stage and pool that is
    neither kept nor needed (upstream, or by a link) by something kept.

    Args:
        keep: folders or keys to keep.
        keep_days: keep what was written within so many days.

    Raises:
        StoreError: for a name in ``keep`` that is not in the store.
    """
    store = _existing(store)
    entries = ls(store)
    wanted = [find(entries, name).name for name in keep]
    removals = list(_left_over(store, entries))
    if wanted or keep_days is not None:
        needed = set(wanted)
        if keep_days is not None:
            needed |= {entry.name for entry in entries if entry.age_days <= keep_days}
        by_name = {entry.name: entry for entry in entries}
        todo = list(needed)
        while todo:
            entry = by_name.get(todo.pop())
            more = set(entry.needs) - needed if entry else set()
            needed |= more
            todo += more
        removals += [
            Removal(entry.name, f"{entry.kind} that nothing kept needs", entry.bytes, False)
            for entry in entries
            if entry.kind in ("stage", "pool") and entry.name not in needed
        ]
    return removals if dry_run else [_carry_out(store, removal) for removal in removals]


def _left_over(store: Path, entries: list[Entry]) -> Iterator[Removal]:
    for entry in entries:
        if entry.kind == "temporary":
            if reason := _abandoned(entry.name, entry.age_days):
                yield Removal(entry.name, reason, entry.bytes, False)
        elif entry.kind == "incomplete" and entry.age_days > _SETTLED_DAYS:
            yield Removal(entry.name, "has no valid manifest", entry.bytes, False)
        elif entry.kind == "pool":
            for path in sorted((store / entry.name).iterdir()):
                found = path.lstat()
                age = (time.time() - found.st_mtime) / _DAY
                reason = _abandoned(path.name, age)
                if not reason and _NAME.fullmatch(path.name.split(".")[0]) and path.suffix == ".npy":
                    index = path.with_name(f"{path.name.split('.')[0]}.parquet")
                    reason = "" if index.exists() or age <= _SETTLED_DAYS else "array without an index"
                if reason:
                    yield Removal(f"{entry.name}/{path.name}", reason, found.st_size, False)
    for path in sorted(store.iterdir()):
        if path.is_file() and is_temporary(path.name):
            found = path.lstat()
            if reason := _abandoned(path.name, (time.time() - found.st_mtime) / _DAY):
                yield Removal(path.name, reason, found.st_size, False)


def _abandoned(name: str, age_days: float) -> str:
    if is_abandoned(name):
        return "its process has ended"
    if is_temporary(name) and age_days > _UNFINISHED_DAYS:
        return f"unfinished for more than {_UNFINISHED_DAYS} days"
    return ""


def _carry_out(store: Path, removal: Removal) -> Removal:
    path = store / removal.path
    if path.is_dir() and not is_temporary(path.name):
        # Renamed first: nobody may take a half-removed folder for a whole one.
        try:
            path = path.rename(temporary_path(path))
        except OSError:
            return removal
    remove(path)
    return Removal(removal.path, removal.reason, removal.bytes, not path.exists())


# --- explain ----------------------------------------------------------------------------------------------------


def explain(store: Path, name: str, other: str | None = None) -> str:
    """What made a folder, in words; with ``other`` what differs between the two."""
    entries = ls(store)
    entry = find(entries, name)
    if other is not None:
        return _difference(entry, find(entries, other))
    size = f"{entry.files:,} files, {entry.bytes / 1e6:,.1f} MB"
    lines = [f"{entry.name}: {entry.kind}, {size}"]
    present = {e.name for e in entries}
    for field, value in entry.spec.items():
        label = _LABELS.get(field, field)
        if field == "upstream" and isinstance(value, dict):
            folders = [f"{stage}-{key}" for stage, key in value.items()]
            text = ", ".join(f if f in present else f"{f} (not in this store)" for f in folders)
        elif isinstance(value, dict):
            text = ", ".join(f"{part} = {_plain(content)}" for part, content in value.items())
        else:
            text = _plain(value)
        lines.append(f"  {label}: {text or 'none'}")
    if entry.kind == "stage":
        manifest = read_manifest(Path(store) / entry.name)
        lines.append("  written with: " + ", ".join(f"{k} {v}" for k, v in manifest["versions"].items()))
        lines += [f"  file {file}: {found['bytes']:,} bytes" for file, found in manifest["files"].items()]
        lines += [f"  link {link} -> {target}" for link, target in manifest["links"].items()]
    users = [e.name for e in entries if entry.name in e.needs]
    lines.append("  needed by: " + (", ".join(users) or "nothing in this store"))
    return "\n".join(lines)


_LABELS = {
    "raw": "raw files (start of sha256)",
    "upstream": "reads",
    "code": "code (start of sha256)",
    "format": "output format",
}


def _difference(first: Entry, second: Entry) -> str:
    left, right = dict(_flat(first.spec)), dict(_flat(second.spec))
    lines = [f"{first.name} and {second.name}:"]
    for field in sorted(left.keys() | right.keys()):
        if left.get(field) != right.get(field):
            was, now = (_plain(side[field]) if field in side else "absent" for side in (left, right))
            lines.append(f"  {field}: {was} -> {now}")
    return "\n".join(lines) if len(lines) > 1 else f"{lines[0]} made of the same"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _flat(part, f"{prefix}.{name}" if prefix else name)
    else:
        yield prefix, value


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list):
        return ", ".join(map(_plain, value)) or "none"
    return str(value)


def find(entries: Iterable[Entry], name: str) -> Entry:
    """The entry called ``name``: a folder, a key, or the first digits of a key that only one folder has."""
    entries = list(entries)
    name = name.rstrip("/").split("/")[-1]
    exact = [e for e in entries if e.name == name]
    by_key = [e for e in entries if len(name) >= 4 and e.name.rsplit("-", 1)[-1].startswith(name)]
    found = exact or by_key
    if len(found) != 1:
        what = "is not in the store" if not found else f"stands for {len(found)} folders"
        raise StoreError(f"{name}: {what}; expected a folder or key that `store ls` shows")
    return found[0]


def _existing(store: Path) -> Path:
    if not Path(store).is_dir():
        raise StoreError(f"{store}: no such folder; expected the store (store.path, else <output>/store)")
    return Path(store)
