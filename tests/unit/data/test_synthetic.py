"""The fabricated raw data: layout of every edition, equal bytes, every kind of mess, answers in three modalities."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from flexcare_data.schema import CHEXPERT, SYNTHETIC_MARK
from flexcare_data.synthetic.items import UNKNOWN_GRADE
from flexcare_data.synthetic.layout import EDITIONS
from flexcare_data.synthetic.write import write_data_set
from flexcare_data.variables import CATEGORIES, ITEMS

HEADERS_22 = {
    "hosp/patients": "subject_id,gender,anchor_age,anchor_year,anchor_year_group,dod",
    "hosp/admissions": "subject_id,hadm_id,admittime,dischtime,deathtime,admission_type,admit_provider_id,"
    "admission_location,discharge_location,insurance,language,marital_status,race,edregtime,edouttime,"
    "hospital_expire_flag",
    "hosp/transfers": "subject_id,hadm_id,transfer_id,eventtype,careunit,intime,outtime",
    "hosp/services": "subject_id,hadm_id,transfertime,prev_service,curr_service",
    "hosp/diagnoses_icd": "subject_id,hadm_id,seq_num,icd_code,icd_version",
    "hosp/d_icd_diagnoses": "icd_code,icd_version,long_title",
    "hosp/drgcodes": "subject_id,hadm_id,drg_type,drg_code,description,drg_severity,drg_mortality",
    "hosp/d_labitems": "itemid,label,fluid,category",
    "hosp/labevents": "labevent_id,subject_id,hadm_id,specimen_id,itemid,order_provider_id,charttime,storetime,value,"
    "valuenum,valueuom,ref_range_lower,ref_range_upper,flag,priority,comments",
    "hosp/provider": "provider_id",
    "icu/icustays": "subject_id,hadm_id,stay_id,first_careunit,last_careunit,intime,outtime,los",
    "icu/chartevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valuenum,valueuom,"
    "warning",
    "icu/outputevents": "subject_id,hadm_id,stay_id,caregiver_id,charttime,storetime,itemid,value,valueuom",
    "icu/d_items": "itemid,label,abbreviation,linksto,category,unitname,param_type,lownormalvalue,highnormalvalue",
    "icu/caregiver": "caregiver_id",
}
HEADERS_20 = HEADERS_22 | {
    "hosp/admissions": HEADERS_22["hosp/admissions"].replace("admit_provider_id,", ""),
    "hosp/labevents": HEADERS_22["hosp/labevents"].replace("order_provider_id,", ""),
    "icu/chartevents": HEADERS_22["icu/chartevents"].replace("caregiver_id,", ""),
    "icu/outputevents": HEADERS_22["icu/outputevents"].replace("caregiver_id,", ""),
}
HEADERS_20 = {name: header for name, header in HEADERS_20.items() if name not in ("hosp/provider", "icu/caregiver")}
HEADERS_10 = {
    name.replace("hosp/", "core/") if name in ("hosp/patients", "hosp/admissions", "hosp/transfers") else name: header
    for name, header in HEADERS_20.items()
} | {
    "core/admissions": HEADERS_20["hosp/admissions"].replace("race", "ethnicity"),
    "hosp/d_labitems": "itemid,label,fluid,category,loinc_code",
}
HEADERS = {
    "1.0": HEADERS_10, "2.0": HEADERS_20, "2.1": HEADERS_20, "2.2": HEADERS_22, "3.0": HEADERS_22, "3.1": HEADERS_22,
}  # fmt: skip
"""Published first lines, written down from the releases."""

OTHER_HEADERS = {
    "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata": "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,"
    "ViewPosition,Rows,Columns,StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning",
    "mimic_cxr_jpg/mimic-cxr-2.0.0-chexpert": ",".join(("subject_id", "study_id", *CHEXPERT)),
    "mimic_cxr_jpg/mimic-cxr-2.0.0-split": "dicom_id,study_id,subject_id,split",
    "mimic_iv_note/note/discharge": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
    "mimic_iv_note/note/radiology": "note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text",
}

PATIENTS = 260


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    write_data_set(folder, patients=PATIENTS, seed=7, edition="2.2")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A handful of patients in every edition."""
    folders = {edition: tmp_path_factory.mktemp("edition") for edition in EDITIONS}
    for edition, folder in folders.items():
        write_data_set(folder, patients=6, seed=3, edition=edition)
    return folders


