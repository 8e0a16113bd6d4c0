"""Radiology reports as notes: what is read of a report, and which ones a sample gets."""

from __future__ import annotations

import random
import shutil
import tracemalloc
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from support.builds import Roots, build
from support.paths import RAW

from flexcare_data import note_ids
from flexcare_data.__main__ import main
from flexcare_data.options import Options
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import REPORTS
from flexcare_data.stages.reports import build_reports, report_text
from flexcare_data.tasks.base import Sources, no_reports, with_note

ASKED = datetime(2150, 1, 10, 12)
RADIOLOGY = Options(notes="radiology")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FINDINGS: a\nIMPRESSION: b", "a b"),
        ("IMPRESSION: b\nFINDINGS: a", "b a"),
        ("INDICATION: x\nFINDINGS AND IMPRESSION: a\nNOTIFICATION: y", "a"),
        ("FINDINGS/IMPRESSION : a", "a"),
        ("Impression:\n a\n\nRecommendation(s): y", "a"),
        ("CHEST, AP. CLINICAL HISTORY: x  FINDINGS:  a  IMPRESSION:  b", "a b"),
        ("FINDINGS: the impression: unclear\nLIVER: normal", "the impression unclearliver normal"),
        ("INDICATION: x\nTECHNIQUE: y", None),
        ("FINDINGS:\nIMPRESSION:  \n", None),
        ("no heading at all", None),
        ("", None),
    ],
)
def test_findings_and_impression_of_a_report(text: str, expected: str | None):
    assert report_text(text, Options()) == expected


def rows(n: int, rng: random.Random) -> Iterator[dict[str, str]]:
    """Reports with ids in any order, one in ten of them repeated."""
    for _ in range(n):
        ids = {"note_id": f"{rng.randrange(n)}-RR-1", "subject_id": str(rng.randrange(9)), "hadm_id": ""}
        times = {"charttime": "2150-01-01 10:00:00", "storetime": rng.choice(["", "2150-01-01 11:00:00"])}
        yield ids | times | {"text": f"FINDINGS: {rng.randrange(10**6)} {'word ' * 100}"}


def built(folder: Path, n: int, **sizes: int) -> tuple[Path, dict[str, int], dict]:
    folder.mkdir()
    dropped = empty_counts()
    out = folder / "reports.parquet"
    return (
        out,
        build_reports(rows(n, random.Random(3)), Options(), out=out, scratch=folder, dropped=dropped, **sizes),
        dropped,
    )


def test_the_merge_equals_a_sort_in_memory(tmp_path):
    """Chunks and blocks of any size give the same rows; of a repeated id the last row of the file is kept."""
    out, counts, dropped = built(tmp_path / "small", 500, rows_per_chunk=37, rows_per_block=20)
    got = pl.read_parquet(out)
    notes = list(rows(500, random.Random(3)))
    last = {note["note_id"]: order for order, note in enumerate(notes)}
    assert got.rows_by_key("note_id", unique=True).keys() == last.keys()
    assert got["note_id"].to_list() == sorted(last)
    assert got["file_order"].to_list() == [last[name] for name in sorted(last)]
    texts = [report_text(notes[order]["text"], Options()) for order in got["file_order"]]
    assert got["text"].to_list() == texts
    assert counts["reports used"] == len(last) and dropped["radiology"][""] == {"repeated_key": 500 - len(last)}
    assert got.schema == {column.name: column.dtype for column in REPORTS.columns}
    again, _, _ = built(tmp_path / "again", 500, rows_per_chunk=37, rows_per_block=20)
    assert again.read_bytes() == out.read_bytes()
    whole, _, _ = built(tmp_path / "whole", 500)
    assert pl.read_parquet(whole).equals(got)
    assert sorted(path.name for path in whole.parent.iterdir()) == ["reports.parquet"]


def test_memory_does_not_grow_with_the_table(tmp_path):
    """Texts are in memory one chunk at a time: Python's share of it, which held all rows of a list."""
    peaks = []
    for n in (2_000, 16_000):
        tracemalloc.start()
        built(tmp_path / str(n), n, rows_per_chunk=500, rows_per_block=500)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


# --- choice -----------------------------------------------------------------------------------------------------


