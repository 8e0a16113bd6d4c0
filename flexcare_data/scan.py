"""One pass over a large event table (chartevents, labevents), keeping only rows of wanted items and kept stays.

In: a `.csv` or `.csv.gz` as published, the wanted items, the kept stays. Out: batches of (stay, charttime, pair), where
a pair is a distinct (item, text), and a count for every row that is not in a batch.

Why not a general CSV reader: these two tables are most of MIMIC, three rows of four are not wanted, and the wanted
texts repeat. One compiled loop splits the fields, looks the ids up and gives equal (item, text) pairs one number, so
that values are cleaned once per distinct pair (cleaning.py) and no text column is ever held. A second thread inflates.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import numpy as np
from numba import njit

from flexcare_data.raw import RawDataError, open_bytes

REASONS = (
    "malformed_row",
    "item_not_used",
    "value_missing",
    "itemid_not_a_number",
    "hadm_id_missing",
    "hadm_id_not_a_number",
    "admission_without_kept_stay",
    "subject_id_differs",
    "stay_id_not_a_number",
    "stay_id_differs",
    "charttime_missing",
    "charttime_not_a_time",
)
"""Why a row is not used; the position is the number that the loop counts under."""

_MALFORMED, _NOT_USED, _NO_VALUE, _BAD_ITEM, _NO_HADM, _BAD_HADM = range(6)
_NO_STAY, _OTHER_SUBJECT, _BAD_STAY, _OTHER_STAY, _NO_TIME, _BAD_TIME = range(6, 12)

_IGNORE, _SUBJECT, _HADM, _STAY, _TIME, _ITEM, _VALUE = range(7)
_ROLES = {
    "subject_id": _SUBJECT,
    "hadm_id": _HADM,
    "stay_id": _STAY,
    "charttime": _TIME,
    "itemid": _ITEM,
    "value": _VALUE,
}

BLOCK = 4 << 20
_ROWS = 1 << 17
_LONGEST_RECORD = 64 << 20
_ITEM_SPACE = 1 << 18
_EMPTY = np.int64(-(1 << 62))
_BAD = np.int64(-(1 << 62) + 1)


@dataclass(frozen=True)
class KeptStays:
    """The kept stays as the loop reads them, sorted by hadm_id (each kept stay has its own admission).

    Times are seconds since 1970 without time zone. ``by_subject`` and ``first_of_subject`` list the rows of each
    subject: used to link labs without hadm_id by time.
    """

    hadm_id: np.ndarray
    stay_id: np.ndarray
    subject_id: np.ndarray
    intime: np.ndarray
    outtime: np.ndarray
    by_subject: np.ndarray = field(init=False)
    sorted_subject: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        order = np.argsort(self.subject_id, kind="stable")
        object.__setattr__(self, "by_subject", order)
        object.__setattr__(self, "sorted_subject", self.subject_id[order])


class PairTable:
    """The distinct (item, text) pairs met so far, numbered in order of appearance."""

    def __init__(self) -> None:
        self.slots = np.full(1 << 14, -1, np.int32)
        self.item = np.zeros(1 << 12, np.int32)
        self.start = np.zeros((1 << 12) + 1, np.int64)
        self.hash = np.zeros(1 << 12, np.uint64)
        self.text = np.zeros(1 << 16, np.uint8)
        self.size = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self.size[0])

    def make_room(self, n_bytes: int) -> None:
        """Grow so that at least one more pair with a text of ``n_bytes`` fits."""
        n = len(self)
        if n + 1 >= len(self.item):
            self.item, self.hash = _grown(self.item), _grown(self.hash)
            self.start = np.concatenate([self.start, np.zeros(len(self.start) - 1, np.int64)])
            self.slots = np.full(4 * len(self.item), -1, np.int32)
            _rehash(self.slots, self.hash, n)
        while self.start[n] + n_bytes > len(self.text):
            self.text = _grown(self.text)

    def items(self) -> np.ndarray:
        """Item code (row of the item list) of each pair."""
        return self.item[: len(self)]

    def texts(self) -> list[str]:
        """Text of each pair, as charted."""
        raw, start = self.text.tobytes(), self.start
        return [raw[start[i] : start[i + 1]].decode("utf-8", "replace") for i in range(len(self))]


@dataclass
class ScanCounts:
    """What became of the rows of one table: ``rows`` = ``used`` + all of ``dropped``."""

    rows: int = 0
    used: int = 0
    dropped: np.ndarray = field(default_factory=lambda: np.zeros(len(REASONS), np.int64))
    pair_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


def scan_events(
    path: Path,
    table: str,
    itemids: np.ndarray,
    stays: KeptStays,
    pairs: PairTable,
    counts: ScanCounts,
    *,
    link_by_time: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (stay row in ``stays``, charttime in seconds, pair number) of the rows that can be used, in file order.

    A row is used if its item is in ``itemids``, its value is not empty, its hadm_id (or, with ``link_by_time``, the
    time of a row without hadm_id) belongs to a kept stay of the same subject, and its stay_id, where there is one,
    is that stay. Everything else is counted in ``counts``.

    Raises:
        RawDataError: a needed column is missing, the file is damaged, or a quote is never closed.
    """
    lookup = np.full(_ITEM_SPACE, -1, np.int32)
    lookup[itemids] = np.arange(len(itemids), dtype=np.int32)
    out = np.empty(_ROWS, np.int32), np.empty(_ROWS, np.int64), np.empty(_ROWS, np.int32)
    state = np.zeros(4, np.int64)  # consumed bytes, rows out, rows seen, bytes wanted for the next text
    links = (stays.hadm_id, stays.stay_id, stays.subject_id, stays.intime, stays.outtime)
    blocks = _blocks(path, progress)
    roles, timelike, rest = _header(path, table, blocks)
    tail, final = rest, False
    while not final:
        block = next(blocks, b"")
        final = not block
        buffer = np.frombuffer(tail + block, np.uint8)
        position = 0
        while position < len(buffer):
            if len(counts.pair_rows) < len(pairs.item):
                counts.pair_rows = np.concatenate(
                    [counts.pair_rows, np.zeros(len(pairs.item) - len(counts.pair_rows), np.int64)]
                )
            state[:] = 0
            _scan(
                buffer, position, final, roles, timelike, lookup, links, stays.by_subject, stays.sorted_subject,
                link_by_time, pairs.slots, pairs.item, pairs.start, pairs.hash, pairs.text, pairs.size,
                counts.pair_rows, counts.dropped, *out, state,
            )  # fmt: skip
            consumed, n_out, n_rows, wanted = (int(value) for value in state)
            position += consumed
            counts.rows += n_rows
            counts.used += n_out
            if n_out:
                yield tuple(column[:n_out].copy() for column in out)
            if wanted:
                pairs.make_room(wanted)
            elif n_out < _ROWS:
                break
        tail = buffer[position:].tobytes()
        if len(tail) > _LONGEST_RECORD:
            raise RawDataError(
                f"{path}: a record after row {counts.rows} is longer than {_LONGEST_RECORD >> 20} MB; expected a "
                "line break outside quotes. A quote is opened and never closed: download the file again."
            )
    if tail:
        raise RawDataError(f"{path}: the file ends inside a quoted field after row {counts.rows}; download it again.")