TIMES = ("intime", "outtime", "admittime", "dischtime", "deathtime", "charttime")
INTEGERS = (
    "subject_id", "hadm_id", "stay_id", "labevent_id", "study_id", "itemid", "anchor_age", "hospital_expire_flag",
    "icd_version", "drg_code", "StudyDate", "Rows", "Columns",
)  # fmt: skip


@functools.cache
def table(root: Path, path: str) -> pl.DataFrame:
    """A table with times, integers and other numbers that the tests compute with; everything else is text."""
    frame = pl.read_csv(root / f"{path}.csv.gz", infer_schema=False)
    types = dict.fromkeys(INTEGERS, pl.Int64) | dict.fromkeys(("los", *CHEXPERT), pl.Float64)
    frame = frame.cast({name: dtype for name, dtype in types.items() if name in frame.columns})
    times = [name for name in TIMES if name in frame.columns]
    frame = frame.with_columns(pl.col(times).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us"))
    return frame.with_columns(pl.col("dod").str.to_date()) if "dod" in frame.columns else frame


def first_line(path: Path) -> str:
    with gzip.open(path, "rt", newline="") as file:
        return file.readline().removesuffix("\n")


@pytest.mark.parametrize("edition", EDITIONS)
def test_files_and_headers_are_those_of_the_edition(small, edition):
    root = small[edition] / "mimiciv"
    found = {p.relative_to(root).as_posix().removesuffix(".csv.gz"): first_line(p) for p in root.rglob("*.csv.gz")}
    assert found == HEADERS[edition]
    for path, header in OTHER_HEADERS.items():
        assert first_line(small[edition] / f"{path}.csv.gz") == header
    for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note"):
        assert "SYNTHETIC" in (small[edition] / name / SYNTHETIC_MARK).read_text()


def test_headers_of_the_open_demo(open_data):
    demo = open_data / "mimic-iv-demo-2.2"
    for path, header in HEADERS_22.items():
        if (demo / f"{path}.csv.gz").exists():
            assert first_line(demo / f"{path}.csv.gz") == header


def test_editions_hold_the_same_content(small):
    """Shared columns are equal in every edition, so that every edition gives the same cohorts.

    Except for the newest group of years, which only 3.x has.
    """
    for name, header in HEADERS_22.items():
        if name in ("hosp/provider", "icu/caregiver"):
            continue
        expected = table(small["2.2"] / "mimiciv", name)
        for edition in ("1.0", "2.0", "3.1"):
            root = small[edition] / "mimiciv"
            path = name if (root / f"{name}.csv.gz").exists() else name.replace("hosp/", "core/")
            got = table(root, path).rename({"ethnicity": "race"}, strict=False)
            shared = [column for column in header.split(",") if column in got.columns]
            shared = [column for column in shared if (edition, column) != ("3.1", "anchor_year_group")]
            assert got.select(shared).equals(expected.select(shared)), name


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_equal_seed_equal_bytes_other_seed_other_bytes(small, tmp_path):
    write_data_set(tmp_path / "again", patients=6, seed=3, edition="2.2")
    write_data_set(tmp_path / "other", patients=6, seed=4, edition="2.2")
    expected, other = digests(small["2.2"]), digests(tmp_path / "other")
    assert digests(tmp_path / "again") == expected
    assert other["mimiciv/icu/chartevents.csv.gz"] != expected["mimiciv/icu/chartevents.csv.gz"]


def test_checksums_name_every_file(small):
    root = small["2.2"] / "mimic_cxr_jpg"
    listed = dict(reversed(line.split(" ", 1)) for line in (root / "SHA256SUMS.txt").read_text().splitlines())
    found = digests(root)
    assert listed == {name: found[name] for name in found if name not in (SYNTHETIC_MARK, "SHA256SUMS.txt")}


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"edition: expected one of 1\.0.*got '2\.3'"):
        write_data_set(tmp_path, patients=2, seed=1, edition="2.3")
    with pytest.raises(ValueError, match="patients"):
        write_data_set(tmp_path, patients=0, seed=1, edition="2.2")


def test_ids_and_keys(root):
    for path, key in (
        ("mimiciv/hosp/patients", "subject_id"), ("mimiciv/hosp/admissions", "hadm_id"),
        ("mimiciv/icu/icustays", "stay_id"), ("mimic_iv_note/note/discharge", "note_id"),
        ("mimic_iv_note/note/radiology", "note_id"),
        ("mimic_cxr_jpg/mimic-cxr-2.0.0-metadata", "dicom_id"), ("mimiciv/hosp/labevents", "labevent_id"),
    ):  # fmt: skip
        assert table(root, path)[key].is_unique().all(), path
    assert table(root, "mimiciv/hosp/patients").height == PATIENTS


