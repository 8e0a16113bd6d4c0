"""The compiled loop of the event scan: find records and fields in bytes, read numbers and times, look up the stay.

In: a block of CSV bytes and lookup tables. Out: the rows that can be used, and counts of the others by reason. Commas
and line ends are found 64 bytes at a time, as the bits of a word. A record with quotes is read byte by byte, and so is
the end of a block, because nothing after it may be read.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from flexcare_data.compiled import compiled
from flexcare_data.raw.byte_constants import (
    CARRIAGE_RETURN,
    COLON,
    COMMA,
    HYPHEN,
    LETTER_T,
    NEWLINE,
    QUOTE,
    SPACE,
    ZERO,
)

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
"""Why a row is not used; the loop counts by the position in this list."""

STORED = ("missing", "not_a_time", "before_charttime")
"""Why the storetime of a row in the output is not used; charttime takes its place. Counted by position."""

_MALFORMED, _NOT_USED, _NO_VALUE, _BAD_ITEM, _NO_HADM, _BAD_HADM = range(6)
_NO_STAY, _OTHER_SUBJECT, _BAD_STAY, _OTHER_STAY, _NO_TIME, _BAD_TIME = range(6, 12)

NEEDED = ("subject_id", "hadm_id", "stay_id", "charttime", "itemid", "value", "storetime")
"""The columns that the loop reads. It gets their positions in this order, -1 for one that the table does not have."""

LINKED = np.dtype([("stay", "<i4"), ("pair", "<i4"), ("time", "<i8"), ("delay", "<i4")])
"""A row that can be used: its stay (row of `event_scan.KeptStays`), its pair, charttime in seconds since 1970, and the
seconds from charttime to storetime (0 where storetime is missing, unreadable or earlier).

``pair`` holds the item (position among the used items) until `event_values.PairTable` replaces it by the pair's number.
"""

TEXT = np.dtype([("start", "<i8"), ("end", "<i8"), ("doubled", "?")])
"""Where in a block the text of a row is, and whether there are doubled quotes in it."""

_LONGEST_DELAY = np.int64((1 << 31) - 1)
"""68 years: a later storetime, which is an error, counts as this."""
_EMPTY = np.int64(-(1 << 62))
_BAD = np.int64(-(1 << 62) + 1)
_PIECE = np.int64(64)
_ONE = np.uint64(1)


# --- bytes ------------------------------------------------------------------------------------------------------


@intrinsic
def _marks(typing, buffer, i):
    """The commas, the line ends and the quotes among buffer[i : i + 64], as bits of three words."""

    def generate(context, builder, signature, arguments):
        lanes = ir.VectorType(ir.IntType(8), 64)
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), lanes.as_pointer())
        these = builder.load(address, align=1)
        equal = (
            builder.icmp_unsigned("==", these, ir.Constant(lanes, [byte] * 64)) for byte in (COMMA, NEWLINE, QUOTE)
        )
        words = [builder.bitcast(mask, ir.IntType(64)) for mask in equal]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, 3)(buffer, i), generate


@intrinsic
def _lowest(typing, word):
    """Position of the lowest bit of ``word`` that is set, 64 if none is."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


# --- fields -----------------------------------------------------------------------------------------------------


@compiled
def _split(buffer, p, n, n_columns, starts, ends):
    """Write the bounds of the fields of the record at ``p``, 64 bytes at a time, and return where the next one begins.

    Returns -1, and the bounds mean nothing, if there is a quote, another number of fields than columns, or no line end
    in the pieces of 64 bytes before ``n``: then `_split_by_bytes` reads the record.
    """
    column, start = np.int64(0), p
    while p + _PIECE <= n:
        commas, line_ends, quotes = _marks(buffer, p)
        in_record = (line_ends - _ONE) & ~line_ends  # the bits below the first line end; all if there is none
        if quotes & in_record:
            return np.int64(-1)
        commas &= in_record
        while commas:
            if column == n_columns - 1:
                return np.int64(-1)
            starts[column], ends[column] = start, p + _lowest(commas)
            start = ends[column] + 1
            column += 1
            commas &= commas - _ONE  # clears the lowest bit
        if line_ends:
            end = p + _lowest(line_ends)
            starts[column], ends[column] = start, end - 1 if buffer[end - 1] == CARRIAGE_RETURN else end
            return end + 1 if column == n_columns - 1 else np.int64(-1)
        p += _PIECE
    return np.int64(-1)


