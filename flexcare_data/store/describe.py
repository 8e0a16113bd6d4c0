"""Describe what a folder of the store was made of, or how two folders differ. In: the store and names. Out: text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flexcare_data.store.folders import read_manifest
from flexcare_data.store.listing import Entry, find, ls


def describe(store: Path, name: str, other: str | None = None) -> str:
    """Describe what a folder was made of; with ``other``, the differences between the two."""
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
