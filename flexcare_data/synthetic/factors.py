"""Hidden factors of an admission, and how every label follows from them.

In: a random generator. Out: factors per admission and the probabilities of its labels. Three modalities show two
factors each, and no factor shows in two of them, so a model without a modality cannot predict that part of a label:

    severity   chronicity   shown by
    ts_s       ts_c         the charted series (breathing, oxygen, pulse; weight, temperature, voice)
    img_s      img_c        the radiograph (overall opacity; brightness of its middle)
    note_s     note_c       the past medical history (words)
               note_d       the hospital course (words), for the DRG code alone

A factor is near -1 or near +1: a small model learns to separate the two from a few hundred samples.
"""

from __future__ import annotations

import numpy as np

from flexcare_data.schema import CHEXPERT, PHENOTYPES

FACTORS: tuple[str, ...] = ("ts_s", "ts_c", "img_s", "img_c", "note_s", "note_c", "note_d")
_SPREAD = 0.3

DRG_CODES: tuple[tuple[int, str], ...] = (
    (64, "INTRACRANIAL HEMORRHAGE OR CEREBRAL INFARCTION W MCC"),
    (189, "PULMONARY EDEMA & RESPIRATORY FAILURE"),
    (207, "RESPIRATORY SYSTEM DIAGNOSIS W VENTILATOR SUPPORT 96+ HOURS"),
    (219, "CARDIAC VALVE & OTH MAJ CARDIOTHORACIC PROC W/O CARD CATH W MCC"),
    (291, "HEART FAILURE & SHOCK W MCC"),
    (329, "MAJOR SMALL & LARGE BOWEL PROCEDURES W MCC"),
    (871, "SEPTICEMIA OR SEVERE SEPSIS W/O MV 96+ HOURS W MCC"),
    (981, "EXTENSIVE O.R. PROCEDURE UNRELATED TO PRINCIPAL DIAGNOSIS W MCC"),
)
"""The code is chosen by three bits: ``4 * (note_d > 0) + 2 * (img_c > 0) + (ts_s > 0)``."""

_STRENGTH = 2.6


def draw(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    """Factors of ``n`` admissions, each (n,), independent of one another."""
    side = rng.integers(0, 2, (len(FACTORS), n)) * 2 - 1
    values = side + _SPREAD * rng.standard_normal((len(FACTORS), n))
    return dict(zip(FACTORS, values, strict=True))


def probability(logit: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-logit))


def death(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Probability of death in hospital of an admission with an ICU stay; about one in four.

    The radiograph counts most, as a third of the stays has none to show.
    """
    return probability(3.0 * factors["ts_s"] + 3.6 * factors["img_s"] + 3.2 * factors["note_s"] - 3.6)


def readmission(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Probability of readmission or death within 30 days of discharge; about one in four."""
    return probability(3.0 * factors["ts_c"] + 3.6 * factors["img_c"] + 3.2 * factors["note_c"] - 4.2)


def stay_hours(factors: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Length of the ICU stay of a survivor: median 76 h, mostly between 29 and 200 h."""
    # Opacity shortens the stay, as it also brings death: one direction for both, or they would cancel out.
    total = factors["ts_c"] - factors["img_s"] + factors["note_c"]
    noise = 0.12 * rng.standard_normal(len(total))
    return np.clip(76.0 * np.exp(0.32 * total + noise), 6.0, 300.0)


def drg(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Index into `DRG_CODES` per admission."""
    return 4 * (factors["note_d"] > 0) + 2 * (factors["img_c"] > 0) + 1 * (factors["ts_s"] > 0)


def phenotypes(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities (n, 25). Each phenotype follows one factor of each modality, chosen by its number."""
    columns = []
    for k in range(len(PHENOTYPES)):
        ts = factors["ts_c" if k & 1 else "ts_s"]
        image = factors["img_c" if k & 2 else "img_s"]
        note = factors["note_c" if k & 4 else "note_s"]
        columns.append(probability(1.6 * (ts + image + note) - 1.6 - 0.5 * (k % 3)))
    return np.stack(columns, axis=1)


def chexpert(factors: dict[str, np.ndarray]) -> np.ndarray:
    """Probabilities (n, 14) of a finding: mostly the radiograph's own factors, partly the series and the note."""
    columns = []
    for k, name in enumerate(CHEXPERT):
        first, second = ("img_c", "img_s") if k & 1 else ("img_s", "img_c")
        image = factors[first] + 0.25 * factors[second]
        other = 0.6 * factors["ts_c" if k & 2 else "ts_s"] + 0.6 * factors["note_c" if k & 4 else "note_s"]
        sign = -1.0 if name == "No Finding" else 1.0
        columns.append(probability(sign * _STRENGTH * (image + other) - 1.0))
    return np.stack(columns, axis=1)