@compiled
def _split_by_bytes(buffer, p, n, final, n_columns, value_column, starts, ends):
    """Bounds of the fields of any record, byte by byte.

    Returns:
        where the next record begins (-1: this one continues in the next block), whether it has as many fields as the
        header and its quotes are right, and whether the value has doubled quotes.
    """
    column, broken, escaped = 0, False, False
    while True:
        start = p
        quoted = p < n and buffer[p] == QUOTE
        if quoted:
            start = p + 1
            p = start
            while True:
                while p < n and buffer[p] != QUOTE:
                    p += 1
                if p + 1 < n and buffer[p + 1] == QUOTE:
                    escaped = escaped or column == value_column
                    p += 2
                    continue
                break
            if p >= n or (p + 1 >= n and not final):
                return np.int64(-1), False, False
            end = p
            p += 1
            while p < n and buffer[p] != COMMA and buffer[p] != NEWLINE:
                broken = broken or buffer[p] != CARRIAGE_RETURN  # text after a closing quote
                p += 1
        else:
            while p < n and buffer[p] != COMMA and buffer[p] != NEWLINE:
                p += 1
            end = p
        if p >= n and not final:
            return np.int64(-1), False, False
        is_last = p >= n or buffer[p] == NEWLINE
        if is_last and not quoted and end > start and buffer[end - 1] == CARRIAGE_RETURN:
            end -= 1
        if column < n_columns:
            starts[column], ends[column] = start, end
        column += 1
        p += 1
        if is_last:
            return p, column == n_columns and not broken, escaped


# --- numbers and times ------------------------------------------------------------------------------------------


@compiled
def _integer(buffer, start, end):
    """The integer in buffer[start:end]; _EMPTY for no text, _BAD for other text."""
    length = end - start
    if length <= 0:
        return _EMPTY
    if length > 18:
        return _BAD
    value = np.int64(0)
    for i in range(start, end):
        digit = np.int64(buffer[i]) - ZERO
        if digit < 0 or digit > 9:
            return _BAD
        value = value * 10 + digit
    return value


@compiled
def _seconds(buffer, start, end):
    """Seconds since 1970 of `YYYY-MM-DD HH:MM:SS` (or a date alone, midnight); _EMPTY, _BAD as above."""
    if start >= end:
        return _EMPTY
    length = end - start
    if length != 19 and length != 10:
        return _BAD
    if buffer[start + 4] != HYPHEN or buffer[start + 7] != HYPHEN:
        return _BAD
    year = _integer(buffer, start, start + 4)
    month, day = _integer(buffer, start + 5, start + 7), _integer(buffer, start + 8, start + 10)
    if year < 0 or month < 1 or month > 12 or day < 1 or day > 31:
        return _BAD
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if (month == 2 and day > 28 + leap) or (day == 31 and (month == 4 or month == 6 or month == 9 or month == 11)):
        return _BAD
    hour = minute = second = np.int64(0)
    if length == 19:
        if buffer[start + 13] != COLON or buffer[start + 16] != COLON:
            return _BAD
        if buffer[start + 10] != SPACE and buffer[start + 10] != LETTER_T:
            return _BAD
        hour, minute = _integer(buffer, start + 11, start + 13), _integer(buffer, start + 14, start + 16)
        second = _integer(buffer, start + 17, start + 19)
        if hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59:
            return _BAD
    # Days since 1970 of a civil date, counted from March so that the leap day ends the year.
    if month <= 2:
        year -= 1
        month += 12
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day - 1 - 719468
    return ((days * 24 + hour) * 60 + minute) * 60 + second


