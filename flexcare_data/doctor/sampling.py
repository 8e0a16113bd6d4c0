"""Inspect one raw table without reading all of it: its path, columns and rows, and whether it is damaged.

In: a root and the name of a table. Out: a `Probe`, or a RawDataError.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from flexcare_data.raw.csv_records import count_records
from flexcare_data.raw.files import RawDataError, locate, open_bytes, stored_size
from flexcare_data.raw.tables import check_header, header_of
from flexcare_data.schema import RAW

_BLOCK = 4 << 20
_SAMPLE = 96 << 20
_READ_AHEAD = 1 << 18
"""Bytes on disk that the reader has taken but not inflated yet, on average: half of its buffer."""
_MOST_UNWRAPPED = 3 << 30
"""A gzip file ends with its inflated size modulo 4 GB; it is compared where the estimate is safely below that."""


@dataclass(frozen=True)
class Probe:
    """What was found about a table.

    Attributes:
        path: the file.
        columns: its columns, as in the header.
        rows: rows, counted where ``is_counted`` (then the whole file was inflated and is undamaged), else
            estimated.
        inflated: bytes of text, counted or estimated as the rows.
        suspicion: why the file may be damaged though its beginning is valid; empty without a sign of it.
    """

    name: str
    path: Path
    columns: tuple[str, ...]
    rows: int
    is_counted: bool
    inflated: int
    suspicion: str = ""


def probe(root: Path, name: str, *, count_up_to: int) -> Probe:
    """Inspect raw table ``name``.

    Rows of a file of at most ``count_up_to`` bytes on disk are counted. Of a larger one the first 96 MB of text are
    read, and rows are estimated: bytes on disk, times the ratio of text to bytes on disk, over the mean length of a row
    there.

    Raises:
        RawDataError: not found, no permission, needed columns missing, damaged.
    """
    table = RAW[name]
    path = locate(root, name)
    size = path.stat().st_size
    is_whole = size <= count_up_to
    records = inflated = on_disk = 0
    in_quotes = False
    columns: tuple[str, ...] = ()
    last = b""
    with open_bytes(path) as stream:
        while block := stream.read(_BLOCK):
            if not columns:
                columns = tuple(header_of(block))
                check_header(list(columns), path, table, table.needed)
            more, in_quotes = count_records(block, in_quotes)
            records += more
            inflated += len(block)
            last = block[-1:]
            on_disk = max(stream.raw_position() - _READ_AHEAD, 1)
            if not is_whole and inflated >= _SAMPLE:
                break
        else:
            is_whole = True
    if not columns:
        check_header([], path, table, table.needed)
    if is_whole and in_quotes:
        raise RawDataError(f"{path}: a quote is opened and never closed, expected none; download the file again")
    suspicion = ""
    if is_whole:
        rows = records - 1 + (last != b"\n")
    else:
        text = int(size * inflated / on_disk)
        rows = int(text / inflated * max(1, records)) - 1
        suspicion = _suspicion(path, text)
        inflated = text
    return Probe(name, path, columns, max(0, rows), is_whole, inflated, suspicion)


def _suspicion(path: Path, text: int) -> str:
    """Compare the size at the end of a gzip file with the estimate: a file that was cut off ends in other bytes."""
    stored = stored_size(path)
    if stored is None or text > _MOST_UNWRAPPED or text / 2 <= stored <= 2 * text:
        return ""
    return "the size stored at its end does not match: the file is cut off, or several gzip files were joined"
