"""The compiled loop of a scan: records, fields, numbers, times and the numbering of texts, straight from the bytes.

In: a block of CSV bytes and lookup tables. Out: the rows that can be used, and counts by reason. Fields are found eight
bytes at a time: a word xor'ed with eight commas has a zero byte where a comma stands; what has quotes goes field by
field. All compiled functions are in this file, as numba keeps their machine code as long as the file is the same.
"""

from __future__ import annotations

import sys

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

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

IGNORE, _SUBJECT, _HADM, _STAY, _TIME, _ITEM, _VALUE = range(7)
ROLES = {
    "subject_id": _SUBJECT,
    "hadm_id": _HADM,
    "stay_id": _STAY,
    "charttime": _TIME,
    "itemid": _ITEM,
    "value": _VALUE,
}
"""What a column of this name means to the loop."""

PADDING = bytes(8)
"""To be appended to a block, as eight bytes are looked at at once."""

_EMPTY = np.int64(-(1 << 62))
_BAD = np.int64(-(1 << 62) + 1)


@njit(cache=True, nogil=True)
def rehash(slots, hashes, n):
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


@intrinsic
def _word(typing, buffer, i):
    """The eight bytes buffer[i : i + 8] as one number, the first byte lowest."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), ir.IntType(64).as_pointer())
        word = builder.load(place, align=1)
        return builder.bswap(word) if sys.byteorder == "big" else word

    return types.uint64(buffer, i), generate


@intrinsic
def _lowest(typing, word):
    """Number of the lowest byte of ``word`` that has its high bit set; there must be one."""

    def generate(context, builder, signature, arguments):
        zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.lshr(zeros, ir.Constant(ir.IntType(64), 3))

    return types.int64(types.uint64), generate


@intrinsic
def _ones(typing, word):
    """Number of bits set in ``word``."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


_EACH = 0x0101010101010101
_LOW = np.uint64(0x7F * _EACH)
_COMMAS, _LINES, _QUOTES = (np.uint64(byte * _EACH) for byte in (44, 10, 34))


@njit(cache=True, nogil=True)
def _equal(word, bytes_):
    """High bit set in each byte of ``word`` that equals that of ``bytes_``."""
    other = word ^ bytes_
    return ~(((other & _LOW) + _LOW) | other | _LOW)


@njit(cache=True, nogil=True)
def _field_end(buffer, p, n):
    """First comma or line end from ``p`` on, or ``n``."""
    while p < n:
        word = _word(buffer, p)
        found = _equal(word, _COMMAS) | _equal(word, _LINES)
        if found:
            return min(p + _lowest(found), n)
        p += 8
    return n


@njit(cache=True, nogil=True)
def _after_commas(buffer, p, n, count):
    """Position after ``count`` commas from ``p`` on; ``n`` where a quote or a line end may come before."""
    if count == 0:
        return p
    while p < n:
        word = _word(buffer, p)
        comma = _equal(word, _COMMAS)
        if _equal(word, _QUOTES) | _equal(word, _LINES):
            return n
        here = _ones(comma)
        if here >= count:
            while count > 1:
                comma &= comma - np.uint64(1)
                count -= 1
            return p + _lowest(comma) + 1 if comma else n
        count -= here
        p += 8
    return n


@njit(cache=True, nogil=True)
def _split(buffer, p, n, ends):
    """Write the ends of the fields of a record to ``ends``, and that of the line last.

    False (and ``ends`` means nothing) where there is a quote, another number of fields than ``ends`` has room for, or
    no line end before ``n``.
    """
    k, last = 0, len(ends) - 2
    while p < n:
        word = _word(buffer, p)
        if _equal(word, _QUOTES):
            return False
        found = _equal(word, _COMMAS) | _equal(word, _LINES)
        while found:
            end = p + _lowest(found)
            found &= found - np.uint64(1)
            if _at(buffer, end) == 10:
                if k != last:
                    return False
                ends[last + 1] = end
                ends[last] = end - 1 if _at(buffer, end - 1) == 13 else end
                return True
            if k == last:
                return False
            ends[k] = end
            k += 1
        p += 8
    return False


