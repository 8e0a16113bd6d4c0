"""A three-modality data set from open parts: the MIMIC-IV demo, with open radiographs and notes at invented times.

The assignment of radiographs and notes to patients is made up; only the form is that of MIMIC-CXR-JPG and
MIMIC-IV-Note. Every third radiograph of an ICU stay is taken before the stay, so that windows are exercised.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from flexcare_data.schema import CHEXPERT

_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
_NOTES = ("note_id", "subject_id", "hadm_id", "note_type", "note_seq", "charttime", "storetime", "text")


def link_open_data(open_data: Path, out: Path) -> dict[str, str]:
    """Write mimic_cxr_jpg/ and mimic_iv_note/ below ``out``; returns the three paths of the config section ``raw``."""
    mimiciv = open_data / "mimic-iv-demo-2.2"
    icustays = pl.read_csv(mimiciv / "icu" / "icustays.csv.gz").sort("stay_id").to_dicts()
    admissions = pl.read_csv(mimiciv / "hosp" / "admissions.csv.gz").sort("hadm_id").to_dicts()
    _write_radiographs(open_data / "open-cxr", icustays, out / "mimic_cxr_jpg")
    _write_notes(open_data / "open-notes", admissions, out / "mimic_iv_note")
    return {
        "mimiciv": str(mimiciv),
        "mimic_cxr_jpg": str(out / "mimic_cxr_jpg"),
        "mimic_iv_note": str(out / "mimic_iv_note"),
    }


def _write_radiographs(source: Path, icustays: list[dict], root: Path) -> None:
    with (source / "metadata.csv").open(newline="") as file:
        images = [row for row in csv.DictReader(file) if row["file"].endswith(".jpg")]
    metadata, chexpert = [], []
    # Every radiograph serves several stays under different names, as 43 files are few for 140 stays.
    for i, stay in enumerate(icustays):
        image = images[i % len(images)]
        dicom_id = "-".join(hashlib.sha256(f"{i}".encode()).hexdigest()[start : start + 8] for start in range(0, 40, 8))
        subject_id, study_id = stay["subject_id"], 50_000_000 + i
        taken = _time(stay["intime"]) + timedelta(hours=-5 if i % 3 == 2 else 2, minutes=i)
        date, clock = taken.strftime("%Y%m%d"), taken.strftime("%H%M%S.250").lstrip("0")
        size = (image["height"], image["width"])
        metadata.append((dicom_id, subject_id, study_id, "", image["view"], *size, date, clock, "", "", ""))
        labels = ["", "0.0", "1.0", "-1.0"]
        chexpert.append((subject_id, study_id, *(labels[(i + j * j) % 4] for j in range(len(CHEXPERT)))))
        folder = root / "files" / f"p{str(subject_id)[:2]}" / f"p{subject_id}" / f"s{study_id}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{dicom_id}.jpg").symlink_to(source / image["file"])
    _write_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", _METADATA, metadata)
    _write_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", ("subject_id", "study_id", *CHEXPERT), chexpert)


def _write_notes(source: Path, admissions: list[dict], root: Path) -> None:
    with (source / "discharge_style_adapted.csv").open(newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    rows = []
    for i, admission in enumerate(admissions):
        if i % 4 == 3:
            continue  # a quarter of the admissions have no discharge summary
        charttime = _time(admission["dischtime"]).replace(hour=0, minute=0, second=0)
        stored = charttime + timedelta(hours=30)
        note_id = f"{admission['subject_id']}-DS-{i}"
        ids = (note_id, admission["subject_id"], admission["hadm_id"], "DS", i)
        rows.append((*ids, charttime, stored, texts[i % len(texts)]))
    _write_csv(root / "note" / "discharge.csv.gz", _NOTES, rows)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _write_csv(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