@compiled
def _find(sorted_values, value):
    low, high = 0, len(sorted_values)
    while low < high:
        middle = (low + high) >> 1
        if sorted_values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


# --- rows -------------------------------------------------------------------------------------------------------


@compiled
def scan_block(
    buffer, position, final, columns, n_columns, lookup, links, by_subject, sorted_subject, link_by_time,
    dropped, stored, out, texts, state,
):  # fmt: skip
    """Read whole records from ``position`` on, until the block ends or ``out`` is full.

    Counts by reason are added to ``dropped``, those of used rows with an unusable storetime to ``stored``. ``state``
    becomes the position of the next record, the rows written to ``out`` and ``texts``, and the records read.
    """
    hadm_ids, stay_ids, subject_ids, intimes, outtimes = links
    subject_column, hadm_column, stay_column, time_column, item_column, value_column, stored_column = columns
    n, p = len(buffer), position
    n_out = n_rows = np.int64(0)
    starts, ends = np.zeros(n_columns, np.int64), np.zeros(n_columns, np.int64)
    while p < n and n_out < len(out):
        if buffer[p] == NEWLINE:  # an empty line is no row
            p += 1
            continue
        if buffer[p] == CARRIAGE_RETURN and p + 1 < n and buffer[p + 1] == NEWLINE:
            p += 2
            continue
        record, is_good, escaped = p, True, False
        p = _split(buffer, p, n, n_columns, starts, ends)
        if p < 0:
            p, is_good, escaped = _split_by_bytes(buffer, record, n, final, n_columns, value_column, starts, ends)
            if p < 0:
                p = record
                break
        n_rows += 1
        if not is_good:
            dropped[_MALFORMED] += 1
            continue
        number = _integer(buffer, starts[item_column], ends[item_column])
        item = np.int64(lookup[number]) if 0 <= number < len(lookup) else np.int64(-1)
        if item < 0:
            dropped[_NOT_USED if number >= 0 else _BAD_ITEM] += 1
            continue
        if starts[value_column] >= ends[value_column]:
            dropped[_NO_VALUE] += 1
            continue
        seconds = _seconds(buffer, starts[time_column], ends[time_column])
        if seconds <= _BAD:
            dropped[_NO_TIME if seconds == _EMPTY else _BAD_TIME] += 1
            continue
        hadm = _integer(buffer, starts[hadm_column], ends[hadm_column])
        subject = _integer(buffer, starts[subject_column], ends[subject_column])
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
            i = _find(hadm_ids, hadm)
            if i < len(hadm_ids) and hadm_ids[i] == hadm:
                row = i
        if row < 0:
            dropped[_NO_HADM if hadm == _EMPTY else (_BAD_HADM if hadm == _BAD else _NO_STAY)] += 1
            continue
        if subject_ids[row] != subject:
            dropped[_OTHER_SUBJECT] += 1
            continue
        stay = _EMPTY
        if stay_column >= 0:
            stay = _integer(buffer, starts[stay_column], ends[stay_column])
        if stay != _EMPTY and stay != stay_ids[row]:
            dropped[_BAD_STAY if stay == _BAD else _OTHER_STAY] += 1
            continue
        delay = np.int64(0)
        later = _EMPTY
        if stored_column >= 0:
            later = _seconds(buffer, starts[stored_column], ends[stored_column])
        if later <= _BAD:
            stored[0 if later == _EMPTY else 1] += 1
        elif later < seconds:
            stored[2] += 1
        else:
            delay = min(later - seconds, _LONGEST_DELAY)
        out[n_out].stay, out[n_out].pair, out[n_out].time, out[n_out].delay = row, item, seconds, delay
        texts[n_out].start, texts[n_out].end = starts[value_column], ends[value_column]
        texts[n_out].doubled = escaped
        n_out += 1
    state[0], state[1], state[2] = p, n_out, n_rows
