"""Read the small tables of the PhysioNet data sets, and count what cannot be used.

In: the root folder of a data set and the name of a table (`schema.RAW`). Out: a frame with the needed columns, typed,
and counts of every row or value that could not be used. Only the empty field is null: `None`, `NaN` and `NA` are text.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from flexcare_data.raw.files import TITLES, WHERE, RawDataError, locate, open_bytes
from flexcare_data.schema import CHEXPERT, RAW, RawTable

Dropped = dict[str, dict[str, dict[str, int]]]
"""Counts by table, by column or variable ('' for whole rows) and by reason."""


RANGES: dict[tuple[str, str], tuple[float, float]] = {
    ("patients", "anchor_age"): (0, 150),
    ("icustays", "los"): (0, 3660),  # days; the longest published stay lasts less than a year
    ("admissions", "hospital_expire_flag"): (0, 1),
    ("diagnoses_icd", "icd_version"): (9, 10),
    ("d_icd_diagnoses", "icd_version"): (9, 10),
    **{("chexpert", label): (-1, 1) for label in CHEXPERT},
}
"""Possible values, limits inclusive. Other numbers become null and are counted. Each hour of a stay is a row on disk:
one wrong length of stay could fill it."""

ORDERED = {"icustays": ("intime", "outtime"), "admissions": ("admittime", "dischtime")}
"""Pairs of times in order. Rows with the second time before the first are used as published, and counted."""


def count(dropped: Dropped, table: str, what: str, reason: str, n: int) -> None:
    """Add ``n`` to a count of ``dropped``; zero leaves no entry."""
    if n:
        reasons = dropped.setdefault(table, {}).setdefault(what, {})
        reasons[reason] = reasons.get(reason, 0) + int(n)


def read_table(root: Path, name: str, dropped: Dropped) -> pl.DataFrame:
    """The needed columns of a small raw table, typed, in file order.

    Rows whose id columns are empty or not integers are left out, as are later rows of a repeated key; other values that
    cannot be read become null. All of it is counted in ``dropped``.

    Raises:
        RawDataError: as `locate`; a needed column is missing (names file, column and table); rows of another width.
    """
    table = RAW[name]
    path = locate(root, name)
    with open_bytes(path) as stream:
        data = stream.read()
    return _typed(_split(data, path, table, dropped), table, dropped)


def header_of(data: bytes) -> list[str]:
    """Column names of the first line, without byte-order mark, quotes and blanks around them."""
    line = data[: 1 << 16].decode("utf-8-sig", "replace").split("\n", 1)[0].rstrip("\r")
    return [column.strip().strip('"').strip() for column in line.split(",")] if line else []


def check_header(header: list[str], path: Path, table: RawTable, columns: Iterable[str]) -> None:
    """Raise a RawDataError unless each of ``columns`` is in ``header`` exactly once."""
    names = [table.renamed.get(column, column) for column in header]
    if missing := [column for column in columns if column not in names]:
        # Without a header the first line is patient data. It is shown only if all fields look like column names.
        is_header = header and all(re.fullmatch(r"[A-Za-z_][A-Za-z_ ]*\d?", name) for name in header)
        found = ", ".join(header) if is_header else "no line of column names"
        raise RawDataError(
            f"{path}: expected columns {', '.join(columns)}; missing {', '.join(missing)}; found {found}. Is this "
            f"{table.filename} of {TITLES[table.root]}? Download it from {WHERE[table.root]}"
        )
    if repeated := [column for column in columns if names.count(column) > 1]:
        raise RawDataError(f"{path}: column {', '.join(repeated)} occurs more than once in the header, expected once")


def _split(data: bytes, path: Path, table: RawTable, dropped: Dropped) -> pl.DataFrame:
    from flexcare_data.raw.csv_records import sieve  # imports numba, which commands that only plan do not need

    header = header_of(data)
    check_header(header, path, table, table.needed)
    sieved = sieve(data[data.find(b"\n") + 1 or len(data) :], len(header))
    if sieved.is_open:
        raise RawDataError(
            f"{path}: a quote is opened and never closed; expected a line break outside quotes at the end. Download "
            "the file again"
        )
    if sieved.malformed > 1 and sieved.malformed == sieved.records:
        raise RawDataError(
            f"{path}: expected {len(header)} fields per row as in the header, found another number in "
            f"all {sieved.records:,} rows. Was the file edited? Download it again"
        )
    count(dropped, table.name, "", "malformed_row", sieved.malformed)
    names = [str(index) for index in range(len(header))]
    schema = dict.fromkeys(names, pl.String)
    frame = (
        pl.read_csv(sieved.data, has_header=False, schema=schema, encoding="utf8-lossy")
        if sieved.records > sieved.malformed
        else pl.DataFrame(schema=schema)
    )
    place = {table.renamed.get(column, column): name for column, name in zip(header, names, strict=True)}
    absent = [pl.lit(None, pl.String).alias(column) for column in table.columns if column not in place]
    # A quoted empty field is as empty as one without quotes.
    found = [pl.col(place[column]).replace("", None).alias(column) for column in table.columns if column in place]
    return frame.select(*found, *absent).select(list(table.columns))


def _typed(frame: pl.DataFrame, table: RawTable, dropped: Dropped) -> pl.DataFrame:
    ids = [column for column in table.columns if column.endswith("_id")]
    casts = [typed(column, dtype) for column, dtype in table.columns.items()]
    result = frame.select(casts)
    for column, dtype in table.columns.items():
        if column in ids:
            continue
        lost = result[column].null_count() - frame[column].null_count()
        count(dropped, table.name, column, "not_a_time" if isinstance(dtype, pl.Datetime) else "not_a_number", lost)
        if (table.name, column) in RANGES:
            inside = pl.when(pl.col(column).is_between(*RANGES[table.name, column])).then(column)
            limited = result.with_columns(inside.alias(column))
            lost = limited[column].null_count() - result[column].null_count()
            count(dropped, table.name, column, "out_of_range", lost)
            result = limited
    for column in ids:
        bad = result[column].is_null()
        empty = frame[column].is_null()
        count(dropped, table.name, "", f"{column}_missing", int(empty.sum()))
        count(dropped, table.name, "", f"{column}_not_a_number", int((bad & ~empty).sum()))
        frame, result = frame.filter(~bad), result.filter(~bad)
    if table.key:
        unique = result.unique(list(table.key), keep="first", maintain_order=True)
        count(dropped, table.name, "", "repeated_key", result.height - unique.height)
        result = unique
    if table.name in ORDERED:
        first, second = ORDERED[table.name]
        count(dropped, table.name, second, f"before_{first}_but_used", int((result[second] < result[first]).sum()))
    return result


def typed(column: str, dtype: pl.DataType) -> pl.Expr:
    """A text column as ``dtype``; text that is no such value becomes null. A date without a time means midnight."""
    text = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        clean = text.str.strip_chars()
        full = clean.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
        return full.fill_null(clean.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False)).alias(column)
    if dtype == pl.String:
        return text
    number = text.str.strip_chars().cast(dtype, strict=False)
    return pl.when(number.is_finite()).then(number).alias(column) if dtype.is_float() else number


def empty_counts() -> Dropped:
    """A fresh `Dropped`."""
    return defaultdict(dict)
