"""read_table and read_notes: by name, typed, every row used or counted, every unusable file one clear error."""

from __future__ import annotations

import csv
import gzip
import io
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexcare_data.raw.csv_records import sieve
from flexcare_data.raw.files import RawDataError, locate
from flexcare_data.raw.notes import read_notes
from flexcare_data.raw.tables import read_table
from flexcare_data.schema import RAW

ICUSTAYS = "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los\n"
STAY = "1,10,100,Medical ICU,Medical ICU,2150-01-01 08:00:00,2150-01-03 08:00:00,2.0\n"
NOTES = "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n"


def put(root: Path, name: str, text: str | bytes, *, end: str = ".csv") -> Path:
    path = root / RAW[name].folders[0] / f"{RAW[name].filename}{end}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def icustays(tmp_path: Path, text: str | bytes, **place: str) -> tuple[pl.DataFrame, dict]:
    put(tmp_path, "icustays", text, **place)
    dropped: dict = {}
    return read_table(tmp_path, "icustays", dropped), dropped.get("icustays", {})


def test_types_and_order(tmp_path):
    frame, dropped = icustays(tmp_path, ICUSTAYS + STAY)
    assert frame.schema == pl.Schema(RAW["icustays"].columns)
    times = (datetime(2150, 1, 1, 8), datetime(2150, 1, 3, 8))
    assert frame.row(0) == (1, 10, 100, "Medical ICU", "Medical ICU", *times, 2.0)
    assert dropped == {}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n\n"])
def test_line_ends_and_byte_order_mark_change_nothing(tmp_path, end, mark, last):
    text = (ICUSTAYS + "\n" + STAY + STAY.replace("100", "101").strip() + last).replace("\n", end)
    frame, dropped = icustays(tmp_path, mark + text)
    assert frame["stay_id"].to_list() == [100, 101]
    assert dropped == {}


def test_columns_go_by_name(tmp_path):
    header, row = ICUSTAYS.strip().split(","), STAY.strip().split(",")
    text = ",".join(["added", *header[::-1]]) + "\n" + ",".join(["x", *row[::-1]]) + "\n"
    frame, _ = icustays(tmp_path, text)
    assert frame.equals(icustays(tmp_path, ICUSTAYS + STAY)[0])
    quoted = "\ufeff" + ",".join(f'"{name}"' for name in header) + "\n" + ",".join(f'"{cell}"' for cell in row)
    assert frame.equals(icustays(tmp_path, quoted)[0])


def test_ethnicity_of_the_first_edition_is_race(tmp_path):
    header = "subject_id,hadm_id,admittime,dischtime,deathtime,ethnicity,hospital_expire_flag\n"
    path = tmp_path / "core" / "admissions.csv"
    path.parent.mkdir()
    path.write_text(header + "1,10,2150-01-01 00:00:00,,,WHITE,0\n")
    assert read_table(tmp_path, "admissions", {})["race"].to_list() == ["WHITE"]


def test_only_the_empty_field_is_null(tmp_path):
    text = "icd_code,icd_version,long_title\nA,9,None\nB,9,NaN\nC,9,NA\nD,9,null\nE,9,\nF,9,\"\"\nG,9,' '\n"
    put(tmp_path, "d_icd_diagnoses", text)
    frame = read_table(tmp_path, "d_icd_diagnoses", {})
    assert frame["long_title"].to_list() == ["None", "NaN", "NA", "null", None, None, "' '"]


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        (STAY.replace("1,", ",", 1), "", "subject_id_missing"),
        (STAY.replace("1,", "one,", 1), "", "subject_id_not_a_number"),
        (STAY.replace("1,", "1.5,", 1), "", "subject_id_not_a_number"),
        (STAY.replace(",10,", f",{10**30},"), "", "hadm_id_not_a_number"),
        (STAY.replace("100", "0x64"), "", "stay_id_not_a_number"),
        (STAY.replace(",2.0", ",2.0,more"), "", "malformed_row"),
        (STAY.replace(",2.0", ""), "", "malformed_row"),
        (STAY.replace("Medical", '"Medical"'), "", "malformed_row"),
        (STAY.replace("Medical", 'Medi"cal'), "", "malformed_row"),
        (STAY.replace("2.0", "two"), "los", "not_a_number"),
        (STAY.replace("2.0", "inf"), "los", "not_a_number"),
        (STAY.replace("2.0", "NaN"), "los", "not_a_number"),
        (STAY.replace("2.0", "-1"), "los", "out_of_range"),
        (STAY.replace("2.0", "1e7"), "los", "out_of_range"),
        (STAY.replace("2150-01-01", "2150-02-30"), "intime", "not_a_time"),
        (STAY.replace("2150-01-01 08", "01/01/2150 08"), "intime", "not_a_time"),
        (STAY.replace("2150-01-03", "2149-01-03"), "outtime", "before_intime_but_used"),
        (STAY * 2, "", "repeated_key"),
    ],
)
def test_what_cannot_be_used_is_counted(tmp_path, row, column, reason):
    other = STAY.replace("100", "7")
    frame, dropped = icustays(tmp_path, ICUSTAYS + other + row)
    assert dropped == {column: {reason: 1}}
    kept = 2 if column or reason == "repeated_key" else 1
    assert frame.height == kept
    if reason in ("not_a_number", "not_a_time", "out_of_range"):
        assert frame[column].null_count() == 1


