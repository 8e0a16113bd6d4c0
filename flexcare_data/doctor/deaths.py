"""Check the deaths of the patients: what does not fit together, and which option leaves it out.

In: the `DataSet` of MIMIC-IV. Out: findings with counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from flexcare_data.doctor.datasets import DataSet
from flexcare_data.doctor.findings import Report
from flexcare_data.options import Options
from flexcare_data.raw.files import RawDataError
from flexcare_data.raw.tables import read_table
from flexcare_data.stages.admissions import build_admissions, inconsistencies


def check_deaths(report: Report, sets: Mapping[str, DataSet], options: Options) -> None:
    """Count wrong dates of death, admissions after the death and nested admissions."""
    iv = sets.get("mimiciv")
    if iv is None or not {"patients", "admissions"} <= set(iv.probes):
        return
    try:
        patients, admissions = (read_table(iv.folder, name, {}) for name in ("patients", "admissions"))
    except RawDataError as error:
        if str(error) not in {finding.found for finding in report.findings}:
            report.add("error", "deaths", str(error))
        return
    numbers = inconsistencies(admissions, patients, build_admissions(admissions, patients))
    published = "; the published label of readmission (`readmission: kept_icu_stays`) does"
    for column, of, use in (
        ("dod", "patients", f"do not use it{published}"),
        ("deathtime", "admissions", "use it for its own admission only, and not if it is a year before that"),
    ):
        if numbers[column]:
            report.add(
                "warning", of, f"{numbers[column]:,} {of} with a {column} more than a year before an admission",
                expected="none: the patients were alive",
                do=f"nothing to fix: the options `asked` and `after_death` {use}",
            )  # fmt: skip
    for what, text, option, value in (
        ("after_death", "begin after the death of the patient (organ donors)", "after_death", "dropped"),
        ("nested", "begin before the discharge from an earlier one", "nested", "ignored"),
    ):
        if numbers[what]:
            leaves_out = f"left out by the option `{option}: {value}`"
            now = getattr(options, option)
            state = "set" if now == value else f"now `{now}`"
            report.add("info", "admissions", f"{numbers[what]:,} {text}; {leaves_out} ({state})")
