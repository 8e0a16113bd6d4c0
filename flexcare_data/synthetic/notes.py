"""Discharge summaries.

In: a `Population`. Out: discharge. Words of the past medical history show the factors `note_s` and `note_c`, words of
the hospital course show `note_d`; nothing else in a note depends on the patient. One admission in twelve has no note.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flexcare_data.synthetic.population import Population, generator

_HISTORY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "note_s": (
        ("appendectomy in childhood", "seasonal allergies", "mild eczema", "remote ankle fracture", "migraine"),
        (
            "metastatic cancer",
            "advanced cirrhosis",
            "hospice evaluation",
            "transplant rejection",
            "severe malnutrition",
        ),
    ),
    "note_c": (
        ("hypothyroidism", "gout", "osteoarthritis", "glaucoma", "benign prostate enlargement"),
        (
            "dialysis dependence",
            "home oxygen",
            "chronic heart failure",
            "nursing facility resident",
            "frequent admissions",
        ),
    ),
}
_COURSE = (
    ("treated with antibiotics", "diuresis with good effect", "medical management", "infusion was weaned"),
    ("taken to the operating room", "postoperative course", "surgical drain removed", "incision was clean"),
)
_FILLER_HISTORY = ("hyperlipidemia", "reflux", "anxiety", "cataract", "insomnia", "hernia repair")
_FILLER_COURSE = (
    "The patient was admitted to the intensive care unit", "Electrolytes were repleted", "Family meeting was held",
    "Physical therapy was consulted", 'The patient said "I feel better"', "Code status was discussed",
)  # fmt: skip
# A bar marks the blank that ends many lines of the real notes.
_FRAME = """\
|
Name:  ___                     Unit No:   ___
|
Admission Date:  ___              Discharge Date:   ___
|
Date of Birth:  ___             Sex:   ___
|
Service: MEDICINE
|
Allergies:|
No Known Allergies / Adverse Drug Reactions
|
Attending: ___.
|
Chief Complaint:
{complaint}
|
Major Surgical or Invasive Procedure:
see below
|
History of Present Illness:
___ presented with "{complaint}", brought in by family.|
|
{past}{social}Physical Exam:
VS: T 98.4, BP 120/80, HR 88|
|
Pertinent Results:
___ 06:40AM BLOOD WBC-7.4 Hgb-11.2*|
|
{stay}{drugs}Discharge Medications:
1. Aspirin 81 mg PO DAILY|
|
Discharge Disposition:
Home
|
Discharge Condition:
Alert and interactive.|
|
Followup Instructions:
___
""".replace("|", " ")
_COMPLAINTS = ("dyspnea", "abdominal pain", "altered mental status", "fever", "chest pain", "fall")


def discharge(people: Population, *, seed: int) -> pl.DataFrame:
    """Notes in the order of the file. Defects, each in one to four of a hundred notes:

    no history, an empty one, one that is `None`, a history without an end, no hospital course, a course that ends at
    other words, carriage returns, capital headings, second notes of an admission (with all sections or with none).
    """
    rng = generator(seed, 6)
    admissions = people.admissions.sort("subject_id", "admittime")
    rows = np.flatnonzero(rng.random(admissions.height) < 0.92)
    second = rows[rng.random(len(rows)) < 0.05]
    row = np.concatenate([rows, second])
    sequence = np.concatenate([np.ones(len(rows), int), np.full(len(second), 2)])
    order = np.lexsort((sequence, row))
    row, sequence = row[order], sequence[order]
    notes = admissions[row]
    severe, chronic, surgical = (notes[name].to_numpy() > 0 for name in ("note_s", "note_c", "note_d"))
    trouble = rng.random(len(row))
    trouble = np.where(sequence == 2, np.where(rng.random(len(row)) < 0.5, 2.0, 3.0), trouble)
    texts = [
        _note(rng, bool(s), bool(c), bool(d), float(t))
        for s, c, d, t in zip(severe, chronic, surgical, trouble, strict=True)
    ]
    # Numbered per patient in the order of the file, as in `10000032-DS-21`.
    left = notes["dischtime"].dt.truncate("1d")
    return notes.select(
        note_id=pl.format("{}-DS-{}", "subject_id", pl.int_range(2, pl.len() + 2).over("subject_id")),
        subject_id="subject_id",
        hadm_id="hadm_id",
        note_type=pl.lit("DS"),
        note_seq=pl.int_range(2, pl.len() + 2).over("subject_id"),
        charttime=left,
        storetime=left + pl.Series(sequence).cast(pl.Int64) * pl.duration(days=1, hours=9),
        text=pl.Series(texts),
    )


def _words(rng, pool: tuple[str, ...], n: int) -> list[str]:
    return [pool[k] for k in rng.permutation(len(pool))[:n]]


def _note(rng, severe: bool, chronic: bool, surgical: bool, trouble: float) -> str:
    history = [
        *_words(rng, _HISTORY["note_s"][severe], 3),
        *_words(rng, _HISTORY["note_c"][chronic], 3),
        *_words(rng, _FILLER_HISTORY, 2),
    ]
    history = [history[k] for k in rng.permutation(len(history))]
    course = [*_words(rng, _COURSE[surgical], 3), *_words(rng, _FILLER_COURSE, 2)]
    course = [course[k] for k in rng.permutation(len(course))]
    if trouble >= 3.0:
        return "Addendum:\nSee the summary of this admission. \n \nFollowup Instructions:\n___\n"
    past = "Past Medical History:\n- " + " \n- ".join(history) + " \n \n"
    social = "Social History:\n___\nFamily History:\nNon-contributory. \n \n"
    stay = "Brief Hospital Course:\n# " + ". \n".join(course) + ". \n \n"
    drugs = "Medications on Admission:\n1. Aspirin 81 mg PO DAILY \n2. Senna 8.6 mg PO BID:PRN \n \n"
    if trouble < 0.02:
        past = ""
    elif trouble < 0.03:
        past = "Past Medical History:\n \n \n"
    elif trouble < 0.04:
        past = "Past Medical History:\nNone. \n \n"
    elif trouble < 0.05:
        social = ""
    elif trouble < 0.07:
        stay = ""
    elif trouble < 0.10:
        drugs = ""
    complaint = _words(rng, _COMPLAINTS, 1)[0]
    text = _FRAME.format(complaint=complaint, past=past, social=social, stay=stay, drugs=drugs)
    if 0.10 <= trouble < 0.13:
        text = text.replace("\n", "\r\n")
    elif 0.13 <= trouble < 0.14:
        text = text.replace("- ", "\r- ")
    elif 0.14 <= trouble < 0.17:
        text = text.replace("Past Medical History", "PAST MEDICAL HISTORY").replace("Brief Hospital", "BRIEF HOSPITAL")
    return text