def test_stays_have_the_mess_of_real_ones(root):
    stays, admissions = table(root, "mimiciv/icu/icustays"), table(root, "mimiciv/hosp/admissions")
    patients = table(root, "mimiciv/hosp/patients")
    together = stays.join(admissions, on=["subject_id", "hadm_id"], how="inner").join(patients, on="subject_id")
    assert together.height == stays.height
    died = together.filter(pl.col("hospital_expire_flag") == 1)
    in_unit = died["deathtime"] <= died["outtime"]
    gap = admissions.sort("subject_id", "admittime").select(
        days=(pl.col("admittime").shift(-1).over("subject_id") - pl.col("dischtime")).dt.total_hours() / 24
    )["days"]
    counts = {
        "unit transfer": (stays["first_careunit"] != stays["last_careunit"]).sum(),
        "several stays": stays.height - stays["hadm_id"].n_unique(),
        "minor": (patients["anchor_age"] < 18).sum(),
        "no ICU stay": admissions.height - stays["hadm_id"].n_unique(),
        "below 48 h": (stays["los"] < 2).sum(),
        "died in unit": in_unit.sum(),
        "died on the ward": (~in_unit).sum(),
        "died after discharge": patients["dod"].is_not_null().sum() - admissions["deathtime"].is_not_null().sum(),
        "discharged at midnight before death": (died["dischtime"] < died["deathtime"]).sum(),
        "back within 30 days": (gap < 30).sum(),
        "back later": (gap >= 30).sum(),
    }
    assert all(counts.values()), counts
    assert (stays["los"] * 24).mean() < 100 and (stays["los"] * 24).max() <= 300


def test_events_have_the_mess_of_real_ones(root):
    chart, labs = table(root, "mimiciv/icu/chartevents"), table(root, "mimiciv/hosp/labevents")
    stays = table(root, "mimiciv/icu/icustays").select("stay_id", "intime", "outtime", right_hadm="hadm_id")
    joined = chart.join(stays, on="stay_id", how="left")
    numbers = chart.with_columns(number=pl.col("value").cast(pl.Float64, strict=False))
    same_time = (
        chart.filter(pl.col("itemid") == 220045).group_by("stay_id", "charttime").agg(pl.col("value").n_unique())
    )
    of = {
        item: numbers.filter(pl.col("itemid") == item)["number"].drop_nulls()
        for item in (223762, 223761, 220045, 223835)
    }
    counts = {
        "no hadm_id": chart["hadm_id"].null_count(),
        "no stay_id": chart["stay_id"].null_count(),
        "no value": chart["value"].null_count(),
        "before the stay": (joined["charttime"] < joined["intime"]).sum(),
        "after the stay": (joined["charttime"] > joined["outtime"]).sum(),
        "another admission or stay": (joined["hadm_id"] != joined["right_hadm"]).sum(),
        "two values at one time": (same_time["value"] > 1).sum(),
        "fraction of oxygen": (of[223835] <= 1).sum(),
        "outlier": (of[220045] > 500).sum(),
        "labs without hadm_id": labs["hadm_id"].null_count(),
        "urine glucose": (labs["itemid"] == 51478).sum(),
        "text lab": labs.filter(pl.col("itemid") == 51478)["value"].is_in(["NEG", "TR"]).sum(),
    }
    counts |= {f"item {item}": (chart["itemid"] == item).sum() for item in (224639, 226512, 226531, 226707, 226730)}
    counts |= {f"text {word}": (chart["value"] == word).sum() for word in ("ERROR", ">500", "___", "120/80", "NaN")}
    counts |= {f"lab {word}": (labs["value"] == word).sum() for word in ("ERROR", ">500", "___")}
    counts |= {
        f"GCS {text}": (chart["value"] == text).sum()
        for name in ("gcs_eye", "gcs_motor", "gcs_verbal")
        for text in (*CATEGORIES[name], UNKNOWN_GRADE)
    }
    assert all(counts.values()), {name: n for name, n in counts.items() if not n}
    assert 36 < of[223762].median() < 39 and 96 < of[223761].median() < 103
    assert 0.25 < chart["itemid"].is_in([item.itemid for item in ITEMS]).mean() < 0.35


