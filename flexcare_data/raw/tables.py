"""Raw PhysioNet files as downloaded: where they lie, how they are read, what is wrong with them.

In: a root folder and a `schema.RawTable`. Out: a frame with the needed columns by name and typed, and counts of every
row or value that could not be used. Only the empty field is null: `None`, `NaN` and `NA` are text.
"""

from __future__ import annotations

import csv
import io
import os
import re
import stat
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl
from isal import igzip, isal_zlib

from flexcare_data.errors import UserError
from flexcare_data.schema import CHEXPERT, RAW, RawTable

WHERE = {
    "mimiciv": "https://physionet.org/content/mimiciv/",
    "mimic_cxr_jpg": "https://physionet.org/content/mimic-cxr-jpg/",
    "mimic_iv_note": "https://physionet.org/content/mimic-iv-note/",
}
"""Where each data set is downloaded."""

TITLES = {"mimiciv": "MIMIC-IV", "mimic_cxr_jpg": "MIMIC-CXR-JPG", "mimic_iv_note": "MIMIC-IV-Note"}
"""What each data set is called."""

MARK = "SYNTHETIC"
"""A root that holds a file of this name was fabricated."""

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
"""Numbers outside cannot be meant: they become null and are counted. An hour of a stay has a row on disk, so one wrong
length of stay could fill it."""

ORDERED = {"icustays": ("intime", "outtime"), "admissions": ("admittime", "dischtime")}
"""Times of which the second cannot come first. Such rows are used as published, and counted."""


class RawDataError(UserError, ValueError):
    """A raw file cannot be used: which, what was expected, what came and what to do. Holds no patient's value."""


def count(dropped: Dropped, table: str, what: str, reason: str, n: int) -> None:
    """Add ``n`` to a count of ``dropped``; zero leaves no entry."""
    if n:
        reasons = dropped.setdefault(table, {}).setdefault(what, {})
        reasons[reason] = reasons.get(reason, 0) + int(n)


def locate(root: Path, name: str) -> Path:
    """The file of raw table ``name`` below ``root``, `.csv.gz` or `.csv`.

    Raises:
        RawDataError: no such file (says which places were tried), a folder in its place, or no permission.
    """
    table = RAW[name]
    kind = _kind(root)
    if kind != "a folder":
        raise RawDataError(f"{root}: expected the folder of {TITLES[table.root]}, found {kind}; set raw.{table.root}")
    places = [root / folder / f"{table.filename}{end}" for folder in table.folders for end in (".csv.gz", ".csv")]
    for path in places:
        kind = _kind(path)
        if kind == "nothing":
            continue
        if kind != "a file":
            raise RawDataError(f"{path}: expected a file, found {kind}; {HELP.get(kind, f'download {name} again')}")
        if not os.access(path, os.R_OK):
            raise RawDataError(f"{path}: expected a file that can be read, found no permission; {HELP[NO_ACCESS]}")
        return path
    tried = ", ".join(str(path.relative_to(root)) for path in places)
    raise RawDataError(f"{root}: expected one of {tried}, found none; download {name} from {WHERE[table.root]}")


NO_ACCESS = "a folder without permission to look into"
HELP = {NO_ACCESS: "ask its owner for access (your account may have to join a group)"}


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "a link to nothing" if path.is_symlink() else "nothing"
    except PermissionError:
        return NO_ACCESS
    except OSError as error:
        return f"something unreadable ({error.strerror})"
    return "a folder" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "something that is no file"


