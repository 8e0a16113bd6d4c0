"""Remove files of killed processes and folders that no kept folder needs. In: the store. Out: `Removal`s."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flexcare_data.store.folders import is_abandoned, is_temporary, remove, temporary_path
from flexcare_data.store.listing import DAY, NAME, Entry, existing, find, ls

_UNFINISHED_DAYS = 7
"""A temporary folder of another machine counts as abandoned after this time."""
_SETTLED_DAYS = 1
"""A folder without manifest, younger than this, may belong to a job that runs now."""


@dataclass(frozen=True)
class Removal:
    """A path below the store that `prune` removes or would remove: the reason, its size, whether it was removed."""

    path: str
    reason: str
    bytes: int
    done: bool


def prune(
    store: Path, *, keep: Iterable[str] = (), keep_days: float | None = None, dry_run: bool = True
) -> list[Removal]:
    """Remove what is not needed; with ``dry_run`` only list it.

    Always: what killed processes left behind. With ``keep`` or ``keep_days``: also every stage and pool that is
    neither kept nor needed (upstream, or by a link) by something kept.

    Args:
        keep: folders or keys to keep.
        keep_days: keep what was written within so many days.

    Raises:
        StoreError: for a name in ``keep`` that is not in the store.
    """
    store = existing(store)
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
                age = (time.time() - found.st_mtime) / DAY
                reason = _abandoned(path.name, age)
                if not reason and NAME.fullmatch(path.name.split(".")[0]) and path.suffix == ".npy":
                    index = path.with_name(f"{path.name.split('.')[0]}.parquet")
                    reason = "" if index.exists() or age <= _SETTLED_DAYS else "array without an index"
                if reason:
                    yield Removal(f"{entry.name}/{path.name}", reason, found.st_size, False)
    for path in sorted(store.iterdir()):
        if path.is_file() and is_temporary(path.name):
            found = path.lstat()
            if reason := _abandoned(path.name, (time.time() - found.st_mtime) / DAY):
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
        # Renamed first, so that no reader uses a folder that is partly removed.
        try:
            path = path.rename(temporary_path(path))
        except OSError:
            return removal
    remove(path)
    return Removal(removal.path, removal.reason, removal.bytes, not path.exists())
