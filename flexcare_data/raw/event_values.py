"""The distinct (item, text) pairs of a table and their numbers, so that equal values are cleaned once.

In: rows with their items, the bytes that they were read from and where in these their texts lie. Out: a number per
row, in order of appearance; item and text of each number. No text column is ever held.
"""

from __future__ import annotations

import numpy as np

from flexcare_data.raw.compiled import compiled, word


class PairTable:
    """The pairs met so far: item and rows of each, texts one after another, and a hash table of their numbers."""

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
        """Replace the item in ``pair`` of ``rows`` (`scan_loop.LINKED`) by the number of item and text.

        ``texts`` (`scan_loop.TEXT`) says where in ``buffer`` the text of each row lies.
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
    """Number the rows from ``first`` on; return the first whose pair there is no room for, or how many there are."""
    for i in range(first, len(rows)):
        start, end, item = texts[i].start, texts[i].end, rows[i].pair
        if texts[i].doubled:
            text = _without_doubled_quotes(buffer, start, end)
            head = _piece(text, 0, len(text))
            pair = _number_of(
                item, head, text, 0, len(text), slots, pair_item, pair_start, pair_hash, pair_text, pair_size
            )
        else:
            # Most texts are short: with their head at hand, the bytes are not fetched once more.
            head = _first(texts[i].head, end - start) if start + 8 <= len(buffer) else _piece(buffer, start, end)
            pair = _number_of(
                item, head, buffer, start, end, slots, pair_item, pair_start, pair_hash, pair_text, pair_size
            )
        if pair < 0:
            return i
        pair_rows[pair] += 1
        rows[i].pair = pair
    return len(rows)


@compiled
def _number_of(item, head, text, start, end, slots, pair_item, pair_start, pair_hash, pair_text, pair_size):
    """Number of the pair (item, text[start:end]), a new one if need be; -1 where there is no room for it.

    ``head`` is the first `_piece` of the text.
    """
    length = end - start
    code = _mixed((np.uint64(item) << np.uint64(32)) ^ np.uint64(length), head)
    for i in range(8, length, 8):
        code = _mixed(code, _piece(text, start + i, end))
    mask = len(slots) - 1
    slot = np.int64(code & np.uint64(mask))
    while slots[slot] >= 0:
        pair = np.int64(slots[slot])
        first, last = pair_start[pair], pair_start[pair + 1]
        if pair_hash[pair] == code and pair_item[pair] == item and last - first == length:
            same = _piece(pair_text, first, last) == head
            for i in range(8, length, 8):
                same = same and _piece(pair_text, first + i, last) == _piece(text, start + i, end)
            if same:
                return pair
        slot = (slot + 1) & mask
    pair = pair_size[0]
    first = pair_start[pair]
    if pair == len(pair_item) or first + length > len(pair_text):
        return np.int64(-1)
    for i in range(length):
        pair_text[first + i] = text[start + i]
    pair_start[pair + 1] = first + length
    pair_item[pair], pair_hash[pair] = item, code
    slots[slot] = pair
    pair_size[0] = pair + 1
    return pair


@compiled
def _mixed(code, piece):
    code = (code ^ piece) * np.uint64(0x9E3779B97F4A7C15)
    return code ^ (code >> np.uint64(32))


@compiled
def _first(eight, length):
    """The first ``length`` of ``eight`` bytes, the others as zeros."""
    return eight if length >= 8 else eight & ((np.uint64(1) << np.uint64(8 * length)) - np.uint64(1))


@compiled
def _piece(buffer, start, end):
    """Up to eight bytes from ``start`` on, those from ``end`` on as zeros."""
    if start + 8 <= len(buffer):
        return _first(word(buffer, start), end - start)
    eight = np.uint64(0)
    for i in range(min(end - start, 8)):
        eight |= np.uint64(buffer[start + i]) << np.uint64(8 * i)
    return eight


@compiled
def _without_doubled_quotes(buffer, start, end):
    text = np.empty(end - start, np.uint8)
    length, i = 0, start
    while i < end:
        text[length] = buffer[i]
        i += 2 if text[length] == 34 else 1
        length += 1
    return text[:length]


@compiled
def _rehash(slots, hashes, n):
    """Fill the empty ``slots`` with the numbers of the first ``n`` pairs."""
    mask = len(slots) - 1
    for i in range(n):
        slot = np.int64(hashes[i] & np.uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = i