@njit(cache=True, nogil=True)
def _skip(buffer, p, n):
    """Where the line ends, or the eight bytes with the first quote begin, or ``n``; and how many commas lie before."""
    commas = np.int64(0)
    while p < n:
        word = _word(buffer, p)
        if _equal(word, _QUOTES):
            return p, commas
        comma, line = _equal(word, _COMMAS), _equal(word, _LINES)
        if line:
            # Only commas below the lowest line end; what is beyond n is zero and neither.
            return p + _lowest(line), commas + _ones(comma & (line - np.uint64(1)) & ~line)
        commas += _ones(comma)
        p += 8
    return min(p, n), commas


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
def scan_block(
    buffer, n, position, final, roles, lookup, links, by_subject, sorted_subject, link_by_time,
    slots, pair_item, pair_start, pair_hash, pair_text, pair_size, pair_rows, dropped,
    out_stay, out_time, out_pair, state,
):  # fmt: skip
    """Read whole records from ``position`` on until the block, the output or the room for pairs ends."""
    hadm_ids, stay_ids, subject_ids, intimes, outtimes = links
    n_columns, capacity = len(roles), len(out_stay)
    item_column = 0
    while roles[item_column] != _ITEM:
        item_column += 1
    p = position
    n_out = n_rows = np.int64(0)
    last_hadm, last_row = _EMPTY, np.int64(-1)
    field_start = np.zeros(7, np.int64)
    field_end = np.zeros(7, np.int64)
    ends = np.zeros(n_columns + 1, np.int64)
    while p < n and n_out < capacity:
        record = p
        if _at(buffer, p) == 10 or (
            _at(buffer, p) == 13 and p + 1 < n and _at(buffer, p + 1) == 10
        ):  # an empty line is no row
            p += 1 if _at(buffer, p) == 10 else 2
            continue
        # Three rows of four are of no wanted item: without quotes, counting commas is enough to see that.
        q = _after_commas(buffer, p, n, item_column)
        if q < n:
            end = _field_end(buffer, q, n)
            other = _integer(buffer, q, end)
            if other >= len(lookup) or (other >= 0 and lookup[other] < 0):
                q, commas = _skip(buffer, end, n)
                if q < n and _at(buffer, q) == 10 and item_column + 1 + commas == n_columns:
                    n_rows += 1
                    dropped[_NOT_USED] += 1
                    p = q + 1
                    continue
        column, complete, broken, escaped = 0, False, False, False
        item = np.int64(-1)
        item_state = _EMPTY
        for role in range(7):
            field_start[role] = field_end[role] = 0
        if q < n and _split(buffer, p, n, ends):
            # The same without quotes, where the fields are as many as the columns.
            for k in range(n_columns):
                role = roles[k]
                if role != IGNORE:
                    field_start[role], field_end[role] = ends[k - 1] + 1 if k else p, ends[k]
            item_state = _integer(buffer, field_start[_ITEM], field_end[_ITEM])
            if item_state >= 0 and item_state < len(lookup):
                item = np.int64(lookup[item_state])
            column, complete, p = n_columns, True, ends[n_columns] + 1
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
                p = _field_end(buffer, p, n)
                end = p
            if p >= n and not final:
                break
            at_end = p >= n or _at(buffer, p) == 10
            if at_end and not quoted and end > start and _at(buffer, end - 1) == 13:
                end -= 1
            if column < n_columns:
                role = roles[column]
                if role != IGNORE:
                    field_start[role], field_end[role] = start, end
                    if role == _ITEM:
                        item_state = _integer(buffer, start, end)
                        item = np.int64(-1)
                        if item_state >= 0 and item_state < len(lookup):
                            item = np.int64(lookup[item_state])
            column += 1
            p += 1
            if at_end:
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