def test_of_repeated_keys_the_first_row_counts(tmp_path):
    frame, dropped = icustays(tmp_path, ICUSTAYS + STAY + STAY.replace("2.0", "3.0"))
    assert frame["los"].to_list() == [2.0]
    assert dropped == {"": {"repeated_key": 1}}


@pytest.mark.parametrize("text", [ICUSTAYS, ICUSTAYS.strip(), ICUSTAYS + "\n\n"])
def test_header_only_is_an_empty_table(tmp_path, text):
    frame, dropped = icustays(tmp_path, text)
    assert frame.schema == pl.Schema(RAW["icustays"].columns)
    assert (frame.height, dropped) == (0, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing subject_id.*no line of column names"),
        (STAY, "missing subject_id.*no line of column names"),
        (ICUSTAYS.replace("intime", "admittime") + STAY, "missing intime.*found subject_id, hadm_id, .*admittime"),
        (ICUSTAYS.replace("last", "first") + STAY, "missing last_careunit"),
        (ICUSTAYS.strip() + ",los\n" + STAY.strip() + ",1\n", "los occurs more than once"),
        (ICUSTAYS.replace(",", ";") + STAY.replace(",", ";"), "missing subject_id"),
        (ICUSTAYS + STAY * 3 + STAY.replace("Medical", '"Medical', 1), "never closed"),
        (ICUSTAYS + STAY.replace(",2.0", "") * 3, "expected 8 fields per row.*another number in all 3 rows"),
    ],
)
def test_unusable_files_say_what_is_wrong(tmp_path, text, message):
    with pytest.raises(RawDataError, match=message) as error:
        icustays(tmp_path, text)
    assert "icustays.csv" in str(error.value)
    assert "2150" not in str(error.value), "never a patient's value"
    assert "Medical ICU" not in str(error.value)


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 60, -5])
def test_a_gzip_file_cut_off_anywhere_is_an_error(tmp_path, cut):
    whole = gzip.compress((ICUSTAYS + "".join(STAY.replace("100", str(i)) for i in range(100, 400))).encode())
    with pytest.raises(RawDataError, match=r"icustays.csv.gz.*SHA256SUMS"):
        icustays(tmp_path, whole[: len(whole) - cut if cut > 0 else -cut], end=".csv.gz")


def test_other_damage_to_gzip_files(tmp_path):
    text = (ICUSTAYS + STAY).encode()
    whole = bytearray(gzip.compress(text))
    whole[-6] ^= 1  # the checksum
    for data in (bytes(whole), gzip.compress(text) + b"more", text, b"", b"BZh9"):
        with pytest.raises(RawDataError, match=r"icustays\.csv\.gz"):
            icustays(tmp_path, data, end=".csv.gz")


def test_what_gzip_allows_is_read(tmp_path):
    members = gzip.compress(ICUSTAYS.encode()) + gzip.compress(STAY.encode()) + bytes(64)
    assert icustays(tmp_path, members, end=".csv.gz")[0].height == 1
    assert icustays(tmp_path / "plain", gzip.compress((ICUSTAYS + STAY).encode()))[0].height == 1


