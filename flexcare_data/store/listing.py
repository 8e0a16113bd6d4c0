"""List the folders of the store with kind, size, age and needs. In: the store. Out: `Entry`s, as a table."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexcare_data.store.folders import StoreError, is_temporary, read_manifest
from flexcare_data.store.pools import POOL, read_pool

NAME = re.compile(r"(?P<stage>[A-Za-z0-9_-]+)-(?P<key>[0-9a-f]{12})")
_KEY = re.compile(r"[0-9a-f]{12}")
DAY = 86_400.0


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


def ls(store: Path) -> list[Entry]:
    """Folders of the store, sorted by name. Folders with other names are ignored."""
    store = existing(store)
    names = sorted(path.name for path in store.iterdir() if path.is_dir() and not path.is_symlink())
    ours = [name for name in names if is_temporary(name) or NAME.fullmatch(name)]
    by_key: dict[str, list[str]] = {}
    for name in ours:
        if match := NAME.fullmatch(name):
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
    for path in files_of(folder):
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
    age = max(0.0, (time.time() - newest) / DAY)
    return Entry(name, kind, len(sizes), sum(sizes), age, spec, tuple(sorted(mentioned - {name})))


def files_of(folder: Path) -> Iterator[Path]:
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


def find(entries: Iterable[Entry], name: str) -> Entry:
    """The entry called ``name``: a folder, a key, or the first digits of a key that only one folder has."""
    entries = list(entries)
    name = name.rstrip("/").split("/")[-1]
    exact = [e for e in entries if e.name == name]
    by_key = [e for e in entries if len(name) >= 4 and e.name.rsplit("-", 1)[-1].startswith(name)]
    found = exact or by_key
    if len(found) != 1:
        what = "is not in the store" if not found else f"matches {len(found)} folders"
        raise StoreError(f"{name}: {what}; expected a folder or key that `store ls` shows")
    return found[0]


def existing(store: Path) -> Path:
    if not Path(store).is_dir():
        raise StoreError(f"{store}: no such folder; expected the store (store.path, else <output>/store)")
    return Path(store)
