"""Chest radiographs: the studies, their side tables and the JPEG files.

In: a `Population`. Out: `Radiographs` (metadata, chexpert, split; hidden: what each image shows) and the drawn files.
The overall brightness of an image shows the factor `img_s`, a bright or dark middle shows `img_c`: both survive flips,
rotations and crops.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

from flexcare_data.schema import CHEXPERT
from flexcare_data.synthetic import factors as planted
from flexcare_data.synthetic.population import DAY, HOUR, Population, generator, unique_ids

_SHAPES = ((320, 384), (384, 320), (344, 344))
_VARIANTS = 6
_VIEW_MEANINGS = {
    "AP": "antero-posterior",
    "PA": "postero-anterior",
    "LATERAL": "lateral",
    "LL": "left lateral",
    "": None,
}


@dataclass(frozen=True)
class Radiographs:
    """Side tables, and per row of ``metadata`` the hidden `img_s`, `img_c` and the `path` below the root."""

    metadata: pl.DataFrame
    chexpert: pl.DataFrame
    split: pl.DataFrame
    hidden: pl.DataFrame


def radiographs(people: Population, *, seed: int) -> Radiographs:
    """Studies of seven kinds.

    Early in an ICU stay (two of three stays have one), later in it, before it, on the ward after it, in admissions
    without ICU stay, between admissions, and of people without any admission.
    """
    rng = generator(seed, 7)
    studies = _studies(rng, people)
    n = len(studies["subject"])
    studies["study"] = unique_ids(rng, n, 50_000_000)
    images = _views(rng, studies)
    study = images["row"]
    clock = studies["clock"][study] + images["later"]
    day = (clock // DAY).astype("datetime64[D]")
    year, month = day.astype("datetime64[Y]"), day.astype("datetime64[M]")
    date = (year.astype(int) + 1970) * 10000 + ((month - year).astype(int) + 1) * 100 + (day - month).astype(int) + 1
    second = clock % DAY
    hhmmss = second // 3600 * 10000 + second // 60 % 60 * 100 + second % 60
    # The fraction is cut when the study time is read, so equal seconds are equal times.
    fraction = images["milliseconds"]
    shapes = np.array(_SHAPES)[images["shape"]]
    views = pl.Series(images["view"])
    portable = views == "AP"
    step = pl.select(
        pl.when(portable).then(pl.lit("CHEST (PORTABLE AP)")).otherwise(pl.lit("CHEST (PA AND LAT)"))
    ).to_series()
    metadata = pl.DataFrame(
        {
            "dicom_id": _dicom_ids(rng, len(study)),
            "subject_id": studies["subject"][study],
            "study_id": studies["study"][study],
            "PerformedProcedureStepDescription": step,
            "ViewPosition": views.replace("", None),
            "Rows": shapes[:, 0],
            "Columns": shapes[:, 1],
            "StudyDate": date,
            "StudyTime": pl.Series(hhmmss).cast(pl.String) + "." + pl.Series(fraction).cast(pl.String).str.zfill(3),
            "ProcedureCodeSequence_CodeMeaning": step,
            "ViewCodeSequence_CodeMeaning": views.replace_strict(_VIEW_MEANINGS, return_dtype=pl.String),
            "PatientOrientationCodeSequence_CodeMeaning": np.where(portable.to_numpy(), "Recumbent", "Erect"),
            "img_s": studies["img_s"][study] + 0.15 * rng.standard_normal(len(study)),
            "img_c": studies["img_c"][study] + 0.15 * rng.standard_normal(len(study)),
            "shape": images["shape"],
        }
    )
    # Within a study the order of the file is not that of the views.
    metadata = metadata.sort("subject_id", "study_id", "dicom_id").with_columns(
        path=pl.format(
            "files/p{}/p{}/s{}/{}.jpg", pl.col("subject_id") // 1_000_000, "subject_id", "study_id", "dicom_id"
        )
    )
    split = metadata.select(
        "dicom_id", "study_id", "subject_id",
        split=pl.when(pl.col("subject_id") % 50 == 0).then(pl.lit("test"))
        .when(pl.col("subject_id") % 50 == 1).then(pl.lit("validate")).otherwise(pl.lit("train")),
    )  # fmt: skip
    return Radiographs(metadata, _chexpert(rng, studies), split, metadata.select("path", "img_s", "img_c", "shape"))


def _studies(rng, people: Population) -> dict[str, np.ndarray]:
    """One element per study: patient, time in seconds and the factors it is labelled by."""
    admissions = people.admissions
    begin = admissions["admittime"].dt.epoch("s").to_numpy()
    end = admissions["dischtime"].dt.epoch("s").to_numpy()
    row = people.stays["admission"].to_numpy()
    intime = people.stays["start"].to_numpy()
    outtime = intime + (people.stays["hours"].to_numpy() * HOUR).astype(np.int64)
    no_icu = np.flatnonzero(~admissions["icu"].to_numpy())
    every = np.arange(admissions.height)
    parts = []

    def some(share: float, rows: np.ndarray, low: np.ndarray, high: np.ndarray, *, inside: bool = True) -> None:
        chosen = rng.random(len(rows)) < share
        low, high = low[chosen], np.maximum(high, low + 60)[chosen]
        parts.append(
            (
                rows[chosen],
                np.floor(low + rng.random(len(low)) * (high - low)).astype(np.int64),
                np.full(len(low), inside),
            )
        )

    some(0.7, row, intime + HOUR, intime + 10 * HOUR)
    some(0.25, row, intime + 12 * HOUR, outtime)
    some(0.2, row, begin[row], intime)
    some(0.1, row, outtime, end[row])
    some(0.5, no_icu, begin[no_icu], end[no_icu])
    some(0.15, every, begin - 40 * DAY, begin - 2 * DAY, inside=False)
    some(0.1, every, end + 2 * DAY, end + 25 * DAY, inside=False)
    row, clock, inside = (np.concatenate(part) for part in zip(*parts, strict=True))
    # Some studies of a patient have the same time.
    twin = np.flatnonzero(rng.random(len(row)) < 0.02)
    row, clock, inside = np.append(row, row[twin]), np.append(clock, clock[twin]), np.append(inside, inside[twin])
    strangers = max(2, people.patients.height // 15)
    n = len(row) + strangers
    taken = people.patients["subject_id"].to_numpy()
    new = unique_ids(rng, strangers + 50, 10_000_001)
    new = new[~np.isin(new, taken)][:strangers]
    found = {
        "subject": np.append(admissions["subject_id"].to_numpy()[row], new),
        "clock": np.append(clock, clock[rng.integers(0, len(clock), strangers)]),
    }
    fresh, inside = planted.draw(rng, n), np.append(inside, np.zeros(strangers, bool))
    row = np.append(row, np.zeros(strangers, np.int64))
    for name in planted.FACTORS:
        found[name] = np.where(inside, admissions[name].to_numpy()[row], fresh[name])
    return found


def _views(rng, studies: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One element per image. Nine of ten studies are AP (some twice, some with a lateral), the rest PA or blank."""
    n = len(studies["subject"])
    u = rng.random(n)
    first = np.where(u < 0.88, "AP", np.where(u < 0.96, "PA", ""))
    more = np.where(u < 0.1, "AP", np.where(u < 0.16, "LATERAL", np.where((u > 0.88) & (u < 0.95), "LL", "-")))
    second = np.flatnonzero(more != "-")
    row = np.concatenate([np.arange(n), second])
    m = len(row)
    # Half of the second images have exactly the time of the first.
    later = np.concatenate([np.zeros(n, np.int64), np.where(rng.random(len(second)) < 0.5, 0, 120)])
    order = np.argsort(row, kind="stable")
    return {
        "row": row[order],
        "view": np.concatenate([first, more[second]])[order],
        "later": later[order],
        "milliseconds": rng.integers(0, 1000, m),
        "shape": rng.integers(0, len(_SHAPES), m),
    }


