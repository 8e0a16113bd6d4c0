"""Each edition of each data set is recognised, read by name, and gives the same cohorts from the same content."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import polars as pl
import pytest
from support.builds import Build, build

from flexcare_data.raw.editions import (
    MIMICIV_ROWS,
    Edition,
    Found,
    is_after,
    known_rows,
    recognise_cxr,
    recognise_mimiciv,
    recognise_note,
)
from flexcare_data.schema import RAW
from flexcare_data.synthetic.layout import EDITIONS
from flexcare_data.synthetic.write import write_data_set
from flexcare_data.tasks import TASKS

PATIENTS, SEED = 14, 11


def fabricate(out: Path, edition: str) -> Path:
    write_data_set(out, patients=PATIENTS, seed=SEED, edition=edition)
    shutil.rmtree(out / "mimic_cxr_jpg" / "files", ignore_errors=True)
    return out


@pytest.fixture(scope="module")
def paper(tmp_path_factory) -> tuple[Path, Build]:
    """Raw data in the layout of 2.0, the paper's edition, and its build."""
    raw = fabricate(tmp_path_factory.mktemp("raw"), "2.0")
    return raw, build(raw, tmp_path_factory.mktemp("build"))


def assert_same(built: Build, other: Build) -> None:
    """Everything that models see, byte for byte, and all counts."""
    for task in TASKS:
        assert built.cohort(task).equals(other.cohort(task)), task
        assert built.cohort(task).height > 0, task
    for file in ("stays/stays.parquet", "splits/splits.parquet", "events/events.parquet", "sections/sections.parquet",
                 "hourly/index.parquet", "hourly/values.npy", "hourly/observed.npy", "hourly/scaler.json",
                 "audit/flow.json", "audit/dropped.json", "audit/leakage.json"):  # fmt: skip
        assert (built.out / file).read_bytes() == (other.out / file).read_bytes(), file


@pytest.mark.parametrize("edition", [edition for edition in EDITIONS if edition != "2.0"])
def test_equal_content_in_each_edition_gives_equal_cohorts(paper, tmp_path, edition):
    raw = fabricate(tmp_path / "raw", edition)
    assert (raw / "mimiciv" / "core").is_dir() == (edition == "1.0")
    assert_same(build(raw, tmp_path / "build"), paper[1])


@pytest.mark.parametrize("plain", [0, 1])
def test_plain_and_compressed_files_mixed_give_equal_cohorts(paper, tmp_path, plain):
    """Every second table as .csv, then the others."""
    raw = tmp_path / "raw"
    shutil.copytree(paper[0], raw)
    for path in sorted(raw.rglob("*.csv.gz"))[plain::2]:
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert_same(build(raw, tmp_path / "build"), paper[1])