def test_notes_codes_and_radiographs_have_the_mess_of_real_ones(root):
    notes, drg = table(root, "mimic_iv_note/note/discharge"), table(root, "mimiciv/hosp/drgcodes")
    codes, dictionary = table(root, "mimiciv/hosp/diagnoses_icd"), table(root, "mimiciv/hosp/d_icd_diagnoses")
    images = table(root, "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata")
    labels = table(root, "mimic_cxr_jpg/mimic-cxr-2.0.0-chexpert").select(CHEXPERT).to_numpy()
    text = notes["text"].str.to_lowercase()
    apart = images.group_by("study_id").agg(
        pl.col("StudyTime").str.split(".").list.first().n_unique().alias("times"),
        pl.len(),
        (pl.col("ViewPosition") == "AP").sum(),
    )
    counts = {
        "several notes": notes.height - notes["hadm_id"].n_unique(),
        "no history": (~text.str.contains("past medical history:")).sum(),
        "no course": (~text.str.contains("brief hospital course:")).sum(),
        "empty history": text.str.contains(r"past medical history:\s+social history").sum(),
        "endless history": (~text.str.contains("social history")).sum(),
        "carriage returns": text.str.contains("\r\n").sum(),
        "lone carriage returns": text.str.contains("\r[^\n]").sum(),
        "quotes": text.str.contains('"').sum(),
        "ICD-9": (codes["icd_version"] == 9).sum(),
        "ICD-10": (codes["icd_version"] == 10).sum(),
        "unlisted code": (~codes["icd_code"].is_in(dictionary["icd_code"].implode())).sum(),
        "APR": (drg["drg_type"] == "APR").sum(),
        "two HCFA lines": drg.filter(pl.col("drg_type") == "HCFA")["hadm_id"].is_duplicated().sum(),
        "positive": (labels == 1).sum(), "negative": (labels == 0).sum(),
        "uncertain": (labels == -1).sum(), "blank": np.isnan(labels).sum(),
        "several AP images": (apart["ViewPosition"] > 1).sum(),
        "equal times": ((apart["len"] > 1) & (apart["times"] == 1)).sum(),
        "strangers": (~images["subject_id"].is_in(table(root, "mimiciv/hosp/patients")["subject_id"].implode())).sum(),
    }  # fmt: skip
    counts |= {f"view {view}": (images["ViewPosition"] == view).sum() for view in ("AP", "PA", "LATERAL", "LL")}
    assert all(counts.values()), counts
    assert images["StudyTime"].str.contains(r"^\d{1,6}\.\d{3}$").all()
    for row in images.head(20).iter_rows(named=True):
        with Image.open(image_path(root, row)) as image:
            assert (image.mode, image.size) == ("L", (row["Columns"], row["Rows"]))


def with_times(reports: pl.DataFrame) -> pl.DataFrame:
    times = [pl.col(name).cast(pl.String).str.to_datetime(time_unit="us") for name in ("charttime", "storetime")]
    return reports.with_columns(times)


def test_reports_have_the_mess_of_real_ones(root):
    reports = with_times(table(root, "mimic_iv_note/note/radiology"))
    stays = table(root, "mimiciv/icu/icustays")
    images = table(root, "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata")
    text, filed = reports["text"], reports["storetime"] - reports["charttime"]
    during = reports.join(stays.select("subject_id", "intime", "outtime"), on="subject_id")
    during = during.filter(pl.col("charttime").is_between("intime", "outtime"))
    counts = {
        "several of a patient": reports["subject_id"].is_duplicated().sum(),
        "no admission": reports["hadm_id"].null_count(),
        "no storetime": reports.filter(pl.col("charttime").is_not_null())["storetime"].null_count(),
        "no times": reports.filter(pl.col("charttime").is_null())["storetime"].null_count(),
        "filed before the examination": (filed.dt.total_minutes() < 0).sum(),
        "filed after a day": (filed.dt.total_hours() > 24).sum(),
        "no impression": (~text.str.contains("IMPRESSION:")).sum(),
        "no findings": (text.str.contains("IMPRESSION:") & ~text.str.contains("FINDINGS")).sum(),
        "one heading": text.str.contains("FINDINGS AND IMPRESSION:").sum(),
        "neither": (~text.str.contains("IMPRESSION:|FINDINGS:")).sum(),
        "addenda": (reports["note_type"] == "AR").sum(),
        "carriage returns": text.str.contains("\r\n").sum(),
        "filed after the stay": (during["storetime"] > during["outtime"]).sum(),
        "filed in the stay": (during["storetime"] <= during["outtime"]).sum(),
    }
    assert all(counts.values()), counts
    assert 1 <= filed.dt.total_hours().median() <= 12
    assert set(images["subject_id"]) <= set(reports["subject_id"])


