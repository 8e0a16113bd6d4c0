"""Read the notes of MIMIC-IV-Note row by row: discharge summaries or radiology reports.

In: the root folder of MIMIC-IV-Note. Out: the rows of a table as text, and counts of rows that cannot be used.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from flexcare_data.raw.files import ByteStream, RawDataError, locate, open_bytes
from flexcare_data.raw.tables import Dropped, check_header, count
from flexcare_data.schema import RAW


def read_notes(
    root: Path, dropped: Dropped, progress: Callable[[int, int], None] | None = None, *, name: str = "discharge"
) -> Iterator[dict[str, str]]:
    """Yield the rows of table ``name`` (discharge or radiology) in file order: dicts of the needed columns as text.

    One note is in memory at a time. ``\\r\\n`` and a lone ``\\r`` are newlines. Rows with another number of fields are
    counted in ``dropped``; ``progress`` is called with the bytes read so far and in all, on disk.

    Raises:
        RawDataError: as `read_table`.
    """
    table = RAW[name]
    path = locate(root, name)
    size = path.stat().st_size
    csv.field_size_limit(1 << 28)
    with open_bytes(path) as stream:
        # _Readable has what TextIOWrapper uses, not the whole protocol of its stub.
        binary: Any = _Readable(stream)
        text = io.TextIOWrapper(binary, encoding="utf-8-sig", errors="replace", newline="")
        reader = csv.reader(text, strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            check_header(header, path, table, table.needed)
            position = {column: header.index(column) for column in table.columns}
            for n, row in enumerate(reader):
                if progress and not n % 1000:
                    progress(stream.raw_position(), size)
                if len(row) != len(header):
                    count(dropped, name, "", "malformed_row", 1 if row else 0)
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
