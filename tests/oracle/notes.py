"""Sections of the discharge summaries, and which note a sample gets."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from oracle.raw import rows, time

PUNCTUATION = set("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
PMH, BHC = "past_medical_history", "brief_hospital_course"


def between(text: str, start: str, end: str) -> str | None:
    """The text between the first ``start`` and the next ``end``, stripped; None where either is missing."""
    begins = text.lower().find(start)
    if begins < 0:
        return None
    begins += len(start)
    ends = text.lower().find(end, begins)
    return None if ends < 0 else text[begins:ends].strip()


def cleaned(section: str | None, options: dict[str, str]) -> str | None:
    if section is None:
        return None
    if options["note_cleaning"] == "keep":
        section = section.replace("\n", " ")
    else:
        section = "".join(letter for letter in section.replace("\n", "") if letter not in PUNCTUATION)
    return None if section.lower() in ("", "nan", "null") else section


def build_sections(root: Path | None, options: dict[str, str]) -> list[dict]:
    """Notes in file order with their two sections."""
    out = []
    for order, row in enumerate(rows(root, "note/discharge")):
        text = row["text"].replace("\r\n", "\n").replace("\r", "\n")
        if options["note_cleaning"] == "strip":
            text = text.lower()
        course = between(text, "brief hospital course:", "medications on admission")
        if course is None and options["bhc_fallback"] == "on":
            course = between(text, "brief hospital course:", "discharge medications")
        out.append(
            {
                "order": order,
                "note_id": row["note_id"],
                "subject_id": int(row["subject_id"]),
                "hadm_id": int(row["hadm_id"]) if row["hadm_id"] else None,
                "charttime": time(row["charttime"]),
                "storetime": time(row["storetime"]),
                PMH: cleaned(between(text, "past medical history:", "social history"), options),
                BHC: cleaned(course, options),
            }
        )
    return out


def of_admission(notes: list[dict], hadm_id: int, section: str, options: dict[str, str]) -> str | None:
    """note_id of the admission's note whose section is the input."""
    own = [note for note in notes if note["hadm_id"] == hadm_id]
    if options["repeats"] == "newest":
        own.sort(key=lambda note: (note["charttime"] or datetime.min, note["order"]))
    if section == BHC or options["repeats"] == "newest":
        own = [note for note in own if note[section] is not None]
    return own[-1]["note_id"] if own and own[-1][section] is not None else None


def earlier(notes: list[dict], admissions: list[dict], subject: int, start, moment, section: str) -> str | None:
    """note_id of the newest summary with the section, of an admission that began before ``start``, filed by ``moment``.

    Newest: of the latest admission, then filed last.
    """
    begun = {a["hadm_id"]: a["admittime"] for a in admissions if a["subject_id"] == subject and a["admittime"] < start}
    known = []
    for note in notes:
        filed = note["storetime"] or note["charttime"]
        if note["hadm_id"] in begun and filed is not None and filed <= moment and note[section] is not None:
            known.append((begun[note["hadm_id"]], filed, note["order"], note["note_id"]))
    return max(known)[-1] if known else None
