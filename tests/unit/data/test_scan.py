"""scan_events against a slow, obvious reader, and against damage: every row is used or counted under one reason."""

from __future__ import annotations

import csv
import functools
import gzip
import io
import operator
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexcare_data.raw import event_scan as scan
from flexcare_data.raw.event_scan import KeptStays, ScanCounts, scan_events
from flexcare_data.raw.event_scan_kernel import REASONS, STORED
from flexcare_data.raw.event_values import PairTable
from flexcare_data.raw.files import RawDataError

COLUMNS = ("subject_id", "hadm_id", "stay_id", "caregiver_id", "charttime", "storetime", "itemid", "value", "warning")
HEADER = ",".join(COLUMNS) + "\n"
HEART_RATE, TEMPERATURE = 220045, 223762
ITEMS = np.array([HEART_RATE, TEMPERATURE])
GOOD = {
    "subject_id": "1", "hadm_id": "10", "stay_id": "100", "caregiver_id": "7", "charttime": "2150-01-01 10:00:00",
    "storetime": "2150-01-01 10:05:00", "itemid": "220045", "value": "80", "warning": "0",
}  # fmt: skip


def seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def kept_stays() -> KeptStays:
    """Subject 1 with stays 100 and 101 (admissions 10, 11), subject 2 with stay 200 (admission 20)."""
    intime = [seconds("2150-01-01 08:00:00"), seconds("2151-01-01 08:00:00"), seconds("2150-06-01 08:00:00")]
    ids = (np.array(column) for column in ([10, 11, 20], [100, 101, 200], [1, 1, 2]))
    return KeptStays(*ids, np.array(intime), np.array(intime) + 48 * 3600)


def line(**changes: str) -> str:
    return ",".join((GOOD | changes).values()) + "\n"