def test_both_editions_of_the_radiographs_have_the_same_tables(paper, tmp_path):
    """2.1.0 adds files of its own name; the side files keep the 2.0.0 in theirs."""
    raw = tmp_path / "raw"
    shutil.copytree(paper[0], raw)
    (raw / "mimic_cxr_jpg" / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("study_id\n")
    assert_same(build(raw, tmp_path / "build"), paper[1])


# --- recognised ---------------------------------------------------------------------------------------------------

ADMISSIONS = ("subject_id", "hadm_id", "race")
WITH_PROVIDER = (*ADMISSIONS, "admit_provider_id")


@pytest.mark.parametrize("edition", sorted(MIMICIV_ROWS))
def test_the_edition_is_recognised_by_the_rows_of_the_small_tables(edition):
    small = {name: MIMICIV_ROWS[edition][name] for name in ("patients", "admissions", "icustays")}
    found = recognise_mimiciv(Found(rows=small, columns={"admissions": ADMISSIONS}))
    assert found.is_exact
    assert found.names == (("3.0", "3.1") if edition.startswith("3.") else (edition,))
    assert recognise_mimiciv(Found(rows={"icustays": small["icustays"]})).names == found.names


@pytest.mark.parametrize("edition", sorted(MIMICIV_ROWS))
def test_the_rows_of_all_tables_tell_every_edition_from_the_others(edition):
    found = recognise_mimiciv(Found(rows=MIMICIV_ROWS[edition]))
    assert (found.names, found.is_exact) == ((edition,), True)


def test_a_damaged_further_table_does_not_hide_the_edition():
    found = recognise_mimiciv(Found(rows=MIMICIV_ROWS["3.1"] | {"drgcodes": 7}))
    assert (found.names, found.is_exact) == (("3.0", "3.1"), True)


def test_the_rows_of_every_table_that_is_read_are_known():
    for root, editions in {
        "mimiciv": tuple(MIMICIV_ROWS),
        "mimic_cxr_jpg": ("2.0.0",),
        "mimic_iv_note": ("2.2",),
    }.items():
        read = {name for name, table in RAW.items() if table.root == root}
        for edition in editions:
            assert read <= set(known_rows(root, (edition,))), (root, edition)


def test_the_rows_of_the_demo_are_those_of_its_files(open_data):
    for name, rows in MIMICIV_ROWS["demo 2.2"].items():
        path = open_data / "mimic-iv-demo-2.2" / RAW[name].folders[0] / f"{name}.csv.gz"
        assert pl.read_csv(path, infer_schema=False).height == rows, name


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (Found(columns={"admissions": ("subject_id", "ethnicity")}), ("1.0",)),
        (Found(paths={"patients": "core/patients.csv.gz"}), ("1.0",)),
        (Found(columns={"admissions": ADMISSIONS}), ("2.0", "2.1")),
        (Found(columns={"admissions": ADMISSIONS}, folder="/data/mimiciv/2.1"), ("2.1",)),
        (Found(columns={"admissions": WITH_PROVIDER}), ("2.2", "3.0", "3.1")),
        (Found(columns={"admissions": WITH_PROVIDER}, folder="/data/physionet.org/files/mimiciv/3.1"), ("3.1",)),
        (Found(columns={"admissions": WITH_PROVIDER}, folder="/data/2.0/x"), ("2.2", "3.0", "3.1")),
        (Found(columns={"admissions": WITH_PROVIDER}, listed=frozenset({"demo_subject_id.csv"})), ("demo 2.2",)),
        (Found(), ()),
    ],
)
def test_else_the_layout_does(found, names):
    edition = recognise_mimiciv(found)
    assert edition.names == names
    assert not edition.is_exact


@pytest.mark.parametrize(
    ("found", "edition"),
    [
        (Found(rows={"metadata": 377_110, "chexpert": 227_827}), Edition(("2.0.0", "2.1.0"), True, ())),
        (Found(rows={"metadata": 9}), Edition(("2.0.0", "2.1.0"), False, ())),
    ],
)
def test_radiographs(found, edition):
    assert recognise_cxr(found) == edition


def test_radiographs_of_the_second_edition_are_known_by_its_list_or_path():
    listed = frozenset({"mimic-cxr-2.1.0-test-set-labeled.csv"})
    assert recognise_cxr(Found(listed=listed)).names == ("2.1.0",)
    assert recognise_cxr(Found(folder="/data/mimic-cxr-jpg/2.0.0")).names == ("2.0.0",)


@pytest.mark.parametrize(("rows", "is_exact"), [(331_794, True), (331_793, True), (331_792, False)])
def test_notes(rows, is_exact):
    """Two documents of the publishers disagree by one summary."""
    assert recognise_note(Found(rows={"discharge": rows})) == Edition(("2.2",), is_exact, ())


def test_notes_with_reports():
    both = {"discharge": 331_794, "radiology": 2_321_355}
    assert recognise_note(Found(rows=both)).is_exact
    assert not recognise_note(Found(rows=both | {"radiology": 5})).is_exact
    assert not recognise_note(Found()).is_exact


def test_order_of_editions():
    assert is_after("2.1", "2.0")
    assert is_after("3.0", "2.2")
    assert not is_after("1.0", "2.0")
    assert not is_after("2.0", "2.0")
