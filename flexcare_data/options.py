"""The options of the benchmark and the two presets of them that have a name.

In: nothing. Out: the names of the tasks, `Options` with one field per option, `PROTOCOLS`. ``flexcare`` is the
published benchmark with its slips, so that numbers can be compared with the paper; ``corrected`` mends what is known to
be wrong. A protocol is a preset and nothing else: every option can be set alone.
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
    """How cohorts, series, notes and labels are derived. Field descriptions are the option's documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    death_label: Literal["within_admission", "expire_flag"] = Field(
        "within_admission",
        description="died_in_hospital: deathtime within [admittime, dischtime] (published; misses deaths whose "
        "dischtime is stamped at midnight), or hospital_expire_flag = 1",
    )
    age: Literal["anchor", "at_admission"] = Field(
        "anchor", description="age in years: anchor_age, or anchor_age + year(admittime) - anchor_year"
    )
    readmission: Literal["kept_icu_stays", "hospital"] = Field(
        "kept_icu_stays",
        description="what counts as readmission within 30 days: the next kept ICU stay or death (published), or any "
        "later hospital admission, in-hospital deaths excluded",
    )
    fluids: Literal["all", "blood"] = Field(
        "all", description="glucose and pH from every fluid (published, urine too), or from blood only"
    )
    fio2: Literal["always_divide", "above_one"] = Field(
        "always_divide", description="FiO2 / 100 always (published), or only where the value is above 1"
    )
    height: Literal["as_charted", "inches_converted"] = Field(
        "as_charted",
        description="height as charted, inches among cm (published), or inches * 2.54 with the last height and "
        "weight before intime carried in",
    )
    gcs_total: Literal["absent", "derived"] = Field(
        "absent", description="never filled (published), or the sum of the three grades charted at one time"
    )
    capillary_refill: Literal["absent", "mapped"] = Field(
        "absent", description="never filled (published), or from items 223951 and 224308"
    )
    gcs_spellings: Literal["separate", "merged"] = Field(
        "separate",
        description="one column per spelling (published: a filled default and an observed value of the same grade "
        "differ), or observed text in the numbered column of its grade",
    )
    duplicates: Literal["published_max", "mean"] = Field(
        "published_max",
        description="several values of a variable at one time: the maximum, as text for heart rate, respiratory rate "
        "and mean blood pressure (published), or mean of numbers and worst GCS grade",
    )
    ranges: Literal["off", "on"] = Field(
        "off", description="no plausibility range (published), or outliers null and the rest clamped to valid values"
    )
    lab_without_hadm: Literal["drop", "by_time"] = Field(
        "drop", description="labs without hadm_id are dropped (published) or linked to the stay they lie in"
    )
    edges: Literal["right", "left"] = Field(
        "right", description="an event at a full hour k falls in bin k-1 (published), or hour h is [h, h+1)"
    )
    scaler: Literal["mimic3", "train"] = Field(
        "mimic3", description="fixed MIMIC-III means (published), or fitted on the hourly rows of the train split"
    )
    split: Literal["shuffle42", "hash"] = Field(
        "shuffle42", description="shuffled list of patients (published), or a keyed hash of subject_id"
    )
    sampling: Literal["permutation42", "hash", "all"] = Field(
        "permutation42",
        description="the hour asked in length_of_stay and decompensation: drawn by permutation (published), by a "
        "keyed hash of the stay, or every hour",
    )
    icd: Literal["text", "version_aware"] = Field(
        "text", description="codes matched by their text whatever the version (published), or within their version"
    )
    icd10: Literal["published", "ccs"] = Field(
        "published", description="the ICD-10 side of the phenotypes: the published list, or complete CCS code families"
    )
    notes: Literal["same_admission", "prior", "none"] = Field(
        "same_admission",
        description="which discharge summary: of the same admission, written after the stay (published), the newest "
        "of an earlier admission (known at the prediction time), or none",
    )
    note_cleaning: Literal["strip", "keep"] = Field(
        "strip",
        description="lower case, newlines and punctuation deleted (published), or case and punctuation kept and "
        "newlines turned into spaces",
    )
    bhc_fallback: Literal["off", "on"] = Field(
        "off",
        description="brief hospital course ends at `medications on admission` only, or else at `discharge medications`",
    )
    repeats: Literal["last_line", "newest"] = Field(
        "last_line",
        description="several notes or DRG codes of an admission: the last line of the file (published), or the newest "
        "note, and admissions with contradicting codes left out",
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
    """Options of ``protocol`` with ``overrides`` on top. Raises pydantic's ValidationError on a wrong override."""
    return Options.model_validate(PROTOCOLS[protocol].model_dump() | overrides)
