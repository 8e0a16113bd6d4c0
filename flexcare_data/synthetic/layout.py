"""Path and columns of each fabricated table, by edition.

In: nothing. Out: `EDITIONS`, `tables(edition)`. Columns and their order are those of the published files. Editions
differ in layout, and 3.x in the newest group of years: the same seed gives the same patients in each of them, also
where a real edition has fewer facts (the date of a death after discharge is unknown in 1.0, but fabricated data keeps
it).
"""

from __future__ import annotations

from dataclasses import dataclass

from flexcare_data.schema import CHEXPERT

EDITIONS: tuple[str, ...] = ("1.0", "2.0", "2.1", "2.2", "3.0", "3.1")
"""The editions of MIMIC-IV that can be written."""

WITH_PROVIDERS = ("2.2", "3.0", "3.1")
"""Editions with the provider and caregiver tables and with their columns elsewhere."""

WITH_NEWEST_GROUP = ("3.0", "3.1")
"""Editions with patients of the years 2020 - 2022."""

MARK_TEXT = (
    "SYNTHETIC DATA\n\n"
    "Everything below this folder was fabricated by a random generator (flexcare_data.synthetic).\n"
    "It describes no person. It has the layout of a PhysioNet release and none of its content.\n"
)
"""Content of the file `schema.SYNTHETIC_MARK` in every root."""


@dataclass(frozen=True)
class Layout:
    """One table: its path below the output folder, without `.csv.gz`, and its columns in order."""

    path: str
    columns: tuple[str, ...]


_PATIENTS = "subject_id gender anchor_age anchor_year anchor_year_group dod"
_ADMISSIONS = (
    "subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id admission_location "
    "discharge_location insurance language marital_status race edregtime edouttime hospital_expire_flag"
)
_TRANSFERS = "subject_id hadm_id transfer_id eventtype careunit intime outtime"
_LABEVENTS = (
    "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime value valuenum valueuom "
    "ref_range_lower ref_range_upper flag priority comments"
)
_CHARTEVENTS = "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum valueuom warning"
_HOSP = {
    "labevents": _LABEVENTS,
    "d_labitems": "itemid label fluid category",
    "diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "d_icd_diagnoses": "icd_code icd_version long_title",
    "drgcodes": "subject_id hadm_id drg_type drg_code description drg_severity drg_mortality",
    "services": "subject_id hadm_id transfertime prev_service curr_service",
    "provider": "provider_id",
}
_ICU = {
    "icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "chartevents": _CHARTEVENTS,
    "outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom",
    "d_items": "itemid label abbreviation linksto category unitname param_type lownormalvalue highnormalvalue",
    "caregiver": "caregiver_id",
}
_NOTES = "note_id subject_id hadm_id note_type note_seq charttime storetime text"
_METADATA = (
    "dicom_id subject_id study_id PerformedProcedureStepDescription ViewPosition Rows Columns StudyDate StudyTime "
    "ProcedureCodeSequence_CodeMeaning ViewCodeSequence_CodeMeaning PatientOrientationCodeSequence_CodeMeaning"
)


def tables(edition: str) -> dict[str, Layout]:
    """Every table of ``edition`` of MIMIC-IV with the radiographs and notes that go with it, by name.

    Raises:
        ValueError: for an edition outside `EDITIONS`.

    Example:
        >>> tables("1.0")["admissions"].path, tables("2.2")["admissions"].path
        ('mimiciv/core/admissions', 'mimiciv/hosp/admissions')
    """
    if edition not in EDITIONS:
        raise ValueError(f"edition: expected one of {', '.join(EDITIONS)}, got {edition!r}")
    first = edition == "1.0"
    core = {"patients": _PATIENTS, "admissions": _ADMISSIONS, "transfers": _TRANSFERS}
    found = {name: ("mimiciv/core" if first else "mimiciv/hosp", columns) for name, columns in core.items()}
    found |= {name: ("mimiciv/hosp", columns) for name, columns in _HOSP.items()}
    found |= {name: ("mimiciv/icu", columns) for name, columns in _ICU.items()}
    layouts = {}
    for name, (folder, columns) in found.items():
        names = columns.split()
        if edition not in WITH_PROVIDERS:
            if name in ("provider", "caregiver"):
                continue
            names = [column for column in names if not column.endswith("provider_id") and column != "caregiver_id"]
        if first:  # core/ went and both columns changed with 2.0
            names = ["ethnicity" if column == "race" else column for column in names]
            names += ["loinc_code"] if name == "d_labitems" else []
        layouts[name] = Layout(f"{folder}/{name}", tuple(names))
    cxr = "mimic_cxr_jpg/mimic-cxr-2.0.0-"
    layouts["metadata"] = Layout(f"{cxr}metadata", tuple(_METADATA.split()))
    layouts["chexpert"] = Layout(f"{cxr}chexpert", ("subject_id", "study_id", *CHEXPERT))
    layouts["split"] = Layout(f"{cxr}split", ("dicom_id", "study_id", "subject_id", "split"))
    for name in ("discharge", "radiology"):
        layouts[name] = Layout(f"mimic_iv_note/note/{name}", tuple(_NOTES.split()))
    return layouts