# --- places -------------------------------------------------------------------------------------------------------


def test_wrong_places_say_what_was_expected(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(RawDataError, match=r"expected the folder of MIMIC-IV, found a file; set raw.mimiciv"):
        locate(file, "icustays")
    with pytest.raises(RawDataError, match=r"found nothing; set raw.mimiciv"):
        locate(tmp_path / "absent", "icustays")
    with pytest.raises(RawDataError, match=r"icu/icustays.csv.gz, icu/icustays.csv, found none; download"):
        locate(tmp_path, "icustays")
    (tmp_path / "icu" / "icustays.csv.gz").mkdir(parents=True)
    with pytest.raises(RawDataError, match=r"icustays.csv.gz: expected a file, found a folder"):
        locate(tmp_path, "icustays")
    (tmp_path / "icu" / "icustays.csv.gz").rmdir()
    (tmp_path / "icu" / "icustays.csv.gz").symlink_to(tmp_path / "gone")
    with pytest.raises(RawDataError, match="found a link to nothing"):
        locate(tmp_path, "icustays")


def test_the_compressed_file_goes_first(tmp_path):
    put(tmp_path, "icustays", ICUSTAYS)
    put(tmp_path, "icustays", gzip.compress((ICUSTAYS + STAY).encode()), end=".csv.gz")
    assert read_table(tmp_path, "icustays", {}).height == 1


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize(("target", "mode"), [("icu/icustays.csv", 0o000), ("icu", 0o000), (".", 0o000), ("..", 0o000)])
def test_no_permission_is_an_error_that_says_so(target, mode):
    """Run by another account where the tests are root's, as permissions do not bind root."""
    folder = Path(tempfile.mkdtemp(prefix="flexcare-"))
    try:
        folder.chmod(0o755)
        root = folder / "mimiciv"
        put(root, "icustays", ICUSTAYS + STAY)
        (root / target).chmod(mode)
        code = (
            "import os; from pathlib import Path; from flexcare_data.raw.files import RawDataError\n"
            "from flexcare_data.raw.tables import read_table\n"
            "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            f"try: read_table(Path({str(root)!r}), 'icustays', {{}})\n"
            "except RawDataError as error: print('error:', error)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.startswith("error:"), done.stderr
        assert "permission" in done.stdout and "ask its owner" in done.stdout and "set raw" not in done.stdout
        assert str(root) in done.stdout
    finally:
        for path in (folder, root, root / "icu", root / "icu" / "icustays.csv"):
            path.chmod(0o755)
        shutil.rmtree(folder)


# --- notes --------------------------------------------------------------------------------------------------------


def notes(tmp_path: Path, text: str | bytes, **place: str) -> tuple[list[dict[str, str]], dict]:
    put(tmp_path, "discharge", text, **place)
    dropped: dict = {}
    return list(read_notes(tmp_path, dropped)), dropped.get("discharge", {}).get("", {})


def note(text: str, note_id: str = "1-DS-1") -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL).writerow(
        [note_id, 1, 10, "DS", 1, "2150-01-03 00:00:00", "", text]
    )
    return out.getvalue()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_notes_survive_whatever_is_in_them(tmp_path, end, mark):
    texts = ['a "quoted" word', "lines\nand\n\nlines", "carriage\rreturn", "windows\r\nlines", "a,b", "", "x" * 300_000]
    text = mark + NOTES.replace("\n", end) + "".join(note(text) for text in texts)
    rows, dropped = notes(tmp_path, text)
    assert [row["text"] for row in rows] == texts
    assert list(rows[0]) == list(RAW["discharge"].columns)
    assert dropped == {}


def test_notes_of_another_width_are_counted(tmp_path):
    rows, dropped = notes(tmp_path, NOTES + note("a") + "1,2,3\n\n" + note("b").strip() + ",more\n" + note("c"))
    assert [row["text"] for row in rows] == ["a", "c"]
    assert dropped == {"malformed_row": 2}


def test_bytes_that_are_no_utf8_do_not_stop_the_notes(tmp_path):
    rows, _ = notes(tmp_path, NOTES.encode() + note("XX").encode().replace(b"XX", b"\xff\x00\xe9"))
    assert rows[0]["text"] == "\ufffd\x00\ufffd"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing note_id"),
        (NOTES.replace("text", "body"), "missing text"),
        (NOTES.strip() + ",text\n", "more than once"),
        (NOTES + note("a,b").removesuffix('"\n'), "quote"),
        (NOTES + note("a,b").replace('b"', 'b" c'), "quote"),
    ],
)
def test_unusable_notes_say_what_is_wrong(tmp_path, text, message):
    with pytest.raises(RawDataError, match=message) as error:
        notes(tmp_path, text)
    assert "discharge.csv" in str(error.value)


