"""Several notes of one sample in the one column note_id of a cohort.

In: ids of notes. Out: one text, the ids joined by a space in their order, and back. An id of MIMIC has no space.
"""

from __future__ import annotations

import polars as pl

SEPARATOR = " "


def joined(ids: pl.Expr | str) -> pl.Expr:
    """A list column of ids as one text; null for an empty list."""
    column = pl.col(ids) if isinstance(ids, str) else ids
    return pl.when(column.list.len() > 0).then(column.list.join(SEPARATOR))


def split(ids: pl.Expr | str) -> pl.Expr:
    """The text of `joined` as a list column, in its order; null stays null.

    Example:
        >>> pl.DataFrame({"note_id": ["1-RR-7 1-RR-5", None]}).select(split("note_id"))["note_id"].to_list()
        [['1-RR-7', '1-RR-5'], None]
    """
    return (pl.col(ids) if isinstance(ids, str) else ids).str.split(SEPARATOR)
