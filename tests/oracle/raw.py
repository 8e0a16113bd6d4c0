"""Raw tables as lists of dicts of text; what a text means is decided where it is used."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import datetime
from functools import cache
from pathlib import Path

csv.field_size_limit(10**9)


def rows(root: Path | None, *places: str, only: tuple[str, frozenset[str]] | None = None) -> list[dict[str, str]]:
    """Rows of the first of ``places`` (below ``root``, without ending) that exists as csv.gz or csv.

    ``only`` = (column, texts) keeps the rows with one of these texts there.
    """
    if root is None:
        return []
    for place in places:
        packed, plain = root / f"{place}.csv.gz", root / f"{place}.csv"
        if not packed.is_file() and not plain.is_file():
            continue
        with gzip.open(packed, "rb") if packed.is_file() else plain.open("rb") as file:
            lines = csv.reader(io.TextIOWrapper(file, encoding="utf-8", newline=""))
            header = next(lines)
            column, texts = only or (header[0], None)
            at = header.index(column)
            return [dict(zip(header, line, strict=True)) for line in lines if texts is None or line[at] in texts]
    raise FileNotFoundError(f"none of {places} below {root}")


@cache
def events(root: Path, place: str, items: frozenset[str]) -> list[dict[str, str]]:
    """Rows of a table of events with one of ``items``, kept for the next call."""
    return rows(root, place, only=("itemid", items))


def time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def hours(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds() / 3600