@pytest.mark.parametrize("cut", [1, 8, 9, 200])
def test_notes_cut_off_are_an_error(tmp_path, cut):
    whole = gzip.compress((NOTES + "".join(note(f"text {i} " * 20) for i in range(200))).encode())
    with pytest.raises(RawDataError, match="SHA256SUMS"):
        notes(tmp_path, whole[:-cut], end=".csv.gz")


# --- fuzz ---------------------------------------------------------------------------------------------------------

CELL = st.sampled_from(
    ["", "1", "10", "100", "-3", "1e3", "9" * 30, "2150-01-01 08:00:00", "2150-99-01", '""', '"a,b"', '"l\nm"',
     '"q""q"', 'q"q', '"t"u', "None", "\u00e9", "\r", "inf", "nan", " 5 "]
)  # fmt: skip
RECORD = st.one_of(
    st.lists(CELL, min_size=8, max_size=8).map(",".join),
    st.lists(CELL, max_size=10).map(",".join),
    st.just(STAY.strip()),
    st.text('019-:, \n\r"x', max_size=30),
)


@settings(deadline=None, max_examples=300)
@given(records=st.lists(RECORD, max_size=8), end=st.sampled_from(["\n", "", "\r\n"]))
def test_fuzz_every_row_is_used_or_counted(records, end):
    body = ("\n".join(records) + end).encode()
    with tempfile.TemporaryDirectory() as folder:
        try:
            frame, dropped = icustays(Path(folder), ICUSTAYS.encode() + body)
        except RawDataError as error:
            assert "icustays.csv" in str(error)
            return
    whole_rows = sum(dropped.get("", {}).values())
    assert sieve(body, 8).records == frame.height + whole_rows, "rows in = rows used + rows counted"
    assert frame["stay_id"].n_unique() == frame.height
    nulled = sum(
        n for reasons in (dropped.get(name, {}) for name in ("intime", "outtime", "los")) for n in reasons.values()
    )
    assert nulled >= 0


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200), name=st.sampled_from(sorted(RAW)), end=st.sampled_from([".csv", ".csv.gz"]))
def test_fuzz_bytes_are_a_table_or_one_error(data, name, end):
    table = RAW[name]
    for content in (data, ",".join(table.columns).encode() + b"\n" + data):
        for packed in (content, gzip.compress(content)):
            with tempfile.TemporaryDirectory() as folder:
                put(Path(folder), name, packed, end=end)
                try:
                    if name == "discharge":
                        list(read_notes(Path(folder), {}))
                    else:
                        read_table(Path(folder), name, {})
                except RawDataError as error:
                    assert table.filename in str(error)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12), min_size=3, max_size=3)
    )
)
def test_fuzz_whatever_a_writer_quotes_is_read_back(rows):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(["icd_code", "icd_version", "long_title"])
    writer.writerows([f"c{i}", 9, "".join(cells)] for i, cells in enumerate(rows))
    with tempfile.TemporaryDirectory() as folder:
        put(Path(folder), "d_icd_diagnoses", out.getvalue())
        frame = read_table(Path(folder), "d_icd_diagnoses", {})
    assert frame["long_title"].to_list() == ["".join(cells) or None for cells in rows]


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30), max_size=10))
def test_fuzz_notes_are_read_back(texts):
    with tempfile.TemporaryDirectory() as folder:
        rows, dropped = notes(Path(folder), NOTES + "".join(note(text) for text in texts))
    assert [row["text"] for row in rows] == texts
    assert dropped == {}