def _chexpert(rng, studies: dict[str, np.ndarray]) -> pl.DataFrame:
    """Labels: 1 as planted, of the rest 0 (seven of ten), blank or -1; one study in twenty-five has no row."""
    chance = planted.chexpert(studies)
    n = len(chance)
    u = rng.random(chance.shape)
    label = np.where(rng.random(chance.shape) < chance, 1.0, np.where(u < 0.7, 0.0, np.where(u < 0.9, np.nan, -1.0)))
    label = np.where(rng.random(chance.shape) < 0.04, np.where(u < 0.5, np.nan, -1.0), label)
    frame = pl.DataFrame({"subject_id": studies["subject"], "study_id": studies["study"]}).with_columns(
        pl.Series(name, label[:, k]).fill_nan(None) for k, name in enumerate(CHEXPERT)
    )
    return frame.filter(pl.Series(rng.random(n) >= 0.04)).sort("subject_id", "study_id")


def _dicom_ids(rng, n: int) -> list[str]:
    text = rng.bytes(20 * n).hex()
    return ["-".join(text[k + 8 * j : k + 8 * j + 8] for j in range(5)) for k in range(0, 40 * n, 40)]


@cache
def _shapes(shape: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(variants, rows, columns) each: thorax, lungs and middle, with soft edges, for image size ``shape``."""
    rows, columns = _SHAPES[shape]
    y, x = np.mgrid[0:rows, 0:columns]
    side = min(rows, columns)
    y, x = (y - rows / 2) / side, (x - columns / 2) / side
    found = []
    for k in range(_VARIANTS):
        dy, dx, size = 0.03 * np.sin(k), 0.03 * np.cos(2 * k), 1 + 0.05 * np.sin(3 * k)

        def disc(cy, cx, ry, rx, dy=dy, dx=dx, size=size):
            distance = ((y - cy - dy) / (ry * size)) ** 2 + ((x - cx - dx) / (rx * size)) ** 2
            return 1 / (1 + np.exp(np.clip(12 * (distance - 1), -30, 30)))

        found.append(
            (disc(0, 0, 0.6, 0.5), disc(0, -0.24, 0.34, 0.13) + disc(0, 0.24, 0.34, 0.13), disc(0.03, 0, 0.24, 0.2))
        )
    body, lungs, heart = (np.stack(part).astype(np.float32) for part in zip(*found, strict=True))
    return body, lungs, heart


def draw(img_s: float, img_c: float, shape: int, rng: np.random.Generator) -> np.ndarray:
    """One image, uint8 (rows, columns)."""
    thorax, lungs, middle = (part[rng.integers(0, _VARIANTS)] for part in _shapes(shape))
    rows, columns = thorax.shape
    # Opacity lifts the whole image; the middle is compensated by the rest, so that the mean shows opacity alone.
    level = 105 + 34 * img_s - 7 * img_c + 6 * rng.standard_normal()
    grain = rng.standard_normal((rows // 8 + 1, columns // 8 + 1)).astype(np.float32)
    texture = 4 * np.repeat(np.repeat(grain, 8, 0), 8, 1)[:rows, :columns]
    image = level - 30 + 30 * thorax - 32 * lungs + (30 + 48 * img_c) * middle + texture
    return np.clip(image, 0, 255).astype(np.uint8)


def write_files(radiographs: Radiographs, root: Path, *, seed: int, broken: int = 0) -> None:
    """Draw every image below ``root``; the first ``broken`` AP images are cut short, so that they can't be decoded."""
    hidden = radiographs.hidden.with_columns(view=radiographs.metadata["ViewPosition"])
    rng = generator(seed, 8)
    for path, img_s, img_c, shape, view in hidden.iter_rows():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(img_s, img_c, shape, rng)).save(target, "JPEG", quality=75)
        if broken and view == "AP":
            target.write_bytes(target.read_bytes()[:300])
            broken -= 1
