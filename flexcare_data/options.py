"""The options of the benchmark, and the two protocols.

In: nothing. Out: the names of the tasks, `Options` with one field per option, `PROTOCOLS`. ``flexcare`` is the
published benchmark with its errors, so that results are comparable with the paper; ``corrected`` has them corrected. A
protocol is a set of values: each option can also be set alone.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

PAPER_TASKS = (
    "in_hospital_mortality",
    "length_of_stay",
    "decompensation",
    "phenotyping",
    "readmission",
    "diagnosis",
    "drg",
)
"""The seven tasks of the benchmark in the paper's training order; drg is not trained with the others."""


class Options(BaseModel):
    """Options of cohorts, series, notes and labels. Field descriptions are the documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    death_label: Literal["within_admission", "expire_flag"] = Field(
        "within_admission",
        description="death in hospital: deathtime within [admittime, dischtime] (published; misses deaths whose "
        "dischtime is midnight), or hospital_expire_flag = 1",
    )
    age: Literal["anchor", "at_admission"] = Field(
        "anchor", description="age in years: anchor_age (published), or anchor_age + year(admittime) - anchor_year"
    )
    readmission: Literal["kept_icu_stays", "hospital"] = Field(
        "kept_icu_stays",
        description="readmission within 30 days: a later kept ICU stay, or death (published), or any later hospital "
        "admission, without patients who died in hospital",
    )
    nested: Literal["counted", "ignored"] = Field(
        "counted",
        description="an admission that begins before the discharge of the one asked about: a readmission (published), "
        "or none",
    )
    after_death: Literal["kept", "dropped"] = Field(
        "kept",
        description="admissions that begin after the patient's death (organ donors): samples and readmissions like "
        "others (published), or neither",
    )
    asked: Literal["always", "alive"] = Field(
        "always",
        description="mortality and decompensation: asked also where the patient died before the prediction time "
        "(published), or only of the living; a `dod` more than a year before an admission is no death",
    )
    availability: Literal["charttime", "storetime"] = Field(
        "charttime",
        description="a charted value enters the series when it was observed (published), or when it could be read: the "
        "later of charttime and storetime",
    )
    fluids: Literal["all", "blood"] = Field(
        "all", description="glucose and pH of all fluids, urine included (published), or of blood only"
    )
    fio2: Literal["always_divide", "above_one"] = Field(
        "always_divide", description="FiO2 is always divided by 100 (published), or only if it is above 1"
    )
    height: Literal["as_charted", "inches_converted"] = Field(
        "as_charted",
        description="height as charted, in inches or cm (published), or all in cm; then the last height and weight "
        "before intime are used too",
    )
    gcs_total: Literal["absent", "derived"] = Field(
        "absent",
        description="GCS total: never observed (published), or the sum of the three grades charted at one time",
    )
    capillary_refill: Literal["absent", "mapped"] = Field(
        "absent", description="capillary refill: never observed (published), or from items 223951 and 224308"
    )
    gcs_spellings: Literal["separate", "merged"] = Field(
        "separate",
        description="GCS grades: one column per spelling, so that a default and an observed value of one grade differ "
        "(published), or one column per grade",
    )
    duplicates: Literal["published_max", "mean"] = Field(
        "published_max",
        description="several values of a variable at one time: the maximum, compared as text for heart rate, "
        "respiratory rate and mean blood pressure (published), or the mean, and of GCS grades the worst",
    )
    ranges: Literal["off", "on"] = Field(
        "off",
        description="no plausibility range (published), or outliers removed and the rest clamped to valid values",
    )
    lab_without_hadm: Literal["drop", "by_time"] = Field(
        "drop",
        description="laboratory values without hadm_id: dropped (published), or assigned to the stay by their time",
    )
    edges: Literal["right", "left"] = Field(
        "right", description="an event exactly at hour k is in bin k-1 (published), or in bin k: hour h is [h, h+1)"
    )
    scaler: Literal["mimic3", "train"] = Field(
        "mimic3",
        description="mean and standard deviation of MIMIC-III (published), or fitted on the hours of the train split",
    )
    split: Literal["shuffle42", "hash", "temporal"] = Field(
        "shuffle42",
        description="split by a shuffled list of patients (published), by a keyed hash of subject_id, or by "
        "anchor_year_group",
    )
    sampling: Literal["permutation42", "hash", "all"] = Field(
        "permutation42",
        description="prediction hour of length_of_stay and decompensation: drawn by permutation (published), by a "
        "keyed hash of the stay, or every hour",
    )
    icd: Literal["text", "version_aware"] = Field(
        "text", description="ICD codes: compared as text in any version (published), or within their version"
    )
    icd10: Literal["published", "ccs"] = Field(
        "published", description="ICD-10 codes of the phenotypes: the published list, or complete CCS categories"
    )
    notes: Literal["same_admission", "prior", "radiology", "none"] = Field(
        "same_admission",
        description="note: the discharge summary of the same admission, written after the stay (published); the newest "
        "one of an earlier admission, filed by the prediction time; the newest radiology reports of the patient, filed "
        "by the prediction time (`notes.reports` of them); or none",
    )
    note_cleaning: Literal["strip", "keep"] = Field(
        "strip",
        description="note text: lower case, newlines and punctuation deleted (published), or unchanged with newlines "
        "as spaces",
    )
    bhc_fallback: Literal["off", "on"] = Field(
        "off",
        description="the brief hospital course ends at `medications on admission` (published), or without that "
        "heading at `discharge medications`",
    )
    repeats: Literal["last_line", "newest"] = Field(
        "last_line",
        description="several notes or DRG codes of an admission: the last line of the file (published), or the newest "
        "note, and no admissions with contradicting codes",
    )

    @field_validator("ranges", "bhc_fallback", mode="before")
    @classmethod
    def _yaml_switch(cls, value: Any) -> Any:
        # YAML reads a bare on or off as a boolean.
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value


PROTOCOLS: dict[str, Options] = {
    "flexcare": Options(),
    "corrected": Options(
        death_label="expire_flag",
        age="at_admission",
        readmission="hospital",
        nested="ignored",
        after_death="dropped",
        asked="alive",
        availability="storetime",
        fluids="blood",
        fio2="above_one",
        height="inches_converted",
        gcs_total="derived",
        capillary_refill="mapped",
        gcs_spellings="merged",
        duplicates="mean",
        ranges="on",
        lab_without_hadm="by_time",
        edges="left",
        scaler="train",
        split="hash",
        sampling="hash",
        icd="version_aware",
        icd10="ccs",
        note_cleaning="keep",
        bhc_fallback="on",
        repeats="newest",
    ),
}


def resolve(protocol: str, overrides: dict[str, Any]) -> Options:
    """Options of ``protocol``, overridden by ``overrides``. Raises pydantic's ValidationError on a wrong override."""
    return Options.model_validate(PROTOCOLS[protocol].model_dump() | overrides)


def cautions(options: Options) -> list[str]:
    """Values that are allowed together, but probably not meant; one line each."""
    if options.scaler == "train" and options.ranges == "off":
        return [
            "scaler: train without ranges: on: one wrong value can decide the standard deviation of a variable (seen: "
            "407,016 for height because of a single outlier; published 6.2). The report shows such a deviation"
        ]
    return []