def reports(*known: tuple[str, int, float | None, float | None]) -> pl.DataFrame:
    """Reports in file order: id, patient, charttime and storetime in hours after the question."""

    def moment(hours: float | None) -> datetime | None:
        return None if hours is None else ASKED + timedelta(hours=hours)

    rows = [
        {"note_id": name, "subject_id": subject, "hadm_id": None, "charttime": moment(charted),
         "storetime": moment(stored), "file_order": order}
        for order, (name, subject, charted, stored) in enumerate(known)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=no_reports().schema)


def chosen(known: pl.DataFrame, n: int, *, subject: int = 1, asked: datetime | None = ASKED) -> list[str] | None:
    """Ids that a sample of ``subject`` gets."""
    empty = pl.DataFrame()
    sources = Sources(*[empty] * 8, RADIOLOGY, reports=known, n_reports=n)
    samples = pl.DataFrame({"subject_id": [subject, 99], "prediction_time": [asked, ASKED]},
                           schema_overrides={"prediction_time": pl.Datetime("us")})  # fmt: skip
    result = with_note(samples, sources, "past_medical_history")
    assert result["subject_id"].to_list() == [subject, 99]
    assert result["note_id"][1] is None and result["note_time"][1] is None
    found = result.select(note_ids.split("note_id"))["note_id"][0]
    if found is not None:
        newest = known.filter(pl.col("note_id") == found[0]).select(pl.max_horizontal("charttime", "storetime")).item()
        assert result["note_time"][0] == newest
    return None if found is None else found.to_list()


def test_the_newest_come_first_and_no_more_than_asked():
    known = reports(("old", 1, -900, -899), ("new", 1, -3, -1), ("middle", 1, -40, -2), ("late_filed", 1, -50, 1))
    assert chosen(known, 1) == ["new"]
    assert chosen(known, 2) == ["new", "middle"]
    assert chosen(known, 9) == ["new", "middle", "old"]


def test_filed_exactly_at_the_prediction_time_counts_and_a_second_later_does_not():
    """Also a report of the image's own study, examined at the prediction time."""
    assert chosen(reports(("own", 1, 0, 0)), 3) == ["own"]
    assert chosen(reports(("own", 1, 0, 1 / 3600)), 3) is None


def test_the_later_of_the_two_times_counts():
    assert chosen(reports(("examined_later", 1, 1, -5)), 3) is None
    assert chosen(reports(("no_storetime", 1, -1, None)), 3) == ["no_storetime"]
    assert chosen(reports(("no_charttime", 1, None, -1)), 3) == ["no_charttime"]
    assert chosen(reports(("no_charttime_late", 1, None, 1), ("neither", 1, None, None)), 3) is None


def test_of_equal_times_the_later_row_is_newer():
    assert chosen(reports(("first", 1, -4, -1), ("second", 1, -9, -1), ("third", 1, -1, None)), 2) == [
        "third",
        "second",
    ]


def test_reports_of_others_are_never_chosen():
    assert chosen(reports(("other", 2, -2, -1), ("own", 1, -9, -8), ("another", 3, -2, -1)), 3) == ["own"]
    assert chosen(reports(("other", 2, -2, -1)), 3) is None
    assert chosen(no_reports(), 3) is None


def test_without_a_prediction_time_no_report_is_chosen():
    assert chosen(reports(("own", 1, -2, -1)), 3, asked=None) is None


@pytest.mark.parametrize(
    ("charted", "stored", "used"), [(-1, 0, True), (1, 0, False), (0, None, True), (None, 1, False)]
)
def test_a_summary_of_an_earlier_admission_counts_from_the_later_time(charted, stored, used):
    """`notes: prior` goes by the same rule."""
    summary = reports(("summary", 1, charted, stored)).with_columns(
        hadm_id=pl.lit(10, pl.Int64), past_medical_history=pl.lit("")
    )
    admissions = pl.DataFrame(
        {"hadm_id": [10, 11], "admittime": [ASKED - timedelta(days=9), ASKED - timedelta(days=1)]}
    )
    empty = pl.DataFrame()
    sources = Sources(*[empty] * 4, admissions, empty, empty, summary, Options(notes="prior"))
    samples = pl.DataFrame({"subject_id": [1], "hadm_id": [11], "prediction_time": [ASKED]})
    result = with_note(samples, sources, "past_medical_history")
    assert result["note_id"].to_list() == (["summary"] if used else [None])
    assert result["note_time"].is_not_null().to_list() == [used]


