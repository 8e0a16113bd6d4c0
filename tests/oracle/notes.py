"""Sections of the discharge summaries, radiology reports, and which notes a sample gets."""

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


HEADINGS = {
    True: (
        "findings and impression", "findings/impression", "findings", "finding", "impression and recommendations",
        "impression and recommendation", "impression", "impressions", "conclusion", "conclusions",
    ),
    False: (
        "examination", "examinations", "exam", "study", "indication", "indications", "history", "clinical history",
        "clinical information", "clinical indication", "reason for exam", "reason for examination",
        "reason for study", "technique", "comparison", "comparisons", "comparison exam", "contrast", "dose", "dlp",
        "procedure", "procedures", "procedure details", "operators", "anesthesia", "medications",
        "fluoroscopy time and dose", "recommendation", "recommendations", "recommendation(s)", "notification",
        "notifications", "notification(s)", "addendum", "wet read",
    ),
}  # fmt: skip
"""Headings of parts that are read (True) and of others, in lower case."""


def heading_at(text: str, place: int) -> tuple[bool, int] | None:
    """Whether the heading that begins at ``place`` is of a part that is read, and where its text begins."""
    begins_line = text[:place].rsplit("\n", 1)[-1].strip(" \t") == ""
    if not begins_line and not text[place - 1].isspace():
        return None
    for used, names in HEADINGS.items():
        for name in names:
            written = text[place : place + len(name)]
            rest = text[place + len(name) :].lstrip(" \t")
            same = written.lower() == name if begins_line else written == name.upper()
            if same and rest.startswith(":"):
                return used, len(text) - len(rest) + 1
    return None


def build_reports(root: Path | None, options: dict[str, str]) -> list[dict]:
    """Radiology reports in file order with their cleaned findings and impression."""
    out = []
    for order, row in enumerate(rows(root, "note/radiology")):
        text = row["text"].replace("\r\n", "\n").replace("\r", "\n")
        headings = []
        place = 0
        while place < len(text):
            found = heading_at(text, place)
            if found:
                headings.append((place, *found))
                place = found[1]
            else:
                place += 1
        parts = []
        for number, (_, used, start) in enumerate(headings):
            end = headings[number + 1][0] if number + 1 < len(headings) else len(text)
            part = text[start:end].strip()
            if used:
                parts.append(cleaned(part if options["note_cleaning"] == "keep" else part.lower(), options))
        out.append(
            {
                "order": order,
                "note_id": row["note_id"],
                "subject_id": int(row["subject_id"]),
                "hadm_id": int(row["hadm_id"]) if row["hadm_id"] else None,
                "charttime": time(row["charttime"]),
                "storetime": time(row["storetime"]),
                "text": " ".join(part for part in parts if part) or None,
            }
        )
    return out


def readable(note: dict) -> datetime | None:
    """When a note could be read: at the later of its two times."""
    return max((moment for moment in (note["charttime"], note["storetime"]) if moment is not None), default=None)


def newest_reports(reports: list[dict], subject: int, moment: datetime, n: int) -> str | None:
    """Ids of the ``n`` newest reports of the patient with a text that could be read by ``moment``, newest first."""
    known = []
    for report in reports:
        if report["subject_id"] == subject and report["text"] is not None:
            since = readable(report)
            if since is not None and since <= moment:
                known.append((since, report["order"], report["note_id"]))
    known.sort(reverse=True)
    return " ".join(name for _, _, name in known[:n]) or None


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
        filed = readable(note)
        if note["hadm_id"] in begun and filed is not None and filed <= moment and note[section] is not None:
            known.append((begun[note["hadm_id"]], filed, note["order"], note["note_id"]))
    return max(known)[-1] if known else None
