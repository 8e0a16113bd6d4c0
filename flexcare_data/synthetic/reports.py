"""Radiology reports.

In: a `Population` and its `Radiographs`. Out: radiology. Every study of the chest has a report, and most admissions
have one or two of other examinations, begun within a few hours. Words of a report show the factors `img_s` and `img_c`
of the radiograph, and `note_s` and `note_c` of the admission, which a discharge summary shows only after the stay.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flexcare_data.synthetic import factors as planted
from flexcare_data.synthetic.images import Radiographs
from flexcare_data.synthetic.population import DAY, HOUR, Population, generator, times

_LUNGS = (
    ("Lungs are clear", "No focal consolidation", "Lung volumes are normal", "Costophrenic angles are sharp"),
    ("Diffuse bilateral opacities", "Dense consolidation", "Extensive airspace disease", "Worsening infiltrates"),
)
_HEART = (
    ("Heart size is normal", "Mediastinal contours are unremarkable", "No vascular congestion"),
    ("Marked cardiomegaly", "Widened mediastinum", "Large cardiac silhouette"),
)
_DISEASE = (
    ("No suspicious mass", "Old healed fracture", "Incidental small cyst", "Prior appendectomy clips"),
    ("Widespread metastases", "Shrunken cirrhotic liver", "Peritoneal carcinomatosis", "Severe cachexia"),
)
_CHRONIC = (
    ("Kidneys enhance symmetrically", "Mild degenerative change", "Thyroid is atrophic", "Joint spaces are kept"),
    ("Atrophic kidneys with a dialysis catheter", "Chronic pulmonary fibrosis", "Diffuse vascular calcification",
     "Long standing contractures"),
)  # fmt: skip
_FILLER = ("No acute fracture", "Bowel gas pattern is nonspecific", "Study limited by motion", "Rotated patient")
_OTHER = ("CT ABD AND PELVIS WITH CONTRAST", "CT HEAD W/O CONTRAST", "RENAL U.S.", "LIVER OR GALLBLADDER US")
_INDICATIONS = ("dyspnea", "fever", "abdominal pain", "new tube", "altered mental status")
_FACTORS = ("img_s", "img_c", "note_s", "note_c")


def radiology(people: Population, radiographs: Radiographs, *, seed: int) -> pl.DataFrame:
    """Reports in the order of the file, by patient and time.

    Most are filed one to twelve hours after the examination, one in ten up to four days after it. Defects, each in one
    to twelve of a hundred: no impression, no findings, both under one heading, neither, no hadm_id, no storetime, a
    storetime before charttime, no times at all, carriage returns, addenda.
    """
    rng = generator(seed, 10)
    rows = pl.concat([_of_studies(people, radiographs, rng), _of_admissions(people, rng)])
    rows = rows.sort("subject_id", "clock", "exam", maintain_order=True)
    again = rows.with_row_index("_row").filter(pl.Series(rng.random(rows.height) < 0.03))
    addenda = again.with_columns(clock=pl.col("clock") + 2 * HOUR, exam=pl.lit("ADDENDUM"))
    rows = pl.concat([rows.with_row_index("_row"), addenda]).sort("_row", maintain_order=True).drop("_row")
    n = rows.height
    clock = rows["clock"].to_numpy()
    delay = np.where(rng.random(n) < 0.9, rng.uniform(1, 12, n) * HOUR, rng.uniform(1, 4, n) * DAY)
    delay = np.where(rng.random(n) < 0.02, -2.0 * HOUR, delay)
    filed = np.floor((clock + delay) / 60) * 60
    missing = rng.random(n)
    high = {name: rows[name].to_numpy() > 0 for name in _FACTORS}
    trouble = rng.random(n)
    texts = [
        _report(rng, exam, {name: bool(high[name][k]) for name in _FACTORS}, float(trouble[k]))
        for k, exam in enumerate(rows["exam"])
    ]
    kind = pl.when(pl.col("exam") == "ADDENDUM").then(pl.lit("AR")).otherwise(pl.lit("RR"))
    number = pl.int_range(2, pl.len() + 2).over("subject_id")
    with_admission = pl.Series(rng.random(n) < 0.88)
    return rows.select(
        note_id=pl.format("{}-{}-{}", "subject_id", kind, number),
        subject_id="subject_id",
        hadm_id=pl.when(with_admission).then("hadm_id"),
        note_type=kind,
        note_seq=number,
        charttime=times(np.where(missing < 0.01, -np.inf, clock.astype(float))),
        storetime=times(np.where(missing < 0.04, -np.inf, filed)),
        text=pl.Series(texts, dtype=pl.String),
    )


def _of_studies(people: Population, radiographs: Radiographs, rng: np.random.Generator) -> pl.DataFrame:
    """One report per study of the chest. Outside of an admission the factors of the admission are drawn."""
    clock = pl.col("StudyTime").cast(pl.String).str.split(".").list.first().str.zfill(6)
    time = (pl.col("StudyDate").cast(pl.String) + clock).str.to_datetime("%Y%m%d%H%M%S")
    images = radiographs.metadata.select("subject_id", "study_id", "img_s", "img_c", clock=time.dt.epoch("s"))
    studies = images.unique("study_id", keep="first", maintain_order=True)
    admissions = people.admissions.select(
        "subject_id", "hadm_id", "note_s", "note_c",
        admit=pl.col("admittime").dt.epoch("s"), leave=pl.col("dischtime").dt.epoch("s"),
    )  # fmt: skip
    inside = studies.select("study_id", "subject_id", "clock").join(admissions, on="subject_id", how="inner")
    inside = inside.filter(pl.col("clock").is_between("admit", "leave")).unique("study_id", keep="first")
    drawn = planted.draw(rng, studies.height)
    found = studies.join(inside.select("study_id", "hadm_id", "note_s", "note_c"), on="study_id", how="left",
                         maintain_order="left")  # fmt: skip
    return found.select(
        "subject_id", "hadm_id", "clock", pl.lit("CHEST (PORTABLE AP)").alias("exam"), "img_s", "img_c",
        note_s=pl.col("note_s").fill_null(pl.Series(drawn["note_s"])),
        note_c=pl.col("note_c").fill_null(pl.Series(drawn["note_c"])),
    )  # fmt: skip


def _of_admissions(people: Population, rng: np.random.Generator) -> pl.DataFrame:
    """Examinations of other regions, in the emergency room and within the first day of an admission."""
    parts = []
    for share, first, last in ((0.75, -6.0, 1.0), (0.6, 1.0, 24.0)):
        chosen = people.admissions.filter(pl.Series(rng.random(people.admissions.height) < share))
        begin = chosen["admittime"].dt.epoch("s").to_numpy()
        clock = np.floor(begin + rng.uniform(first, last, chosen.height) * HOUR).astype(np.int64)
        exam = np.array(_OTHER)[rng.integers(0, len(_OTHER), chosen.height)]
        parts.append(
            chosen.select(
                "subject_id", "hadm_id", pl.Series("clock", clock), pl.Series("exam", exam, dtype=pl.String),
                *_FACTORS,
            )
        )  # fmt: skip
    return pl.concat(parts)


def _report(rng: np.random.Generator, exam: str, high: dict[str, bool], trouble: float) -> str:
    if exam == "ADDENDUM":
        return " \nADDENDUM:  The wording above is unchanged. ___ discussed it by telephone. \n"
    chest = exam.startswith("CHEST")
    seen = _some(rng, _LUNGS[high["img_s"]], 2) + _some(rng, _HEART[high["img_c"]], 2) if chest else []
    said = _some(rng, _DISEASE[high["note_s"]], 2) + _some(rng, _CHRONIC[high["note_c"]], 2)
    findings = ". \n".join([*seen, *said[::2], *_some(rng, _FILLER, 1)])
    impression = ". \n".join([*(seen[::2]), *said[1::2]])
    parts = f"FINDINGS: \n \n{findings}. \n \nIMPRESSION: \n \n{impression}. \n"
    if trouble < 0.12:
        parts = f"FINDINGS:  {findings}. \n"
    elif trouble < 0.20:
        parts = f"IMPRESSION:  {impression}. \n"
    elif trouble < 0.25:
        parts = f"FINDINGS AND IMPRESSION: \n{findings}. \n{impression}. \n"
    elif trouble < 0.28:
        parts = "PROCEDURE:  The line was placed under ultrasound guidance. \n"
    indication = _INDICATIONS[rng.integers(len(_INDICATIONS))]
    notified = "\nNOTIFICATION:  ___ by telephone. \n" if rng.random() < 0.1 else ""
    text = (
        f" \nEXAMINATION:  {exam}\n \nINDICATION:  ___ with {indication}  // ? change\n \nCOMPARISON:  ___ \n \n{parts}"
    )
    text += notified
    return text.replace("\n", "\r\n") if 0.28 <= trouble < 0.30 else text


def _some(rng: np.random.Generator, pool: tuple[str, ...], n: int) -> list[str]:
    return [pool[k] for k in rng.permutation(len(pool))[:n]]
