"""The samples of the seven tasks, with the inputs that each points at and its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from oracle import notes as notes_of
from oracle.deaths import deaths, own_deathtime
from oracle.events import EPSILON, bins, build_events, entering, has_row_until
from oracle.raw import hours, rows
from oracle.stays import (
    build_stays,
    by_years,
    diagnoses,
    has_diagnosis,
    phenotype_codes,
    phenotypes,
    read_admissions,
    shuffle42,
    within,
)

CHEXPERT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
TASKS = (
    "in_hospital_mortality", "length_of_stay", "decompensation", "phenotyping", "readmission", "diagnosis", "drg",
)  # fmt: skip


@dataclass
class Benchmark:
    """Everything read once. ``split`` and ``draw`` replace the published ones where the options say hash."""

    mimiciv: Path
    cxr: Path | None
    note: Path | None
    options: dict[str, str]
    codes: list[dict]
    split: Callable[[int], str] | None = None
    draw: Callable[[str, int, list[int]], int] | None = None
    n_reports: int = 3

    def __post_init__(self):
        self.admissions = read_admissions(self.mimiciv)
        patients = {int(row["subject_id"]): row for row in rows(self.mimiciv, "hosp/patients", "core/patients")}
        self.deaths = deaths(self.admissions, patients)
        self.after_death = {hadm for hadm, found in self.deaths.items() if found["after_death"]}
        self.stays, self.flow = build_stays(self.mimiciv, self.options)
        self.charted, self.tally = build_events(self.mimiciv, self.stays, self.options)
        self.series = {stay_id: entering(rows, self.options) for stay_id, rows in self.charted.items()}
        self.icd, known = diagnoses(self.mimiciv)
        self.covered = phenotype_codes(self.codes, known)
        self.splits = shuffle42(self.admissions)
        if self.options["split"] == "hash":
            self.splits = {subject: self.split(subject) for subject in self.splits}
        if self.options["split"] == "temporal":
            self.splits = by_years(self.mimiciv, self.admissions)
        self.notes = notes_of.build_sections(self.note, self.options)
        with_reports = self.options["notes"] == "radiology"
        self.reports = notes_of.build_reports(self.note, self.options) if with_reports else []
        self.images = read_images(self.cxr)
        self.diagnosed = {s["stay_id"] for s in self.stays if has_diagnosis(s, self.icd, known)}
        self.gridded = [
            s
            for s in self.stays
            if s["stay_id"] in self.diagnosed
            and s["los_hours"] is not None
            and has_row_until(self.series[s["stay_id"]], s["los_hours"])
        ]

    def samples(self, task: str) -> list[dict]:
        """Samples of a task sorted by sample_id; those of subjects without a split are left out."""
        made = {
            "in_hospital_mortality": self.in_hospital_mortality,
            "length_of_stay": self.length_of_stay,
            "decompensation": self.decompensation,
            "phenotyping": self.phenotyping,
            "readmission": self.readmission,
            "diagnosis": self.diagnosis,
            "drg": self.drg,
        }[task]()
        made = [sample for sample in made if sample["subject_id"] in self.splits]
        for sample in made:
            sample["split"] = self.splits[sample["subject_id"]]
            sample.setdefault("label_time", None)
        return sorted(made, key=lambda sample: sample["sample_id"])

    def last_image(self, subject: int, start: datetime | None, end: datetime | None) -> dict | None:
        inside = [i for i in self.images if i["subject_id"] == subject and within(i["time"], start, end)]
        return max(inside, key=lambda i: (i["time"], i["order"])) if inside else None

    def note_of(self, subject: int, hadm: int | None, moment: datetime, section: str) -> str | None:
        if self.options["notes"] == "none":
            return None
        if self.options["notes"] == "same_admission":
            return notes_of.of_admission(self.notes, hadm, section, self.options) if hadm is not None else None
        if self.options["notes"] == "radiology":
            return notes_of.newest_reports(self.reports, subject, moment, self.n_reports)
        start = next((a["admittime"] for a in self.admissions if a["hadm_id"] == hadm), moment)
        return notes_of.earlier(self.notes, self.admissions, subject, start, moment, section)

    def of_stay(self, stay: dict, end: float, image_end: datetime | None, labels: dict, sample_id=None) -> dict:
        image = self.last_image(stay["subject_id"], stay["intime"], image_end)
        moment = image_end or stay["intime"] + timedelta(hours=end)
        return {
            "sample_id": sample_id or str(stay["stay_id"]),
            "subject_id": stay["subject_id"],
            "hadm_id": stay["hadm_id"],
            "stay_id": stay["stay_id"],
            "study_id": image["study_id"] if image else None,
            "period_length": end,
            "n_hours": bins(end),
            "dicom_id": image["dicom_id"] if image else None,
            "note_id": self.note_of(stay["subject_id"], stay["hadm_id"], moment, notes_of.PMH),
            "labels": labels,
        }

    def died_at(self, stay: dict) -> datetime | None:
        return own_deathtime(stay, self.options) or self.deaths[stay["hadm_id"]]["death_time"]

    def known_by_death(self, stay: dict, moment: datetime, label: int) -> datetime | None:
        died = self.died_at(stay)
        return died if label or (died is not None and died < moment) else None

    def in_hospital_mortality(self) -> list[dict]:
        out = []
        for stay in self.gridded:
            if stay["los_hours"] < 48 - EPSILON or not has_row_until(self.series[stay["stay_id"]], 48):
                continue
            image_end = stay["intime"] + timedelta(hours=48)
            died, label = self.died_at(stay), stay["died_in_hospital"]
            if self.options["asked"] == "alive" and died is not None and died < image_end:
                continue
            sample = self.of_stay(stay, 48.0, image_end, {"label": label})
            out.append(sample | {"label_time": self.known_by_death(stay, image_end, label)})
        return out

    def possible_hours(self, stay: dict, latest: float) -> list[int]:
        """Whole hours after 4 h and after the first row of the stay, until ``latest``."""
        first = min(row["hours"] for row in self.series[stay["stay_id"]] if row["hours"] > -EPSILON)
        return [t for t in range(5, max(5, int(latest + EPSILON) + 1)) if t > first and t <= latest + EPSILON]

    def drawn(
        self,
        task: str,
        latest_of: Callable[[dict], float],
        label_of: Callable[[dict, int], int],
        known_at: Callable[[dict, datetime, int], datetime | None],
    ) -> list[dict]:
        possible = []
        for stay in self.gridded:
            for t in self.possible_hours(stay, latest_of(stay)):
                possible.append((str(stay["subject_id"]), stay["stay_id"], t))
        by_id = {stay["stay_id"]: stay for stay in self.gridded}
        possible.sort()
        if self.options["sampling"] == "permutation42":
            first: dict[int, int] = {}
            for place in np.random.RandomState(42).permutation(len(possible)):
                _, stay_id, t = possible[place]
                first.setdefault(stay_id, t)
            chosen = [(stay_id, t, None) for stay_id, t in first.items()]
        elif self.options["sampling"] == "hash":
            of_stay: dict[int, list[int]] = {}
            for _, stay_id, t in possible:
                of_stay.setdefault(stay_id, []).append(t)
            chosen = [(stay_id, self.draw(task, stay_id, times), None) for stay_id, times in of_stay.items()]
        else:
            chosen = [(stay_id, t, f"{stay_id}_{t}") for _, stay_id, t in possible]
        out = []
        for stay_id, t, sample_id in chosen:
            stay = by_id[stay_id]
            image_end = stay["intime"] + timedelta(hours=t)
            label = label_of(stay, t)
            sample = self.of_stay(stay, float(t), image_end, {"label": label}, sample_id)
            out.append(sample | {"label_time": known_at(stay, image_end, label)})
        return out

    def length_of_stay(self) -> list[dict]:
        def label(stay: dict, t: int) -> int:
            days = max(0.0, stay["los_hours"] - t) / 24
            return int(days) if days < 8 else 8 if days < 14 else 9

        def left(stay: dict, moment: datetime, label: int) -> datetime:
            return max(moment, stay["intime"] + timedelta(hours=stay["los_hours"]))

        return self.drawn("length_of_stay", lambda stay: stay["los_hours"], label, left)

    def decompensation(self) -> list[dict]:
        def lived(stay: dict) -> float:
            death = own_deathtime(stay, self.options)
            return float("inf") if death is None else hours(death, stay["intime"])

        def label(stay: dict, t: int) -> int:
            return int(bool(stay["died_in_hospital"]) and lived(stay) - t < 24)

        def latest(stay: dict) -> float:
            until = min(stay["los_hours"], lived(stay))
            died = self.died_at(stay)
            if self.options["asked"] == "alive" and died is not None:
                until = min(until, hours(died, stay["intime"]))
            return until

        return self.drawn("decompensation", latest, label, self.known_by_death)

    def phenotyping(self) -> list[dict]:
        return [
            self.of_stay(s, s["los_hours"], s["outtime"], phenotypes(s, self.icd, self.covered, self.options))
            for s in self.gridded
        ]

    def readmission(self) -> list[dict]:
        return [
            self.of_stay(s, s["los_hours"], s["outtime"], {"label": s["readmission"]})
            | {"label_time": s["readmission_time"]}
            for s in self.gridded
            if s["readmission"] is not None
        ]

    def diagnosis(self) -> list[dict]:
        labels = {int(row["study_id"]): row for row in rows(self.cxr, "mimic-cxr-2.0.0-chexpert")}
        of_study: dict[int, dict] = {}
        for image in self.images:
            if image["time"] is not None and image["study_id"] in labels:
                of_study[image["study_id"]] = image
        out = []
        for study, image in of_study.items():
            subject, moment = image["subject_id"], image["time"]
            if self.options["after_death"] == "dropped" and any(
                a["subject_id"] == subject
                and a["hadm_id"] in self.after_death
                and within(moment, a["admittime"], a["dischtime"])
                for a in self.admissions
            ):
                continue
            stay_id = period = None
            for stay in self.gridded:
                if stay["subject_id"] != subject or not within(moment, stay["intime"], stay["outtime"]):
                    continue
                end = round(hours(moment, stay["intime"]), 6)
                series = self.series[stay["stay_id"]]
                if end <= 4:
                    continue
                if end < series[0]["hours"] or not any(-EPSILON < row["hours"] <= end + EPSILON for row in series):
                    continue
                stay_id, period = stay["stay_id"], end
            around = [
                a
                for a in self.admissions
                if a["subject_id"] == subject and within(moment, a["admittime"], a["dischtime"])
            ]
            with_note = [
                a for a in around if notes_of.of_admission(self.notes, a["hadm_id"], notes_of.PMH, self.options)
            ]
            hadm = (with_note or around)[-1]["hadm_id"] if around else None
            marks = {}
            for name in CHEXPERT:
                text = labels[study][name]
                marks[name] = int(float(text)) if text else -2
            out.append(
                {
                    "sample_id": str(study),
                    "subject_id": subject,
                    "hadm_id": hadm,
                    "stay_id": stay_id,
                    "study_id": study,
                    "period_length": period,
                    "n_hours": None if period is None else bins(period),
                    "dicom_id": image["dicom_id"],
                    "note_id": self.note_of(subject, hadm, moment, notes_of.PMH),
                    "labels": marks,
                }
            )
        return out

    def drg(self) -> list[dict]:
        codes: dict[int, list[int]] = {}
        for row in rows(self.mimiciv, "hosp/drgcodes"):
            if row["drg_type"] == "HCFA":
                codes.setdefault(int(row["hadm_id"]), []).append(int(row["drg_code"]))
        chosen = []
        for admission in self.admissions:
            hadm = admission["hadm_id"]
            if self.options["after_death"] == "dropped" and hadm in self.after_death:
                continue
            course = notes_of.of_admission(self.notes, hadm, notes_of.BHC, self.options)
            if course is None or hadm not in codes:
                continue
            if self.options["repeats"] == "newest" and len(set(codes[hadm])) > 1:
                continue
            chosen.append(admission)
        ranks = {code: rank for rank, code in enumerate(sorted({c for a in chosen for c in codes[a["hadm_id"]]}))}
        gridded = {stay["hadm_id"]: stay for stay in self.gridded}
        out = []
        for admission in chosen:
            hadm, subject = admission["hadm_id"], admission["subject_id"]
            image = self.last_image(subject, admission["admittime"], admission["dischtime"])
            stay = gridded.get(hadm)
            out.append(
                {
                    "sample_id": str(hadm),
                    "subject_id": subject,
                    "hadm_id": hadm,
                    "stay_id": stay["stay_id"] if stay else None,
                    "study_id": image["study_id"] if image else None,
                    "period_length": stay["los_hours"] if stay else None,
                    "n_hours": bins(stay["los_hours"]) if stay else None,
                    "dicom_id": image["dicom_id"] if image else None,
                    "note_id": self.note_of(
                        subject, hadm, admission["dischtime"] or admission["admittime"], notes_of.BHC
                    ),
                    "labels": {"label": ranks[codes[hadm][-1]]},
                }
            )
        return out


def read_images(root: Path | None) -> list[dict]:
    """AP images in file order with the time of their study (None where it is not a time)."""
    out = []
    for order, row in enumerate(rows(root, "mimic-cxr-2.0.0-metadata")):
        if row["ViewPosition"] != "AP":
            continue
        clock = row["StudyTime"].split(".")[0].rjust(6, "0") if row["StudyTime"] else ""
        try:
            moment = datetime.strptime(row["StudyDate"] + clock, "%Y%m%d%H%M%S")
        except ValueError:
            moment = None
        image = {"order": order, "dicom_id": row["dicom_id"], "time": moment}
        out.append(image | {"subject_id": int(row["subject_id"]), "study_id": int(row["study_id"])})
    return out