def test_reports_filed_early_in_a_stay_show_the_outcome(root):
    """Words of opacity and of severe disease, in reports filed within 48 hours of intime: more of those who die."""
    words = "opacities|consolidation|airspace|infiltrates|metastases|cirrhotic|carcinomatosis|cachexia"
    reports = with_times(table(root, "mimic_iv_note/note/radiology")).select("subject_id", "storetime", "text")
    stays = table(root, "mimiciv/icu/icustays").unique("hadm_id", keep="last", maintain_order=True)
    died = table(root, "mimiciv/hosp/admissions").select("hadm_id", "hospital_expire_flag")
    seen = stays.join(died, on="hadm_id").join(reports, on="subject_id")
    seen = seen.filter((pl.col("storetime") - pl.col("intime")).dt.total_hours().is_between(-12, 48))
    # "no focal consolidation" says the opposite.
    text = pl.col("text").str.to_lowercase().str.replace_all("no focal consolidation", "")
    found = seen.group_by("stay_id").agg(
        severe=text.str.count_matches(words).mean(), died=pl.first("hospital_expire_flag")
    )
    rank = found["severe"].rank().to_numpy()
    of_dead = found["died"].to_numpy() == 1
    n, m = of_dead.sum(), (~of_dead).sum()
    assert n > 20 and m > 60
    assert (rank[of_dead].sum() - n * (n + 1) / 2) / (n * m) > 0.75


def test_broken_images_on_request(tmp_path):
    write_data_set(tmp_path, patients=4, seed=5, edition="2.2", broken_images=2)
    images, broken = table(tmp_path, "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata"), 0
    for row in images.iter_rows(named=True):
        try:
            with Image.open(image_path(tmp_path, row)) as image:
                image.load()
        except OSError:
            broken += 1
            assert row["ViewPosition"] == "AP"
    assert broken == 2


def image_path(root: Path, row: dict) -> Path:
    subject = str(row["subject_id"])
    folder = root / "mimic_cxr_jpg" / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{row['study_id']}"
    return folder / f"{row['dicom_id']}.jpg"