# --- cohorts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory):
    return build(Roots.below(RAW), tmp_path_factory.mktemp("stories"), options={"notes": "radiology"}, n_reports=2)


def test_reports_of_the_stories(stories):
    """Subject 1: filed before, at, and after each question. Subject 3: the patient's reports of any admission or none.

    In-hospital mortality asks subject 1 at 10:00 of the third day, half an hour before the last report is filed.
    Diagnosis asks at the studies; the reports of 5004 and 5201 are filed in that second.
    """
    notes = {
        task: dict(stories.cohort(task).select("sample_id", "note_id").iter_rows())
        for task in ("in_hospital_mortality", "readmission", "diagnosis")
    }
    assert notes["in_hospital_mortality"]["11"] == "1-RR-3 1-RR-2"
    assert notes["readmission"]["11"] == "1-RR-4 1-RR-3"
    assert notes["diagnosis"]["5001"] == notes["diagnosis"]["5002"] == "1-RR-2"
    assert notes["diagnosis"]["5004"] == "1-RR-4 1-RR-3"
    assert notes["diagnosis"]["5101"] == "2-RR-2" and notes["diagnosis"]["5102"] == "2-RR-2"
    assert notes["diagnosis"]["5201"] == "3-RR-4 3-RR-3"
    assert notes["diagnosis"]["5301"] is None and notes["diagnosis"]["5302"] == "7-RR-2"
    assert notes["readmission"]["31"] is None and notes["readmission"]["32"] == "3-RR-4 3-RR-3"
    dropped = stories.counts("cohort-readmission", "dropped")
    assert dropped["reports"] == {"": {"subject_without_admission": 1}}
    of_table = stories.counts("reports", "dropped")["radiology"]
    assert of_table == {"storetime": {"missing_with_charttime": 1}}
    assert stories.counts("reports", "dropped")["storetime"] == {"radiology": {"before_charttime": 1, "missing": 2}}


def test_samples_are_those_of_the_discharge_summaries(stories, tmp_path):
    """The option changes what is read of a sample, not which samples there are."""
    published = build(Roots.below(RAW), tmp_path / "published", with_audit=False)
    for task in ("diagnosis", "drg", "readmission"):
        assert stories.cohort(task).drop("note_id").equals(published.cohort(task).drop("note_id"))


WRONG = {
    "filed after the prediction time": ("1-RR-5", "note_filed_after_prediction"),
    "of another patient": ("2-RR-2", "note_of_another_patient"),
    "without a text": ("1-AR-6", "note_without_text"),
    "an unknown one": ("1-RR-99", "note_without_text"),
    "too many": ("1-RR-4 1-RR-3 1-RR-2", "more_notes_than_setting"),
    "a late one among others": ("1-RR-3 1-RR-5", "note_filed_after_prediction"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_the_audit_refuses_a_wrong_report(stories, tmp_path, capsys, mistake):
    """The certificate of the correct cohort is written; with another note_id of one sample the stage fails."""
    given, violation = WRONG[mistake]
    task = "in_hospital_mortality"
    shutil.copytree(stories.folder(f"cohort-{task}"), tmp_path / f"cohort-{task}")
    arguments = ["audit", "--option", "notes=radiology", "--n-reports", "2"]
    for stage in ("stays", "splits", "events", "hourly", "sections", "radiographs", "reports"):
        arguments += [f"--{stage}", str(stories.folder(stage))]
    arguments += ["--cohorts", str(tmp_path / f"cohort-{task}")]
    assert main([*arguments, "--out", str(tmp_path / "right")]) == 0
    path = tmp_path / f"cohort-{task}/{task}.parquet"
    wrong = pl.when(pl.col("sample_id") == "11").then(pl.lit(given)).otherwise("note_id")
    pl.read_parquet(path).with_columns(note_id=wrong).write_parquet(path)
    capsys.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "wrong")]) == 1
    assert f"{task}: {violation}: 1 violations, expected 0" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()