def scanned(text: str | bytes, tmp_path: Path, *, name: str = "chartevents.csv", by_time: bool = False):
    """Rows (stay_id, seconds, itemid, text), counts by reason, rows read."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    stays, pairs, counts = kept_stays(), PairTable(), ScanCounts()
    found = scan_events(path, "chartevents", ITEMS, stays, pairs, counts, link_by_time=by_time)
    batches = [batch.tolist() for batch in found]
    texts, items = pairs.texts(), pairs.items()
    rows = [
        (int(stays.stay_id[stay]), int(time), int(ITEMS[items[pair]]), texts[pair])
        for batch in batches
        for stay, pair, time, _ in batch
    ]
    dropped = {reason: int(n) for reason, n in zip(REASONS, counts.dropped, strict=True) if n}
    assert counts.rows == counts.used + sum(dropped.values()), "rows in = rows used + rows counted"
    assert counts.used == len(rows) == pairs.rows().sum()
    return rows, dropped, counts.rows


def test_a_good_row(tmp_path):
    rows, dropped, n = scanned(HEADER + line(), tmp_path)
    assert rows == [(100, seconds("2150-01-01 10:00:00"), HEART_RATE, "80")]
    assert (dropped, n) == ({}, 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"itemid": "224000"}, "item_not_used"),
        ({"itemid": "999999999999"}, "item_not_used"),
        ({"itemid": "22x045"}, "itemid_not_a_number"),
        ({"itemid": ""}, "itemid_not_a_number"),
        ({"itemid": "220045.0"}, "itemid_not_a_number"),
        ({"itemid": "9" * 40}, "itemid_not_a_number"),
        ({"value": ""}, "value_missing"),
        ({"value": '""'}, "value_missing"),
        ({"hadm_id": ""}, "hadm_id_missing"),
        ({"hadm_id": "ten"}, "hadm_id_not_a_number"),
        ({"hadm_id": "9" * 19}, "hadm_id_not_a_number"),
        ({"hadm_id": "12"}, "admission_without_kept_stay"),
        ({"subject_id": "2"}, "subject_id_differs"),
        ({"subject_id": ""}, "subject_id_differs"),
        ({"stay_id": "101"}, "stay_id_differs"),
        ({"stay_id": "x"}, "stay_id_not_a_number"),
        ({"charttime": ""}, "charttime_missing"),
        ({"charttime": "2150-02-30 10:00:00"}, "charttime_not_a_time"),
        ({"charttime": "2150-13-01 10:00:00"}, "charttime_not_a_time"),
        ({"charttime": "2150-01-01 25:00:00"}, "charttime_not_a_time"),
        ({"charttime": "01/02/2150 10:00:00"}, "charttime_not_a_time"),
        ({"charttime": "2150-01-01 10:00:0"}, "charttime_not_a_time"),
        ({"value": "80,90"}, "malformed_row"),
        ({"value": '"80"x'}, "malformed_row"),
    ],
)
def test_why_a_row_is_not_used(tmp_path, changes, reason):
    rows, dropped, n = scanned(HEADER + line(**changes) + line(), tmp_path)
    assert (len(rows), dropped, n) == (1, {reason: 1}, 2)


@pytest.mark.parametrize("changes", [{"stay_id": ""}, {"charttime": "2150-01-01"}, {"value": '"80"'}])
def test_what_can_be_used_all_the_same(tmp_path, changes):
    rows, dropped, _ = scanned(HEADER + line(**changes), tmp_path)
    assert len(rows) == 1
    assert dropped == {}


def test_labs_without_admission_are_linked_by_time_on_request(tmp_path):
    lost = line(hadm_id="", stay_id="") + line(hadm_id="", stay_id="", charttime="2152-01-01 10:00:00")
    assert scanned(HEADER + lost, tmp_path)[:2] == ([], {"hadm_id_missing": 2})
    rows, dropped, _ = scanned(HEADER + lost, tmp_path, by_time=True)
    assert [row[0] for row in rows] == [100]
    assert dropped == {"hadm_id_missing": 1}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_mark_change_nothing(tmp_path, end, mark):
    text = mark + (HEADER + line() + "\n" + line(value="None") + line(value='"a, ""b""\nc"')).replace("\n", end)
    rows, dropped, n = scanned(text, tmp_path)
    assert [row[3] for row in rows] == ["80", "None", f'a, "b"{end}c']
    assert (dropped, n) == ({}, 3)


def test_columns_go_by_name(tmp_path):
    order = sorted(GOOD)
    text = ",".join([*order, "added"]) + "\n" + ",".join([*(GOOD[name] for name in order), "more"])
    assert len(scanned(text, tmp_path)[0]) == 1
    quoted = ",".join(f'"{name}"' for name in GOOD) + "\n" + line()
    assert len(scanned(quoted, tmp_path)[0]) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing subject_id"),
        ("subject_id,hadm_id\n1,10\n", "missing stay_id, charttime, itemid, value"),
        (HEADER.replace("value", "itemid"), "missing value|more than once"),
        (HEADER + line(value='"80') + line() * 3, "inside a quoted field"),
    ],
)
def test_unusable_files_say_what_is_wrong(tmp_path, text, message):
    with pytest.raises(RawDataError, match=message) as error:
        scanned(text, tmp_path)
    assert "chartevents.csv" in str(error.value)


def test_header_only_is_an_empty_table(tmp_path):
    assert scanned(HEADER, tmp_path) == ([], {}, 0)
    assert scanned(HEADER.strip(), tmp_path) == ([], {}, 0)


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 100, 0.5, -30])
def test_a_gzip_file_cut_off_anywhere_is_an_error(tmp_path, cut):
    """No short table for a broken download, also where only the checksum at the end is lost."""
    whole = gzip.compress((HEADER + "".join(line(value=str(i)) for i in range(3000))).encode())
    left = round(len(whole) * cut) if isinstance(cut, float) else len(whole) - cut if cut > 0 else -cut
    with pytest.raises(RawDataError, match="SHA256SUMS"):
        scanned(whole[:left], tmp_path, name="chartevents.csv.gz")


def test_other_damage_to_gzip_files(tmp_path):
    text = (HEADER + "".join(line(value=str(i)) for i in range(3000))).encode()
    whole = bytearray(gzip.compress(text))
    whole[len(whole) // 2] ^= 0x10
    for data in (bytes(whole), gzip.compress(text) + b"trailing text", text, b"", b"\x1f\x8b", b"PK\x03\x04" + text):
        with pytest.raises(RawDataError, match=r"chartevents\.csv\.gz"):
            scanned(data, tmp_path, name="chartevents.csv.gz")


def test_several_gzip_members_are_one_file(tmp_path):
    parts = [HEADER[:20], HEADER[20:] + line()[:15], line()[15:], line()]
    rows, dropped, n = scanned(
        b"".join(gzip.compress(part.encode()) for part in parts), tmp_path, name="chartevents.csv.gz"
    )
    assert (len(rows), dropped, n) == (2, {}, 2)


def test_a_quote_that_is_never_closed_stops_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "_LONGEST_RECORD", 1 << 16)
    monkeypatch.setattr(scan, "BLOCK", 1 << 12)
    with pytest.raises(RawDataError, match="never closed"):
        scanned(HEADER + line() + line(value='"80') + line() * 5000, tmp_path)


def test_many_distinct_texts(tmp_path):
    """The table of pairs grows many times on the way; every row finds its own text again."""
    texts = [f"{i * 7919 % 30011}.{i % 10}" for i in range(40000)]
    rows, _, n = scanned(HEADER + "".join(line(value=text) for text in texts), tmp_path)
    assert [row[3] for row in rows] == texts
    assert n == len(texts)


# --- fuzz ---------------------------------------------------------------------------------------------------------

CELL = st.sampled_from(
    ["", "1", "2", "10", "11", "20", "100", "220045", "223762", "224000", "80", "98.6", "None", "ERROR", "120/80",
     "2150-01-01 10:00:00", "2150-01-01", "2150-02-30 10:00:00", '""', '"a,b"', '"x""y"', '"l\nm"', '"r\r\nz"', 'q"q',
     '"t"u', "-5", "1e5", " 10", "\r", "x" * 21, "\u00e9", "2150-01\n", "2150-01-01 10:00:0\n"]
)  # fmt: skip
MOSTLY_GOOD = st.fixed_dictionaries({name: st.one_of(st.just(GOOD[name]), CELL) for name in COLUMNS})
RECORD = st.one_of(
    MOSTLY_GOOD.map(lambda cells: ",".join(cells.values())),
    st.lists(CELL, max_size=12).map(",".join),
    st.text('01250-:, \n\r"\\x', max_size=40),
)


def records_of(text: str) -> list[tuple[list[str], bool]]:
    """Fields of each record, and whether there is text after a closing quote. Character by character.

    Raises:
        ValueError: the text ends inside quotes.
    """
    records, fields, field, broken, p = [], [], "", False, 0
    while p < len(text):
        if not fields and not field and text[p] == "\n":
            p += 1
            continue
        if not fields and text[p : p + 2] == "\r\n":
            p += 2
            continue
        while True:  # one field
            field, after = "", ""
            if text[p : p + 1] == '"':
                p += 1
                while True:
                    if p >= len(text):
                        raise ValueError("ends inside quotes")
                    if text[p : p + 2] == '""':
                        field, p = field + '"', p + 2
                    elif text[p] == '"':
                        p += 1
                        break
                    else:
                        field, p = field + text[p], p + 1
                while p < len(text) and text[p] not in ",\n":
                    after, p = after + text[p], p + 1
                broken = broken or bool(after.replace("\r", ""))
            else:
                while p < len(text) and text[p] not in ",\n":
                    field, p = field + text[p], p + 1
                if text[p : p + 1] in ("\n", ""):
                    field = field.removesuffix("\r")
            fields.append(field)
            p += 1
            if text[p - 1 : p] != ",":
                break
        records.append((fields, broken))
        fields, field, broken = [], "", False
    return records


def is_time(text: str) -> bool:
    form = {19: "%Y-%m-%d %H:%M:%S", 10: "%Y-%m-%d"}.get(len(text))
    if form is None or not text.isascii():
        return False
    digits = [text[i] for i in (0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18) if i < len(text)]
    if not all(digit.isdigit() for digit in digits) or text[:4] == "0000":
        return False
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True


def expected_rows(text: str) -> tuple[list[tuple[int, int, int, str]], int]:
    """What the docstring of scan_events says, row by row; rows read."""
    stays = {10: (100, 1), 11: (101, 1), 20: (200, 2)}
    rows, n = [], 0
    item_column = COLUMNS.index("itemid")
    for fields, broken in records_of(text):
        n += 1
        item = fields[item_column] if len(fields) > item_column else ""
        is_item = item.isascii() and item.isdigit() and len(item) <= 18 and int(item) in ITEMS
        if len(fields) != len(COLUMNS) or broken or not is_item:
            continue
        row = dict(zip(COLUMNS, fields, strict=True))
        ids = [row[name] for name in ("hadm_id", "subject_id")]
        if not row["value"] or not is_time(row["charttime"]) or not all(i.isascii() and i.isdigit() for i in ids):
            continue
        hadm, subject = map(int, ids)
        if hadm not in stays or stays[hadm][1] != subject:
            continue
        if row["stay_id"] and row["stay_id"].lstrip("0") != str(stays[hadm][0]):
            continue
        rows.append((stays[hadm][0], seconds(row["charttime"]), int(item), row["value"]))
    return rows, n


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(RECORD, max_size=8),
    end=st.sampled_from(["\n", "", "\r\n"]),
    block=st.one_of(st.integers(1, 60), st.integers(100, 2000)),
)
def test_fuzz_equals_a_reader_that_goes_by_characters(monkeypatch, records, end, block):
    """Whatever the text and wherever blocks end: the same rows, each other row counted once."""
    monkeypatch.setattr(scan, "BLOCK", block)
    body = "\n".join(records) + end
    with tempfile.TemporaryDirectory() as folder:
        try:
            expected, n = expected_rows(body)
        except ValueError:
            with pytest.raises(RawDataError):
                scanned(HEADER + body, Path(folder))
            return
        rows, _, n_read = scanned(HEADER + body, Path(folder))
    assert rows == expected
    assert n_read == n


@settings(deadline=None, max_examples=150)
@given(
    data=st.binary(max_size=300),
    name=st.sampled_from(["chartevents.csv", "chartevents.csv.gz"]),
    with_header=st.booleans(),
    inflated=st.booleans(),
)
def test_fuzz_bytes_are_rows_or_one_error(data, name, with_header, inflated):
    data = (HEADER.encode() if with_header else b"") + data
    with tempfile.TemporaryDirectory() as folder:
        try:
            scanned(gzip.compress(data) if inflated else data, Path(folder), name=name)
        except RawDataError as error:
            assert name in str(error)


def test_written_by_the_csv_module(tmp_path):
    """Any text survives a proper writer."""
    values = ['say "hi"', "a,b", "line\nbreak", "cr\rhere", "\u00fcml\u00e4ut", " ", "x" * 5000, "'", "\t"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows((GOOD | {"value": value}).values() for value in values)
    rows, dropped, _ = scanned(out.getvalue(), tmp_path)
    assert [row[3] for row in rows] == values
    assert dropped == {}


@pytest.mark.parametrize(
    ("stored", "delay", "reason"),
    [
        ("2150-01-01 10:05:00", 300, None),
        ("2150-01-01 10:00:00", 0, None),
        ("2150-01-02", 14 * 3600, None),
        ("", 0, "missing"),
        ("soon", 0, "not_a_time"),
        ("2150-01-01 09:59:59", 0, "before_charttime"),
        ("2290-01-01 00:00:00", 2**31 - 1, None),
    ],
)
def test_seconds_from_charttime_to_storetime(stored: str, delay: int, reason: str | None, tmp_path: Path):
    """What cannot be used counts as charttime and is counted; a delay of more than 68 years is cut to that."""
    found, counts = delays(HEADER + line(storetime=stored), tmp_path)
    assert found == [delay]
    assert counts == ({reason: 1} if reason else {})


def test_a_table_without_storetime_counts_each_row(tmp_path: Path):
    header, row = (text.replace(part, "") for text, part in ((HEADER, "storetime,"), (line(), "2150-01-01 10:05:00,")))
    assert delays(header + 2 * row, tmp_path) == ([0, 0], {"missing": 2})


def delays(text: str, tmp_path: Path) -> tuple[list[int], dict[str, int]]:
    """Delay of each row, and counts of unusable storetimes by reason."""
    path = tmp_path / "chartevents.csv"
    path.write_text(text)
    counts = ScanCounts()
    found = [
        batch["delay"].tolist() for batch in scan_events(path, "chartevents", ITEMS, kept_stays(), PairTable(), counts)
    ]
    return functools.reduce(operator.iadd, found, []), {
        reason: int(n) for reason, n in zip(STORED, counts.stored, strict=True) if n
    }
