"""Check the data sets together: whether their editions and patients fit, and which radiographs exist.

In: the `DataSet`s that were found. Out: findings.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import polars as pl

from flexcare_data.config import Config
from flexcare_data.doctor.datasets import DataSet
from flexcare_data.doctor.findings import Report
from flexcare_data.raw import editions
from flexcare_data.raw.files import TITLES, WHERE, RawDataError, count_text
from flexcare_data.raw.notes import read_notes
from flexcare_data.raw.radiographs import is_ap, is_jpeg
from flexcare_data.raw.tables import read_table

_NOTES_SAMPLED = 5_000
_IMAGES_SAMPLED = 256


def check_pairing(report: Report, sets: Mapping[str, DataSet]) -> None:
    marks = {root: found.is_synthetic for root, found in sets.items()}
    if len(set(marks.values())) > 1:
        fabricated = ", ".join(f"raw.{root}" for root, mark in marks.items() if mark)
        report.add(
            "error", "pairing", f"{fabricated} is fabricated, the others are not",
            expected="data sets of one kind", do="set all three folders to real or all to fabricated data",
        )  # fmt: skip
    iv = sets.get("mimiciv")
    others = [root for root in ("mimic_cxr_jpg", "mimic_iv_note") if root in sets]
    if iv is None or not iv.edition.names or iv.is_synthetic or not others:
        return
    edition, titles = iv.edition.names[0], " and ".join(TITLES[root] for root in others)
    if "demo" in edition:
        report.add(
            "warning", "pairing", f"the demo's 100 patients with {titles} of all",
            do="expect few samples with radiographs or notes; for results use a full edition of MIMIC-IV",
        )  # fmt: skip
    elif editions.is_after(edition, "2.0"):
        report.add(
            "warning", "pairing", f"MIMIC-IV {iv.edition.text} with {titles}: since 2.1 other patients are held out",
            expected=f"MIMIC-IV 2.0 for the numbers of the paper ({WHERE['mimiciv']}2.0/)",
            do="nothing to fix: radiographs and notes of patients who were removed are left out and counted",
        )  # fmt: skip
    if editions.is_after(edition, "2.2"):
        report.add(
            "warning", "pairing", f"admissions of 2020-2022 are later than the radiographs ({editions.IMAGE_YEARS})",
            expected="MIMIC-IV up to 2.2 where every stay should be able to have a radiograph or a note",
            do="nothing to fix: those samples lack the modality, and the report shows how many",
        )  # fmt: skip


def check_patients(report: Report, sets: Mapping[str, DataSet]) -> None:
    """Patients of the radiographs and notes that are not in MIMIC-IV, and the other way round."""
    iv = sets.get("mimiciv")
    if iv is None or "patients" not in iv.probes:
        return
    try:
        patients = read_table(iv.folder, "patients", {})["subject_id"].unique()
        _years(report, iv, patients.len())
        if "mimic_cxr_jpg" in sets and "metadata" in sets["mimic_cxr_jpg"].probes:
            metadata = read_table(sets["mimic_cxr_jpg"].folder, "metadata", {})
            _report_overlap(report, "metadata", patients, metadata["subject_id"].unique(), "all rows")
        if "mimic_iv_note" in sets and "discharge" in sets["mimic_iv_note"].probes:
            notes = itertools.islice(read_notes(sets["mimic_iv_note"].folder, {}), _NOTES_SAMPLED)
            ids = pl.Series([note["subject_id"] for note in notes]).cast(pl.Int64, strict=False).drop_nulls().unique()
            _report_overlap(report, "discharge", patients, ids, f"first {_NOTES_SAMPLED:,} notes")
    except RawDataError as error:
        if str(error) not in {finding.found for finding in report.findings}:
            report.add("error", "pairing", str(error))


def _report_overlap(report: Report, name: str, patients: pl.Series, subjects: pl.Series, of: str) -> None:
    if not subjects.len() or not patients.len():
        return
    n = int(subjects.is_in(patients.implode()).sum())
    text = f"{n:,} of {subjects.len():,} patients ({of}) are in MIMIC-IV"
    if n == 0:
        report.add(
            "error", f"pairing of {name}", text, expected="patients in common",
            do="the data sets do not belong together: set the folders of editions that do",
        )  # fmt: skip
    else:
        report.add("info", f"pairing of {name}", f"{text}; the rest is left out and counted")


def _years(report: Report, iv: DataSet, n: int) -> None:
    """Count patients admitted after the last radiograph, by the published groups of years."""
    if "anchor_year_group" not in iv.probes["patients"].columns:
        return
    if late := count_text(iv.probes["patients"].path, b"2020 - 2022"):
        report.add("info", "patients", f"{late:,} of {n:,} are of 2020-2022, after the radiographs and most notes")


def check_radiographs(report: Report, sets: Mapping[str, DataSet], config: Config) -> None:
    """Estimate the share of AP radiographs that exist below files/, from an even sample."""
    cxr = sets.get("mimic_cxr_jpg")
    if cxr is None or "metadata" not in cxr.probes:
        return
    list_them = "flexcare image-list (target image_list) names the files that the tasks need"
    if not (cxr.folder / "files").is_dir():
        report.add(
            "warning" if config.images.allow_missing else "error", "radiographs", f"no folder {cxr.folder / 'files'}",
            expected="files/p10 ... files/p19", do=f"{list_them}; set images.allow_missing to build without",
        )  # fmt: skip
        return
    try:
        metadata = read_table(cxr.folder, "metadata", {}).filter(is_ap())
    except RawDataError:
        return  # reported with the pairing
    sample = metadata.gather_every(max(1, metadata.height // _IMAGES_SAMPLED))
    rows = sample.select("subject_id", "study_id", "dicom_id").iter_rows()
    found = [is_jpeg(cxr.folder, *row) for row in rows]
    missing, broken = found.count(None), found.count(False)
    text = f"{sample.height - missing:,} of {sample.height:,} checked AP radiographs exist"
    if broken:
        report.add(
            "warning", "radiographs", f"{broken} of {sample.height - missing} checked files are not JPEG",
            expected="JPEG files", do="download them again (doctor --checksums=all names them)",
        )  # fmt: skip
    if missing:
        do = list_them if config.images.allow_missing else f"{list_them}; set images.allow_missing for a partial folder"
        report.add("info" if config.images.allow_missing else "warning", "radiographs", text, do=do)
    else:
        report.add("info", "radiographs", text)
