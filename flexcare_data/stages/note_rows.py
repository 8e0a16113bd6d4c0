"""What the stages `sections` and `reports` share: how rows of notes are typed and how their text is cleaned.

In: rows of discharge.csv or radiology.csv as text. Out: chunks of them, typed ids and times with counts of what cannot
be used, cleaned texts.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.raw.tables import Dropped, count, typed

if TYPE_CHECKING:
    from flexcare_data.options import Options

NULL_WORDS = ("", "nan", "null")
"""Cleaned texts that count as missing: the published files are read back with pandas. `none` is text."""

_NEWLINES = re.compile(r"\r\n?")
_PUNCTUATION = str.maketrans("", "", string.punctuation + "\n")
_TEXTS = ("note_id", "subject_id", "hadm_id", "charttime", "storetime")
_TIMES = ("charttime", "storetime")


def clean(text: str, options: Options) -> str | None:
    """A part of a note as option `note_cleaning` says, or None where nothing is left. ``strip`` expects lower case."""
    if options.note_cleaning == "keep":
        kept = text.strip().replace("\n", " ")
        return None if kept.lower() in NULL_WORDS else kept
    # Newlines are removed without a space, so words join across lines (published); no second strip.
    cleaned = text.strip().translate(_PUNCTUATION)
    return None if cleaned in NULL_WORDS else cleaned


def texts_of(notes: list[dict[str, str]]) -> list[str]:
    """Texts of the rows, each line ended by ``\\n``."""
    return [_NEWLINES.sub("\n", note["text"]) for note in notes]


def chunks(notes: Iterable[dict[str, str]], size: int) -> Iterator[list[dict[str, str]]]:
    """``notes`` in lists of ``size``; the last may be shorter."""
    chunk: list[dict[str, str]] = []
    for note in notes:
        chunk.append(note)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def typed_rows(
    notes: list[dict[str, str]],
    first_row: int,
    texts: dict[str, list[str | None]],
    *,
    table: str,
    ids: tuple[str, ...],
    dropped: Dropped,
) -> pl.DataFrame:
    """Typed ids and times of ``notes``, file_order and the columns ``texts``.

    Args:
        notes: consecutive rows of the raw table ``table``.
        first_row: row of the first one in its file, from 0.
        texts: text columns, a value per row.
        table: name under which is counted.
        ids: id columns that a row must have. Rows without are left out and counted in ``dropped``, as are texts
            that are no time. An id that is not listed becomes null where it is not a number, and is counted.
        dropped: gets the counts, also of rows whose storetime is not used.
    """
    frame = pl.DataFrame(
        {name: [note[name] or None for note in notes] for name in _TEXTS}, schema=dict.fromkeys(_TEXTS, pl.String)
    )
    result = frame.with_columns(
        typed("subject_id", pl.Int64()),
        typed("hadm_id", pl.Int64()),
        *(typed(name, pl.Datetime("us")) for name in _TIMES),
        file_order=pl.int_range(first_row, first_row + len(notes), dtype=pl.Int64),
        **{name: pl.Series(column, dtype=pl.String) for name, column in texts.items()},
    )
    for name in _TIMES:
        count(dropped, table, name, "not_a_time", result[name].null_count() - frame[name].null_count())
    for name in ("subject_id", "hadm_id"):
        if name not in ids:
            count(dropped, table, name, "not_a_number", result[name].null_count() - frame[name].null_count())
    for name in ids:
        bad, empty = result[name].is_null(), frame[name].is_null()
        count(dropped, table, "", f"{name}_missing", int(empty.sum()))
        count(dropped, table, "", f"{name}_not_a_number", int((bad & ~empty).sum()))
        frame, result = frame.filter(~bad), result.filter(~bad)
    # Such a row counts as filed at its charttime.
    count(dropped, "storetime", table, "missing", result["storetime"].null_count())
    count(dropped, "storetime", table, "before_charttime", int((result["storetime"] < result["charttime"]).sum()))
    return result