def _blocks(path: Path, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """Inflated blocks of the file, read ahead by a second thread."""
    queue: Queue = Queue(maxsize=4)
    stop = threading.Event()

    def read() -> None:
        try:
            with open_bytes(path) as stream:
                while not stop.is_set() and (block := stream.read(BLOCK)):
                    queue.put((block, stream.raw_position()))
            queue.put((b"", 0))
        except BaseException as error:  # handed to the reading thread, which raises it
            queue.put((error, 0))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            block, position = queue.get()
            if isinstance(block, BaseException):
                raise block
            if not block:
                return
            if progress:
                progress(position)
            yield block
    finally:
        stop.set()
        while thread.is_alive():
            while not queue.empty():
                queue.get_nowait()
            thread.join(0.01)


def _header(path: Path, table: str, blocks: Iterator[bytes]) -> tuple[np.ndarray, np.ndarray, bytes]:
    first = b""
    while b"\n" not in first:
        block = next(blocks, b"")
        if not block:
            break
        first += block
    line, _, rest = first.partition(b"\n")
    names = [name.strip().strip('"') for name in line.decode("utf-8-sig", "replace").rstrip("\r").split(",")]
    needed = [name for name in _ROLES if not (name == "stay_id" and table == "labevents")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise RawDataError(
            f"{path}: expected columns {', '.join(needed)}; missing {', '.join(missing)}. Is this {table} of MIMIC-IV?"
        )
    repeated = sorted({name for name in needed if names.count(name) > 1})
    if repeated:
        raise RawDataError(f"{path}: column {', '.join(repeated)} stands more than once in the header")
    known = set(needed)
    roles = np.array([_ROLES[name] if name in known else _IGNORE for name in names], np.int8)
    timelike = np.array([name.endswith("time") for name in names], np.bool_)
    return roles, timelike, rest


def _grown(array: np.ndarray) -> np.ndarray:
    return np.concatenate([array, np.zeros_like(array)])


@njit(cache=True, nogil=True)
def _rehash(slots, hashes, n):
    mask = len(slots) - 1
    for i in range(n):
        slot = np.int64(hashes[i] & np.uint64(mask))
        while slots[slot] >= 0:
            slot = (slot + 1) & mask
        slots[slot] = i


@njit(cache=True, nogil=True)
def _at(buffer, i):
    """buffer[i] for i >= 0: an unsigned index spares the test for a negative one, a sixth of the whole scan."""
    return buffer[np.uintp(i)]


@njit(cache=True, nogil=True)
def _is_stamp(buffer, p):
    """True if a full time stamp and a comma stand at p, so that its bytes need not be looked at one by one."""
    if _at(buffer, p + 19) != 44 or _at(buffer, p + 4) != 45 or _at(buffer, p + 10) != 32:
        return False
    low = _at(buffer, p)
    for i in range(1, 10):
        low = min(low, _at(buffer, p + i))
    for i in range(11, 19):
        low = min(low, _at(buffer, p + i))
    # `-` is 45, digits and `:` are above; comma, quote and line ends are below.
    return low >= 45


@njit(cache=True, nogil=True)
def _integer(buffer, start, end):
    """The integer in buffer[start:end]; _EMPTY for no text, _BAD for other text."""
    if start >= end:
        return _EMPTY
    if end - start > 18:
        return _BAD
    value = np.int64(0)
    for i in range(start, end):
        digit = np.int64(buffer[i]) - 48
        if digit < 0 or digit > 9:
            return _BAD
        value = value * 10 + digit
    return value


@njit(cache=True, nogil=True)
def _two(buffer, i):
    a, b = np.int64(buffer[i]) - 48, np.int64(buffer[i + 1]) - 48
    if a < 0 or a > 9 or b < 0 or b > 9:
        return np.int64(-1)
    return a * 10 + b


@njit(cache=True, nogil=True)
def _seconds(buffer, start, end):
    """Seconds since 1970 of `YYYY-MM-DD HH:MM:SS` (or a date alone, midnight); _EMPTY, _BAD as above."""
    if start >= end:
        return _EMPTY
    length = end - start
    if length != 19 and length != 10:
        return _BAD
    if buffer[start + 4] != 45 or buffer[start + 7] != 45:
        return _BAD
    century, year = _two(buffer, start), _two(buffer, start + 2)
    month, day = _two(buffer, start + 5), _two(buffer, start + 8)
    if century < 0 or year < 0 or month < 1 or month > 12 or day < 1 or day > 31:
        return _BAD
    year += century * 100
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if (month == 2 and day > 28 + leap) or (day == 31 and (month == 4 or month == 6 or month == 9 or month == 11)):
        return _BAD
    hour = minute = second = np.int64(0)
    if length == 19:
        if buffer[start + 13] != 58 or buffer[start + 16] != 58:
            return _BAD
        if buffer[start + 10] != 32 and buffer[start + 10] != 84:
            return _BAD
        hour, minute, second = _two(buffer, start + 11), _two(buffer, start + 14), _two(buffer, start + 17)
        if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
            return _BAD
    # Days since 1970 of a civil date, counted from March so that the leap day ends the year.
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
    return ((days * 24 + hour) * 60 + minute) * 60 + second


@njit(cache=True, nogil=True)
def _find(sorted_values, value):
    low, high = 0, len(sorted_values)
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _scan(
    buffer, position, final, roles, timelike, lookup, links, by_subject, sorted_subject, link_by_time,
    slots, pair_item, pair_start, pair_hash, pair_text, pair_size, pair_rows, dropped,
    out_stay, out_time, out_pair, state,
):  # fmt: skip
    """Read whole records from ``position`` on until the block, the output or the room for pairs ends."""
    hadm_ids, stay_ids, subject_ids, intimes, outtimes = links
    n, n_columns, capacity = len(buffer), len(roles), len(out_stay)
    p = position
    n_out = n_rows = np.int64(0)
    last_hadm, last_row = _EMPTY, np.int64(-1)
    field_start = np.zeros(7, np.int64)
    field_end = np.zeros(7, np.int64)
    while p < n and n_out < capacity:
        record = p
        if _at(buffer, p) == 10 or (
            _at(buffer, p) == 13 and p + 1 < n and _at(buffer, p + 1) == 10
        ):  # an empty line is no row
            p += 1 if _at(buffer, p) == 10 else 2
            continue
        column, complete, broken, escaped, wanted = 0, False, False, False, True
        item = np.int64(-1)
        item_state = _EMPTY
        for role in range(7):
            field_start[role] = field_end[role] = 0
        while not complete:
            start = p
            quoted = p < n and _at(buffer, p) == 34
            if quoted:
                start = p + 1
                p = start
                while True:
                    while p < n and _at(buffer, p) != 34:
                        p += 1
                    if p + 1 < n and _at(buffer, p) == 34 and _at(buffer, p + 1) == 34:
                        if column < n_columns and roles[column] == _VALUE:
                            escaped = True
                        p += 2
                        continue
                    break
                if p >= n or (p + 1 >= n and not final):
                    break  # the record goes on in the next block
                end = p
                p += 1
                while p < n and _at(buffer, p) != 44 and _at(buffer, p) != 10:
                    if _at(buffer, p) != 13:
                        broken = True  # text after a closing quote
                    p += 1
            else:
                if column < n_columns and timelike[column] and p + 19 < n and _is_stamp(buffer, p):
                    p += 19  # a full time stamp: its comma is where it must be
                while p < n and _at(buffer, p) != 44 and _at(buffer, p) != 10:
                    p += 1
                end = p
            if p >= n and not final:
                break
            at_end = p >= n or _at(buffer, p) == 10
            if at_end and not quoted and end > start and _at(buffer, end - 1) == 13:
                end -= 1
            if column < n_columns:
                role = roles[column]
                if role != _IGNORE:
                    field_start[role], field_end[role] = start, end
                    if role == _ITEM:
                        item_state = _integer(buffer, start, end)
                        item = np.int64(-1)
                        if item_state >= 0 and item_state < len(lookup):
                            item = np.int64(lookup[item_state])
                        wanted = item >= 0
            column += 1
            p += 1
            if at_end:
                complete = True
            elif not wanted:
                # Three rows of four end here: only the fields are counted.
                in_quotes = False
                while p < n and (in_quotes or _at(buffer, p) != 10):
                    if _at(buffer, p) == 44 and not in_quotes:
                        column += 1
                    elif _at(buffer, p) == 34:
                        if in_quotes and p + 1 < n and _at(buffer, p + 1) == 34:
                            p += 1
                        elif in_quotes or _at(buffer, p - 1) == 44:
                            in_quotes = not in_quotes
                    p += 1
                if p >= n and (not final or in_quotes):
                    break
                column += 1
                p += 1
                complete = True
        if not complete:
            p = record
            break
        if broken or column != n_columns:
            n_rows += 1
            dropped[_MALFORMED] += 1
            continue
        if item < 0:
            n_rows += 1
            dropped[_NOT_USED if item_state >= 0 else _BAD_ITEM] += 1
            continue
        if field_start[_VALUE] >= field_end[_VALUE]:
            n_rows += 1
            dropped[_NO_VALUE] += 1
            continue
        seconds = _seconds(buffer, field_start[_TIME], field_end[_TIME])
        if seconds <= _BAD:
            n_rows += 1
            dropped[_NO_TIME if seconds == _EMPTY else _BAD_TIME] += 1
            continue
        hadm = _integer(buffer, field_start[_HADM], field_end[_HADM])
        subject = _integer(buffer, field_start[_SUBJECT], field_end[_SUBJECT])
        row = np.int64(-1)
        if hadm == _EMPTY and link_by_time and subject >= 0:
            i = _find(sorted_subject, subject)
            while i < len(sorted_subject) and sorted_subject[i] == subject:
                candidate = by_subject[i]
                if intimes[candidate] <= seconds <= outtimes[candidate]:
                    row = candidate
                    break
                i += 1
        elif hadm >= 0:
            if hadm != last_hadm:
                last_hadm, last_row = hadm, np.int64(-1)
                i = _find(hadm_ids, hadm)
                if i < len(hadm_ids) and hadm_ids[i] == hadm:
                    last_row = i
            row = last_row
        if row < 0:
            n_rows += 1
            dropped[_NO_HADM if hadm == _EMPTY else (_BAD_HADM if hadm == _BAD else _NO_STAY)] += 1
            continue
        if subject_ids[row] != subject:
            n_rows += 1
            dropped[_OTHER_SUBJECT] += 1
            continue
        stay = _integer(buffer, field_start[_STAY], field_end[_STAY])
        if stay != _EMPTY and stay != stay_ids[row]:
            n_rows += 1
            dropped[_BAD_STAY if stay == _BAD else _OTHER_STAY] += 1
            continue
        # Number of the (item, text) pair: FNV-1a over the text, open addressing.
        code = np.uint64(14695981039346656037) ^ np.uint64(item)
        length = np.int64(0)
        i = field_start[_VALUE]
        while i < field_end[_VALUE]:
            code = (code ^ np.uint64(_at(buffer, i))) * np.uint64(1099511628211)
            if escaped and _at(buffer, i) == 34:
                i += 1  # a doubled quote is one quote
            i += 1
            length += 1
        mask = len(slots) - 1
        slot = np.int64((code ^ (code >> np.uint64(29))) & np.uint64(mask))
        code = code ^ (code >> np.uint64(29))
        pair = np.int64(-1)
        while slots[slot] >= 0:
            candidate_pair = np.int64(slots[slot])
            if pair_hash[candidate_pair] == code and pair_item[candidate_pair] == item:
                first = pair_start[candidate_pair]
                if pair_start[candidate_pair + 1] - first == length:
                    same = True
                    i = field_start[_VALUE]
                    for k in range(length):
                        if pair_text[first + k] != _at(buffer, i):
                            same = False
                            break
                        if escaped and _at(buffer, i) == 34:
                            i += 1
                        i += 1
                    if same:
                        pair = candidate_pair
                        break
            slot = (slot + 1) & mask
        if pair < 0:
            pair = pair_size[0]
            first = pair_start[pair]
            if pair + 1 >= len(pair_item) or first + length > len(pair_text):
                state[3] = length + 1  # stop before this record; the caller makes room and comes back
                p = record
                break
            i = field_start[_VALUE]
            for k in range(length):
                pair_text[first + k] = _at(buffer, i)
                if escaped and _at(buffer, i) == 34:
                    i += 1
                i += 1
            pair_start[pair + 1] = first + length
            pair_item[pair], pair_hash[pair] = item, code
            slots[slot] = pair
            pair_size[0] = pair + 1
        pair_rows[pair] += 1
        out_stay[n_out], out_time[n_out], out_pair[n_out] = row, seconds, pair
        n_out += 1
        n_rows += 1
    state[0], state[1], state[2] = p - position, n_out, n_rows


def size_of(path: Path) -> int:
    """Bytes on disk, the unit of progress."""
    return path.stat().st_size