class ByteStream:
    """Inflated bytes of a `.csv` or `.csv.gz`; damage becomes a RawDataError that names the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise RawDataError(f"{path}: cannot be opened ({error.strerror})") from None
        magic = self._file.read(2)
        self._file.seek(0)
        if path.suffix == ".gz" and magic != b"\x1f\x8b":
            self._file.close()
            found = "an empty file" if not magic else "something else"
            raise RawDataError(f"{path}: expected gzip data, found {found}; download it again")
        self._stream = igzip.GzipFile(fileobj=self._file) if magic == b"\x1f\x8b" else self._file

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._file.close()

    def read(self, size: int = -1) -> bytes:
        """The next bytes, at most ``size``; empty at the end."""
        try:
            return self._stream.read(size)
        except (EOFError, zlib.error, isal_zlib.error, OSError) as error:  # type: ignore[misc]  # typed as an instance by isal
            problem = "ends too early" if isinstance(error, EOFError) else "is damaged"
            raise RawDataError(
                f"{self.path}: the gzip data {problem} after {self.raw_position():,} of {self.path.stat().st_size:,} "
                "bytes; compare with SHA256SUMS.txt of the release and download the file again"
            ) from None

    def raw_position(self) -> int:
        """Bytes of the file on disk read so far."""
        return 0 if self._file.closed else self._file.tell()


def open_bytes(path: Path) -> ByteStream:
    """Open ``path`` for reading inflated bytes."""
    return ByteStream(path)


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
    """Raise a RawDataError unless every one of ``columns`` stands in ``header`` once."""
    names = [table.renamed.get(column, column) for column in header]
    if missing := [column for column in columns if column not in names]:
        # Without a header the first line is a patient's: it is shown only where it can be nothing but names.
        is_header = header and all(re.fullmatch(r"[A-Za-z_][A-Za-z_ ]*\d?", name) for name in header)
        found = ", ".join(header) if is_header else "no line of column names"
        raise RawDataError(
            f"{path}: expected columns {', '.join(columns)}; missing {', '.join(missing)}; found {found}. Is this "
            f"{table.filename} of {TITLES[table.root]}? Download it from {WHERE[table.root]}"
        )
    if repeated := [column for column in columns if names.count(column) > 1]:
        raise RawDataError(f"{path}: column {', '.join(repeated)} stands more than once in the header, expected once")


def _split(data: bytes, path: Path, table: RawTable, dropped: Dropped) -> pl.DataFrame:
    from flexcare_data.raw.csv_records import sieve

    header = header_of(data)
    check_header(header, path, table, table.columns)
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
    # A quoted empty field is as empty as one without quotes.
    return frame.select(pl.col(place[column]).replace("", None).alias(column) for column in table.columns)


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
    """Text column to ``dtype``; what cannot be read becomes null. Dates may lack the time of day."""
    text = pl.col(column)
    if isinstance(dtype, pl.Datetime):
        clean = text.str.strip_chars()
        full = clean.str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
        return full.fill_null(clean.str.to_datetime("%Y-%m-%d", time_unit="us", strict=False)).alias(column)
    if dtype == pl.String:
        return text
    number = text.str.strip_chars().cast(dtype, strict=False)
    return pl.when(number.is_finite()).then(number).alias(column) if dtype.is_float() else number


def read_notes(
    root: Path, dropped: Dropped, progress: Callable[[int, int], None] | None = None
) -> Iterator[dict[str, str]]:
    """Rows of discharge.csv in file order, one dict of the needed columns as text each; a note at a time in memory.

    ``\\r\\n`` and a lone ``\\r`` are newlines. Rows of another width are counted in ``dropped``;
    ``progress`` is told bytes on disk.

    Raises:
        RawDataError: as `read_table`.
    """
    table = RAW["discharge"]
    path = locate(root, "discharge")
    size = path.stat().st_size
    csv.field_size_limit(1 << 28)
    with open_bytes(path) as stream:
        # _Readable has what TextIOWrapper uses, not the whole protocol of its stub.
        binary: Any = _Readable(stream)
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            check_header(header, path, table, table.columns)
            position = {column: header.index(column) for column in table.columns}
            for n, row in enumerate(reader):
                if progress and not n % 1000:
                    progress(stream.raw_position(), size)
                if len(row) != len(header):
                    count(dropped, "discharge", "", "malformed_row", 1 if row else 0)
                    continue
                yield {column: row[index] for column, index in position.items()}
            if progress:
                progress(size, size)
        except csv.Error:
            raise RawDataError(
                f"{path}: a quote is wrong or never closed near line {reader.line_num:,}; download it again"
            ) from None


class _Readable(io.RawIOBase):
    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def is_marked_synthetic(root: Path | None) -> bool:
    """True if ``root`` was written by the generator."""
    return root is not None and (root / MARK).exists()


def empty_counts() -> Dropped:
    """A fresh `Dropped`."""
    return defaultdict(dict)
