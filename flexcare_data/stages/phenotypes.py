"""ICD codes to the 25 phenotypes of each stay.

In: diagnoses_icd, d_icd_diagnoses, STAYS. Out: one row per stay with a known diagnosis: stay_id and 25 labels.
The codes are in `resources/`: the published list (Harutyunyan 2019; its ICD-10 side is a back-translation that lacks
common codes) and a complete ICD-10 list by the same CCS categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from flexcare_data.package_files import package_file
from flexcare_data.schema import PHENOTYPES

if TYPE_CHECKING:
    from flexcare_data.options import Options


def _published() -> pl.DataFrame:
    return pl.read_csv(
        package_file("flexcare_data/resources/phenotype_codes.csv"), schema_overrides={"code_or_prefix": pl.String}
    )


def code_list(options: Options) -> pl.DataFrame:
    """phenotype, icd_version, code_or_prefix (a trailing `$` marks an exact code) under option `icd10`."""
    codes = _published().select("phenotype", "icd_version", "code_or_prefix")
    if options.icd10 == "ccs":
        complete = pl.read_csv(
            package_file("flexcare_data/resources/phenotype_codes_icd10_ccs.csv"),
            schema_overrides={"code_or_prefix": pl.String},
        )
        codes = pl.concat([codes.filter(pl.col("icd_version") == 9), complete.select(codes.columns)])
    return codes


def codes_of_phenotypes(d_icd_diagnoses: pl.DataFrame, options: Options) -> pl.DataFrame:
    """The dictionary's codes of each phenotype: phenotype, icd_code, icd_version; unique rows.

    Prefixes are expanded over the dictionary rows of their own version; codes outside the dictionary are ignored.
    """
    known = d_icd_diagnoses.select("icd_code", pl.col("icd_version").cast(pl.Int64)).unique()
    found = []
    for phenotype, version, code in code_list(options).iter_rows():
        text = pl.col("icd_code")
        match = text == code[:-1] if code.endswith("$") else text.str.starts_with(code)
        found.append(known.filter((pl.col("icd_version") == version) & match).with_columns(phenotype=pl.lit(phenotype)))
    return pl.concat(found).select("phenotype", "icd_code", "icd_version").unique().sort(pl.all())


def build_phenotypes(
    diagnoses: pl.DataFrame, d_icd_diagnoses: pl.DataFrame, stays: pl.DataFrame, options: Options
) -> pl.DataFrame:
    """stay_id and one 0/1 column per phenotype, for the stays with a diagnosis whose code is in the dictionary.

    Codes are compared as text in any version (published), or within their version (option `icd`).
    """
    dictionary = d_icd_diagnoses.select("icd_code").unique()
    own = stays.select("stay_id", "subject_id", "hadm_id").join(
        diagnoses, on=["subject_id", "hadm_id"], how="inner", validate="1:m"
    )
    own = own.join(dictionary, on="icd_code", how="semi")
    key = ["icd_code"] if options.icd == "text" else ["icd_code", "icd_version"]
    codes = codes_of_phenotypes(d_icd_diagnoses, options).select("phenotype", *key).unique()
    hits = own.select("stay_id", *key).unique().join(codes, on=key, how="inner")
    labels = own.select("stay_id").unique().sort("stay_id")
    by_stay = dict(hits.group_by("phenotype").agg(pl.col("stay_id").unique()).iter_rows())
    return labels.with_columns(
        pl.col("stay_id").is_in(by_stay.get(phenotype, [])).cast(pl.Int64).alias(phenotype) for phenotype in PHENOTYPES
    )
