"""Number the distinct (item, text) pairs of a table, so that equal values are cleaned once.

In: rows with their items, the bytes that they were read from and the positions of their texts. Out: a number per row,
in order of first appearance; item and text of each number. The texts of all rows are never in memory together.
"""

from __future__ import annotations

import numpy as np

from flexcare_data.compiled import compiled
from flexcare_data.raw.byte_constants import QUOTE


class PairTable:
    """The pairs so far: item, number of rows and text of each, and a hash table (open addressing) of their numbers."""

    def __init__(self) -> None:
        self._size = np.zeros(1, np.int64)
        self._slots = np.full(1 << 14, -1, np.int32)
        self._item = np.zeros(1 << 12, np.int32)
        self._hash = np.zeros(1 << 12, np.uint64)
        self._rows = np.zeros(1 << 12, np.int64)
        self._start = np.zeros((1 << 12) + 1, np.int64)
        self._text = np.zeros(1 << 16, np.uint8)

    def __len__(self) -> int:
        return int(self._size[0])

    def number(self, rows: np.ndarray, texts: np.ndarray, buffer: np.ndarray) -> None:
        """Replace the item in ``pair`` of ``rows`` (`event_scan_kernel.LINKED`) by the number of item and text.

        ``texts`` (`event_scan_kernel.TEXT`) has the position in ``buffer`` of the text of each row.
        """
        done = 0
        while True:
            done = _number(
                rows, texts, buffer, done, self._slots, self._item, self._start, self._hash, self._text, self._size,
                self._rows,
            )  # fmt: skip
            if done == len(rows):
                return
            self._make_room(int(texts["end"][done] - texts["start"][done]))

    def _make_room(self, n_bytes: int) -> None:
        """Grow so that at least one more pair with a text of ``n_bytes`` fits."""
        n = len(self)
        if n == len(self._item):
            self._item, self._hash, self._rows = _grown(self._item), _grown(self._hash), _grown(self._rows)
            self._start = np.concatenate([self._start, np.zeros(n, np.int64)])
            self._slots = np.full(4 * len(self._item), -1, np.int32)
            _rehash(self._slots, self._hash, n)
        while self._start[n] + n_bytes > len(self._text):
            self._text = _grown(self._text)

    def items(self) -> np.ndarray:
        """Item code (row of the item list) of each pair."""
        return self._item[: len(self)]

    def rows(self) -> np.ndarray:
        """Number of rows of each pair."""
        return self._rows[: len(self)]

    def texts(self) -> list[str]:
        """Text of each pair, as charted."""
        raw, start = self._text.tobytes(), self._start
        return [raw[start[i] : start[i + 1]].decode("utf-8", "replace") for i in range(len(self))]


def _grown(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


@compiled
def _number(rows, texts, buffer, first, slots, pair_item, pair_start, pair_hash, pair_text, pair_size, pair_rows):
    """Number the rows from ``first`` on; return the first row without room for its pair, or the number of rows."""
    for i in range(first, len(rows)):
        text = buffer[texts[i].start : texts[i].end]
        if texts[i].doubled:
            text = _without_doubled_quotes(text)
        pair = _number_of(rows[i].pair, text, slots, pair_item, pair_start, pair_hash, pair_text, pair_size)
        if pair < 0:
            return i
        pair_rows[pair] += 1
        rows[i].pair = pair
    return len(rows)


@compiled
def _number_of(item, text, slots, pair_item, pair_start, pair_hash, pair_text, pair_size):
    """Number of the pair (item, text), a new one if need be; -1 if there is no room for it."""
    length, code = len(text), _hash(item, text)
    mask = len(slots) - 1
    slot = np.int64(code & np.uint64(mask))
    while slots[slot] >= 0:
        pair = np.int64(slots[slot])
        first, last = pair_start[pair], pair_start[pair + 1]
        if pair_hash[pair] == code and pair_item[pair] == item and last - first == length:
            same = True
            for i in range(length):
                same = same and pair_text[first + i] == text[i]
            if same:
                return pair
        slot = (slot + 1) & mask
    pair = pair_size[0]
    first = pair_start[pair]
    if pair == len(pair_item) or first + length > len(pair_text):
        return np.int64(-1)
    pair_text[first : first + length] = text
    pair_start[pair + 1] = first + length
    pair_item[pair], pair_hash[pair] = item, code
    slots[slot] = pair
    pair_size[0] = pair + 1
    return pair


@compiled
def _hash(item, text):
    """FNV-1a of the bytes of ``text``, begun with ``item``; the high half is mixed into the low, which is used."""
    code = (np.uint64(0xCBF29CE484222325) ^ np.uint64(item)) * np.uint64(0x100000001B3)
    for byte in text:
        code = (code ^ np.uint64(byte)) * np.uint64(0x100000001B3)
    return code ^ (code >> np.uint64(32))


@compiled
def _without_doubled_quotes(text):
    plain = np.empty(len(text), np.uint8)
    length = i = 0
    while i < len(text):
        plain[length] = text[i]
        i += 2 if text[i] == QUOTE else 1
        length += 1
    return plain[:length]


@compiled
def _rehash(slots, hashes, n):
    """Fill the empty ``slots`` with the numbers of the first ``n`` pairs."""
    mask = len(slots) - 1
    for i in range(n):
        slot = np.int64(hashes[i] & np.uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = i
