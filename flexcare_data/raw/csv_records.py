"""Count the records of CSV bytes and remove those that are malformed.

In: bytes of a CSV file. Out: counts, and the bytes without the records that have another number of fields than the
header or wrong quotes. CSV libraries treat such records in different ways (fill, cut, join with the next line, stop).
Here they are removed before any library reads them, so that each one is counted once.

A record ends at a line break outside quotes. An empty line is no record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexcare_data.compiled import compiled
from flexcare_data.raw.byte_constants import CARRIAGE_RETURN, COMMA, NEWLINE, QUOTE


@dataclass(frozen=True)
class Sieved:
    """Bytes with well-formed records only, the number of records before, and how many of them were removed.

    ``is_open`` is True if the bytes end inside quotes.
    """

    data: bytes
    records: int
    malformed: int
    is_open: bool


def sieve(data: bytes, n_fields: int) -> Sieved:
    """Remove the records of ``data`` that do not have ``n_fields`` fields or have a quote in a wrong place.

    A quote may open a field, close it (a comma or line end follows) or be doubled inside a quoted field.

    Example:
        >>> sieve(b'a,b\\n1,"x, y"\\n2\\n\\n3,"z" z\\n', 2)
        Sieved(data=b'a,b\\n1,"x, y"\\n', records=4, malformed=2, is_open=False)
    """
    buffer = np.frombuffer(data, np.uint8)
    starts = np.zeros(1 << 10, np.int64)
    while True:
        state = np.zeros(4, np.int64)  # records, pieces to leave out, malformed records, 1 if the end is inside quotes
        _sieve(buffer, n_fields, starts, state)
        records, n_out, malformed, is_open = (int(value) for value in state)
        if 2 * n_out <= len(starts):
            break
        starts = np.zeros(2 * n_out, np.int64)
    if not n_out:
        return Sieved(data, records, malformed, bool(is_open))
    kept, position = [], 0
    for start, end in starts[: 2 * n_out].reshape(-1, 2):
        kept.append(data[position:start])
        position = int(end)
    kept.append(data[position:])
    return Sieved(b"".join(kept), records, malformed, bool(is_open))


def count_records(block: bytes, in_quotes: bool) -> tuple[int, bool]:
    """The number of line ends outside quotes in ``block``, and whether it ends inside quotes.

    ``in_quotes``: whether it begins inside quotes.
    """
    if not in_quotes and b'"' not in block:
        return block.count(b"\n") - block.count(b"\n\n"), False
    return _count(np.frombuffer(block, np.uint8), in_quotes)


@compiled
def _count(buffer, in_quotes):
    n = 0
    for byte in buffer:
        if byte == QUOTE:
            in_quotes = not in_quotes
        elif byte == NEWLINE and not in_quotes:
            n += 1
    return n, in_quotes


@compiled
def _sieve(buffer, n_fields, out, state):
    n = len(buffer)
    p = 0
    while p < n:
        record = p
        if buffer[p] == NEWLINE or (buffer[p] == CARRIAGE_RETURN and (p + 1 == n or buffer[p + 1] == NEWLINE)):
            p += 1 if buffer[p] == NEWLINE else 2
            _leave_out(out, state, record, min(p, n))
            continue
        fields, broken = 0, False
        while True:
            if p < n and buffer[p] == QUOTE:
                p += 1
                while True:
                    while p < n and buffer[p] != QUOTE:
                        p += 1
                    if p + 1 < n and buffer[p + 1] == QUOTE:
                        p += 2
                        continue
                    break
                if p >= n:
                    state[3] = 1
                p += 1
                if p < n and buffer[p] == CARRIAGE_RETURN and (p + 1 == n or buffer[p + 1] == NEWLINE):
                    p += 1
            while p < n and buffer[p] != COMMA and buffer[p] != NEWLINE:
                # Text after a closing quote, or a quote inside an unquoted field.
                broken = broken or buffer[p] == QUOTE or (p > record and buffer[p - 1] == QUOTE)
                p += 1
            fields += 1
            if p >= n or buffer[p] == NEWLINE:
                break
            p += 1
        p = min(p + 1, n)
        state[0] += 1
        if broken or fields != n_fields:
            state[2] += 1
            _leave_out(out, state, record, p)


@compiled
def _leave_out(out, state, start, end):
    k = 2 * state[1]
    if k + 1 < len(out):
        out[k], out[k + 1] = start, end
    state[1] += 1