@pytest.fixture(scope="module")
def answers(root) -> pl.DataFrame:
    """Per stay a few plain features of each modality (`ts_`, `img_`, `note_`) and labels read from the tables."""
    admissions = table(root, "mimiciv/hosp/admissions").sort("subject_id", "admittime")
    admissions = admissions.join(table(root, "mimiciv/hosp/patients"), on="subject_id").with_columns(
        readmission=(
            pl.col("admittime").shift(-1).over("subject_id") - pl.col("dischtime") < pl.duration(days=30)
        ).fill_null(False)
        | (pl.col("dod") - pl.col("dischtime").dt.date() < pl.duration(days=30)).fill_null(False)
    )
    stays = table(root, "mimiciv/icu/icustays").unique("hadm_id", keep="last", maintain_order=True)
    stays = stays.join(admissions, on=["subject_id", "hadm_id"]).with_columns(long_stay=pl.col("los") > 3)
    chart = table(root, "mimiciv/icu/chartevents").with_columns(number=pl.col("value").cast(pl.Float64, strict=False))
    chart = chart.filter(pl.col("itemid").is_in([220210, 223835, 220045, 224639, 223762]))
    series = chart.group_by("stay_id", name=pl.format("ts_{}", "itemid")).agg(pl.col("number").median())
    series = series.pivot("name", index="stay_id", values="number").sort("stay_id")
    notes = table(root, "mimic_iv_note/note/discharge").group_by("hadm_id").agg(
        note_s=pl.col("text").str.count_matches("metastatic|cirrhosis|hospice|transplant|malnutrition").max(),
        note_c=pl.col("text").str.count_matches("dialysis|oxygen|chronic heart|nursing|frequent").max(),
        note_d=pl.col("text").str.count_matches("operating|postoperative|drain|incision").max(),
    )  # fmt: skip
    images = table(root, "mimic_cxr_jpg/mimic-cxr-2.0.0-metadata").filter(pl.col("ViewPosition") == "AP")
    time = pl.col("StudyTime").cast(pl.Float64).cast(pl.Int64).cast(pl.String).str.zfill(6)
    images = images.with_columns(
        time=(pl.col("StudyDate").cast(pl.String) + time).str.to_datetime("%Y%m%d%H%M%S", time_unit="us")
    )
    seen = stays.select("subject_id", "stay_id", "intime", "outtime").join(images, on="subject_id").filter(
        pl.col("time").is_between("intime", "outtime")
    ).sort("time").unique("stay_id", keep="last", maintain_order=True)  # fmt: skip
    pixels = [np.asarray(Image.open(image_path(root, row)), float) for row in seen.iter_rows(named=True)]
    middle = [
        a[a.shape[0] * 2 // 5 : a.shape[0] * 3 // 5, a.shape[1] * 2 // 5 : a.shape[1] * 3 // 5].mean() for a in pixels
    ]
    seen = seen.select("stay_id", "study_id", img_s=pl.Series([a.mean() for a in pixels])).with_columns(
        img_c=pl.Series(middle) - pl.col("img_s")
    )
    codes = table(root, "mimiciv/hosp/drgcodes").filter(pl.col("drg_type") == "HCFA").unique("hadm_id", keep="last")
    findings = table(root, "mimic_cxr_jpg/mimic-cxr-2.0.0-chexpert").select("study_id", *CHEXPERT)
    return (
        stays.join(series, on="stay_id", how="left")
        .join(notes, on="hadm_id", how="left")
        .join(seen, on="stay_id", how="left")
        .join(codes.select("hadm_id", surgical=pl.col("drg_code") > 280), on="hadm_id", how="left")
        .join(findings, on="study_id", how="left")
        .with_columns(death=pl.col("hospital_expire_flag") == 1)
    )


def auroc(frame: pl.DataFrame, label: str, *modalities: str) -> float:
    """Of a logistic regression, cross-validated; a missing feature is at its mean."""
    frame = frame.filter(pl.col(label).cast(pl.Int64).is_in([0, 1]))
    features = frame.select(pl.col(f"^({'|'.join(modalities)})_.*$")).to_numpy().astype(float)
    features = np.nan_to_num((features - np.nanmean(features, 0)) / np.nanstd(features, 0))
    answer = frame[label].cast(pl.Int64).to_numpy()
    score = cross_val_predict(LogisticRegression(C=0.5), features, answer, cv=3, method="predict_proba")[:, 1]
    return roc_auc_score(answer, score)


@pytest.mark.parametrize("label", ["death", "readmission", "long_stay"])
def test_answers_need_all_three_modalities(answers, label):
    frame = answers if label != "readmission" else answers.filter(~pl.col("death"))
    full = auroc(frame, label, "ts", "img", "note")
    assert full > 0.8
    for left in (("img", "note"), ("ts", "note"), ("ts", "img")):
        assert full - auroc(frame, label, *left) > 0.02, left


def test_findings_are_in_the_radiograph(answers):
    for label in ("Edema", "Cardiomegaly"):
        full = auroc(answers, label, "ts", "img", "note")
        assert full > 0.8
        assert full - auroc(answers, label, "ts", "note") > 0.1


def test_drg_needs_the_course_and_enough_samples_carry_every_modality(answers):
    assert auroc(answers, "surgical", "note") > 0.9
    assert auroc(answers, "surgical", "ts", "img") < 0.65
    assert 0.55 < answers["img_s"].is_not_null().mean() < 0.85
    assert answers["note_s"].is_not_null().mean() > 0.85
    assert answers["ts_220210"].is_not_null().all()


def test_csv_readers_agree_on_the_notes(root):
    """Quotes, newlines and carriage returns inside a note do not split it."""
    with gzip.open(root / "mimic_iv_note/note/discharge.csv.gz", "rt", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert texts == table(root, "mimic_iv_note/note/discharge")["text"].to_list()


def test_the_newest_group_of_years_is_that_of_editions_3(tmp_path):
    """Its patients are of the last group in other editions; everybody else keeps the group."""
    groups = {}
    for edition in ("2.2", "3.0"):
        write_data_set(tmp_path / edition, patients=120, seed=3, edition=edition)
        groups[edition] = table(tmp_path / edition / "mimiciv", "hosp/patients").sort("subject_id")["anchor_year_group"]
    assert "2020 - 2022" not in set(groups["2.2"])
    moved = groups["2.2"] != groups["3.0"]
    assert set(groups["2.2"].filter(moved)) == {"2017 - 2019"} and set(groups["3.0"].filter(moved)) == {"2020 - 2022"}
    assert 5 < moved.sum() < (groups["2.2"] == "2017 - 2019").sum()
