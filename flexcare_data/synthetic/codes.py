"""Diagnosis and DRG codes of the admissions, and the dictionary of diagnoses.

In: a `Population`. Out: diagnoses_icd, d_icd_diagnoses, drgcodes. The code families of the 25 phenotypes are those of
`resources/phenotype_codes.csv`; codes below a family are made by appending digits.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from flexcare_data.package_files import package_file
from flexcare_data.schema import PHENOTYPES
from flexcare_data.synthetic import factors as planted
from flexcare_data.synthetic.population import Population, generator

_FAMILIES = package_file("flexcare_data/resources/phenotype_codes.csv")

OTHER_CODES: dict[int, tuple[tuple[str, str], ...]] = {
    9: (
        ("V707", "Examination of participant in clinical trial"), ("4139", "Other and unspecified angina pectoris"),
        ("2449", "Unspecified acquired hypothyroidism"), ("53081", "Esophageal reflux"),
        ("V1582", "History of tobacco use"), ("0090", "Infectious colitis"), ("E8859", "Fall from other slipping"),
    ),
    10: (
        ("Z87891", "Personal history of nicotine dependence"), ("K219", "Gastro-esophageal reflux disease"),
        ("E039", "Hypothyroidism, unspecified"), ("Z66", "Do not resuscitate"), ("F329", "Major depressive disorder"),
        # Common codes of the phenotypes that the published list lacks.
        ("J9601", "Acute respiratory failure with hypoxia"), ("I480", "Paroxysmal atrial fibrillation"),
        ("E1122", "Type 2 diabetes mellitus with diabetic chronic kidney disease"),
        ("N1830", "Chronic kidney disease, stage 3 unspecified"), ("J90", "Pleural effusion, not elsewhere classified"),
        ("I25110", "Atherosclerotic heart disease with unstable angina pectoris"), ("I160", "Hypertensive urgency"),
    ),
}  # fmt: skip
_UNLISTED = {9: "V8989", 10: "Z8989"}
"""Codes that diagnoses_icd has and the dictionary lacks."""


def d_icd_diagnoses() -> pl.DataFrame:
    """The dictionary: each code family of the phenotypes with two codes below it, and some other codes."""
    listed = _expanded().select(
        "icd_code", "icd_version", long_title=pl.col("phenotype") + ", fabricated code " + pl.col("icd_code")
    )
    others = pl.DataFrame(
        [(code, version, title) for version, codes in OTHER_CODES.items() for code, title in codes],
        schema=["icd_code", "icd_version", "long_title"],
        orient="row",
    )
    return pl.concat([others, listed]).unique(["icd_code", "icd_version"], keep="first").sort("icd_version", "icd_code")


def _expanded() -> pl.DataFrame:
    families = _families()
    parents = families.filter(~pl.col("exact") & (pl.col("icd_code").str.len_chars() < 6))
    return pl.concat([families, *(parents.with_columns(pl.col("icd_code") + digit) for digit in ("0", "9"))])


def _families() -> pl.DataFrame:
    text = pl.read_csv(_FAMILIES, schema_overrides={"code_or_prefix": pl.String})
    return text.select(
        "phenotype",
        "icd_version",
        icd_code=pl.col("code_or_prefix").str.strip_suffix("$"),
        exact=pl.col("code_or_prefix").str.ends_with("$"),
    )


def diagnoses_icd(people: Population, *, seed: int) -> pl.DataFrame:
    """Codes of every admission: one or two for each of its phenotypes, and one to three others.

    One admission in a hundred has only a code that the dictionary lacks, and one in two hundred has none.
    """
    rng = generator(seed, 4)
    admissions = people.admissions
    n = admissions.height
    hidden = {name: admissions[name].to_numpy() for name in planted.FACTORS}
    version = admissions["icd_version"].to_numpy()
    has = rng.random((n, len(PHENOTYPES))) < planted.phenotypes(hidden)
    fate = rng.random(n)
    has[fate < 0.015] = False
    listed = _expanded()
    row, code = [], []
    for k, name in enumerate(sorted(listed["phenotype"].unique())):
        for v in (9, 10):
            pool = listed.filter((pl.col("phenotype") == name) & (pl.col("icd_version") == v))["icd_code"].to_numpy()
            chosen = np.flatnonzero(has[:, k] & (version == v))
            chosen = np.concatenate([chosen, chosen[rng.random(len(chosen)) < 0.25]])
            row.append(chosen)
            code.append(pool[rng.integers(0, len(pool), len(chosen))])
    for v in (9, 10):
        pool = np.array([code_ for code_, _ in OTHER_CODES[v]], object)
        chosen = np.flatnonzero((version == v) & (fate >= 0.015))
        chosen = np.repeat(chosen, rng.integers(1, 4, len(chosen)))
        lost = np.flatnonzero((version == v) & (fate >= 0.005) & (fate < 0.015))
        row += [chosen, lost]
        code += [pool[rng.integers(0, len(pool), len(chosen))], np.full(len(lost), _UNLISTED[v], object)]
    rows, codes = np.concatenate(row), np.concatenate([part.astype(object) for part in code])
    found = pl.DataFrame(
        {"row": rows, "icd_code": codes, "shuffle": rng.random(len(rows))}, schema_overrides={"icd_code": pl.String}
    )
    found = found.unique(["row", "icd_code"], keep="first", maintain_order=True).sort("row", "shuffle")
    return found.select(
        subject_id=admissions["subject_id"].gather(found["row"]),
        hadm_id=admissions["hadm_id"].gather(found["row"]),
        seq_num=pl.int_range(1, pl.len() + 1).over("row"),
        icd_code="icd_code",
        icd_version=admissions["icd_version"].gather(found["row"]),
    )


def drgcodes(people: Population, *, seed: int) -> pl.DataFrame:
    """HCFA and APR codes; one admission in forty has two HCFA lines that disagree, one in twenty has none."""
    rng = generator(seed, 5)
    admissions = people.admissions
    n = admissions.height
    answer = planted.drg({name: admissions[name].to_numpy() for name in planted.FACTORS})
    answer = np.where(rng.random(n) < 0.03, rng.integers(0, len(planted.DRG_CODES), n), answer)
    hcfa = np.flatnonzero(rng.random(n) < 0.95)
    twice = hcfa[rng.random(len(hcfa)) < 0.025]
    apr = np.flatnonzero(rng.random(n) < 0.8)
    wrong = (answer[twice] + 1) % len(planted.DRG_CODES)
    row = np.concatenate([hcfa, twice, apr])
    which = np.concatenate([answer[hcfa], wrong, answer[apr]])
    # The wrong line comes first, as the last one is the sample.
    rank = np.concatenate([np.ones(len(hcfa)), np.zeros(len(twice)), np.full(len(apr), 2)])
    numbers = np.array([code for code, _ in planted.DRG_CODES])[which]
    is_apr = rank == 2
    frame = pl.DataFrame(
        {
            "subject_id": admissions["subject_id"].to_numpy()[row],
            "hadm_id": admissions["hadm_id"].to_numpy()[row],
            "drg_type": np.where(is_apr, "APR", "HCFA"),
            "drg_code": numbers,
            "description": np.array([title for _, title in planted.DRG_CODES], object)[which],
            "drg_severity": np.where(is_apr, rng.integers(1, 5, len(row)), 0),
            "drg_mortality": np.where(is_apr, rng.integers(1, 5, len(row)), 0),
            "row": row,
            "rank": rank,
        },
        schema_overrides={"description": pl.String},
    )
    return (
        frame.sort("row", "rank")
        .with_columns(pl.col("drg_severity", "drg_mortality").replace(0, None))
        .drop("row", "rank")
    )
