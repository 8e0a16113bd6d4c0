"""Calibration of labels, selective prediction, decision curves, gaps: recomputed by other code, and suppressed."""

from __future__ import annotations

import statistics as means

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score
from support.recomputed_evaluation import benefit, calibration_error, in_the_large, recalibrated, risk, sides

from flexcare_model.report.about import About
from flexcare_model.report.catalogue import TABLES
from flexcare_model.report.make import make_tables
from flexcare_model.report.numbers import decisions, gaps, groups
from flexcare_model.report.numbers.label_calibration import label_calibration, label_table, recalibration
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.statistics import run as statistics
from flexcare_model.report.pages.page import build_page

BELOW = 10
BINARY = ("in_hospital_mortality", "decompensation", "readmission")
MULTILABEL = ("phenotyping", "diagnosis")


@pytest.fixture(scope="module")
def small(output, tmp_path_factory):
    """The same folder with the runs of two methods."""
    root = tmp_path_factory.mktemp("small")
    for part in ("cohorts", "data"):
        (root / part).symlink_to(output / part)
    for name in ("flexcare/six_tasks", *(f"mt/{task}" for task in (*BINARY, *MULTILABEL, "length_of_stay"))):
        (root / "runs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "runs" / name).symlink_to(output / "runs" / name)
    return root


@pytest.fixture(scope="module")
def few(small):
    return Results(small)


def files(root, method, task):
    experiment = "flexcare/six_tasks" if method == "FlexCare" else f"mt/{task}"
    return sorted((root / "runs" / experiment).glob(f"seed*/predictions/{task}.parquet"))


# --- calibration of each label ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(few):
    return label_calibration(few, below=BELOW)


@pytest.mark.parametrize("task", [*BINARY, *MULTILABEL])
def test_slope_intercept_and_error_are_those_of_scikit_learn(small, calibrated, task):
    labels, _ = calibrated
    for row in labels.filter(task=task).to_dicts():
        fits, errors = [], []
        for path in files(small, row["method"], task):
            _, truth, scores = sides(small, path)
            names = [name for name in pl.read_parquet(path).columns if name != "sample_id"]
            column = names.index(row["label"]) if task in MULTILABEL else 0
            kept = truth[:, column] > -1
            fits.append(recalibrated(truth[kept, column], scores[kept, column]))
            errors.append(calibration_error(truth[kept, column], scores[kept, column]))
        assert row["n_seeds"] == len(fits) == 2
        if row["is_shown"]:
            assert row["intercept"] == pytest.approx(means.mean(fit[0] for fit in fits), abs=2e-4)
            assert row["slope"] == pytest.approx(means.mean(fit[1] for fit in fits), abs=2e-4)
            assert row["ece"] == pytest.approx(means.mean(errors), abs=1e-9)
        else:
            assert row["slope"] is row["ece"] is None
    assert labels.filter("is_shown", task=task).height


def test_recalibration_undoes_what_was_done_to_the_logits():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=200_000)
    happened = rng.random(truth.size) < 1 / (1 + np.exp(-truth))
    scores = 1 / (1 + np.exp(-(truth - 0.7) * 2))
    intercept, slope = recalibration(scores, happened)
    assert (intercept, slope) == (pytest.approx(0.7, abs=0.02), pytest.approx(0.5, abs=0.01))


@pytest.mark.parametrize(
    ("scores", "happened"),
    [
        ([0.2, 0.4, 0.6], [0, 0, 0]),
        ([0.2, 0.4, 0.6], [1, 1, 1]),
        ([0.5, 0.5, 0.5], [0, 1, 0]),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]),
        ([0.1, 0.5, 0.5, 0.9], [0, 0, 1, 1]),
        ([0.9, 0.2], [0, 1]),
    ],
)
def test_recalibration_is_not_defined_for_one_class_equal_scores_or_separated_classes(scores, happened):
    assert np.isnan(recalibration(np.array(scores), np.array(happened))).all()


def test_scores_of_0_and_1_have_a_fit():
    fit = recalibration(np.array([0.0, 1.0, 0.0, 1.0, 0.3]), np.array([0, 1, 1, 0, 1]))
    assert np.isfinite(fit).all()


def changed(small, tmp_path, task, label, values):
    """A copy of the folder whose cohort of ``task`` has other labels in the test split."""
    for part in ("runs", "data"):
        (tmp_path / part).symlink_to(small / part)
    (tmp_path / "cohorts").mkdir()
    for path in (small / "cohorts").iterdir():
        if path.stem != task:
            (tmp_path / "cohorts" / path.name).symlink_to(path)
    cohort = pl.read_parquet(small / f"cohorts/{task}.parquet").sort("subject_id")
    is_test = (cohort["split"] == "test").to_numpy()
    column = np.zeros(cohort.height, dtype=np.int64)
    column[is_test] = values(int(is_test.sum()), cohort.filter(split="test")["subject_id"].to_numpy())
    cohort.with_columns(pl.Series(label, column)).sort("sample_id").write_parquet(tmp_path / f"cohorts/{task}.parquet")
    return Results(tmp_path)


def few_patients(n, subjects):
    """Positive: all samples of nine patients."""
    return np.isin(subjects, np.unique(subjects)[:9]).astype(np.int64)


def test_a_label_of_few_patients_has_no_number_and_one_of_one_class_is_not_defined(small, tmp_path):
    for name, values, text in (("few", few_patients, "–"), ("none", lambda n, _: np.zeros(n, np.int64), "not defined")):
        folder = tmp_path / name
        folder.mkdir()
        frame, curves = label_calibration(changed(small, folder, "phenotyping", "Shock", values), below=BELOW)
        rows = frame.filter(task="phenotyping", label="Shock")
        assert rows["slope"].null_count() == rows.height == 2
        assert rows["is_shown"].to_list() == [name == "none"] * 2
        drawn = curves.filter(task="phenotyping", label="Shock")
        assert (drawn.height > 0) == (name == "none")
        cells = next(row for row in label_table(frame, "FlexCare").rows if row[1].text == "Shock")
        assert cells[5].text == text
        if name == "few":
            assert not cells[3].text.isdigit() and rows["ece"].null_count() == 2
        else:
            assert rows["ece"].null_count() == 0


def test_bins_of_few_samples_have_no_numbers(few):
    _, curves = label_calibration(few, below=BELOW)
    assert curves.drop_nulls("observed")["n"].min() >= BELOW
    # Nor may the share and the number of samples reveal few positive or few negative ones.
    for n, share in curves.drop_nulls("observed").select("n", "observed").iter_rows():
        assert all(count == 0 or round(count) >= BELOW for count in (n * share, n * (1 - share)))
    assert 0 < curves["observed"].null_count() < curves.height


# --- selective prediction ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [*BINARY, *MULTILABEL, "length_of_stay"])
def test_risk_and_area_are_those_of_a_loop(small, few, task):
    frame = decisions.selective(few, below=BELOW)
    for method in ("MT", "FlexCare"):
        curves = [risk(task, *sides(small, path)[1:]) for path in files(small, method, task)]
        own = frame.filter(task=task, method=method)
        assert own["aurc"].unique().item() == pytest.approx(np.mean(curves), abs=1e-9)
        for coverage, value in own.select("coverage", "risk").iter_rows():
            answered = -(-round(coverage * 100) * len(curves[0]) // 100)
            if value is not None:
                assert value == pytest.approx(np.mean([curve[answered - 1] for curve in curves]), abs=1e-9)
            assert value is None or answered >= BELOW
        assert own.filter(coverage=1.0)["risk"].null_count() == 0


def test_ties_are_answered_in_random_order():
    """The expected risk over all orders of three equally sure samples, of which one is wrong."""
    found = decisions.risks(np.array([0.4, 0.4, 0.4, 0.1]), np.array([1.0, 0.0, 0.0, 1.0]))
    assert found.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 2])


def test_many_samples_of_few_patients_are_not_shown(small, few, tmp_path):
    """All test samples are those of nine patients: neither risks nor bins nor groups have numbers."""
    results = changed(small, tmp_path, "readmission", "label", few_patients)
    path = tmp_path / "cohorts/readmission.parquet"
    cohort = pl.read_parquet(path)
    owner = pl.when(pl.col("split") == "test").then(pl.int_range(pl.len()) % 9).otherwise("subject_id")
    cohort.with_columns(subject_id=owner.cast(pl.Int64)).write_parquet(path)
    assert decisions.selective(results, below=BELOW).filter(task="readmission").height == 0
    curves, _ = groups.calibration(results, below=BELOW)
    assert curves.filter(task="readmission")["observed"].null_count() == curves.filter(task="readmission").height > 0
    shown = decisions.selective(results, below=9).filter(task="readmission")
    assert 0 < shown["risk"].null_count() < shown.height


def test_few_patients_have_no_curve(few):
    assert decisions.selective(few, below=10_000).height == 0


# --- decision curves --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", BINARY)
def test_net_benefit_is_that_of_a_loop(small, few, task):
    frame = decisions.decisions(few, below=BELOW)
    assert set(frame["task"]) == set(BINARY)
    for threshold in (0.05, 0.3, 0.6):
        for method in ("MT", "FlexCare"):
            pairs = [sides(small, path) for path in files(small, method, task)]
            expected = np.mean([benefit(labels[:, 0], scores[:, 0], threshold) for _, labels, scores in pairs])
            found = frame.filter(task=task, method=method, threshold=threshold)["net_benefit"].item()
            assert found == pytest.approx(expected, abs=1e-12)
        labels = pairs[0][1][:, 0]
        everybody = frame.filter(task=task, method=decisions.TREAT_ALL, threshold=threshold)["net_benefit"].item()
        assert everybody == pytest.approx(benefit(labels, np.ones(len(labels)), threshold))
        assert frame.filter(task=task, method=decisions.TREAT_NONE)["net_benefit"].unique().to_list() == [0.0]


def test_nothing_is_shown_where_few_are_treated_or_few_are_positive(small, few, tmp_path):
    path = files(small, "FlexCare", "readmission")[0]
    cohort, _, scores = sides(small, path)
    limit = 60
    frame = decisions.decisions(few, below=limit).filter(task="readmission", method="FlexCare")
    for threshold, value in frame.select("threshold", "net_benefit").iter_rows():
        treated = cohort.filter(pl.Series(scores[:, 0] >= threshold))["subject_id"].n_unique()
        if 1 <= treated < limit:
            assert value is None
    rare = decisions.decisions(changed(small, tmp_path, "readmission", "label", few_patients), below=BELOW)
    assert rare.filter(task="readmission")["net_benefit"].null_count() == rare.filter(task="readmission").height
    assert "–" in decisions.decisions_table(rare).to_markdown()


# --- gaps between groups ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found_gaps(few):
    return gaps.gaps(few, below=BELOW, replicates=60, seed=0)


def test_the_gap_of_the_sexes_is_recomputed(small, found_gaps):
    stays = pl.read_parquet(small / "data/stays.parquet").select("stay_id", "gender")
    for metric, of in (("auroc", roc_auc_score), ("intercept", in_the_large)):
        values = {"F": [], "M": []}
        for path in files(small, "FlexCare", "readmission"):
            rows, labels, scores = sides(small, path)
            sex = rows.join(stays, on="stay_id", how="left", maintain_order="left")["gender"]
            for one in values:
                member = (sex == one).to_numpy()
                values[one].append(of(labels[member, 0], scores[member, 0]))
        female, male = (means.mean(values[one]) for one in ("F", "M"))
        row = found_gaps.filter(task="readmission", method="FlexCare", dimension="sex", metric=metric).row(
            0, named=True
        )
        assert row["gap"] == pytest.approx(abs(female - male), abs=1e-9)
        assert row["lowest"] == ("female" if female < male else "male")
        assert [row["lowest_value"], row["highest_value"]] == pytest.approx(sorted([female, male]))


def test_the_interval_is_that_of_patients_drawn_by_hand(small, few, found_gaps):
    """The same draws, with the samples of the drawn patients repeated in plain numpy."""
    cohort = pl.read_parquet(small / "cohorts/readmission.parquet").filter(split="test")
    patients = np.unique(cohort["subject_id"].to_numpy())
    rng = np.random.default_rng(0)
    stays = pl.read_parquet(small / "data/stays.parquet").select("stay_id", "gender")
    pairs = [sides(small, path) for path in files(small, "FlexCare", "readmission")]
    rows = pairs[0][0]
    sex = rows.join(stays, on="stay_id", how="left", maintain_order="left")["gender"].to_numpy()
    row = found_gaps.filter(task="readmission", method="FlexCare", dimension="sex", metric="auroc").row(0, named=True)
    ends = {"female": "F", "male": "M"}
    drawn = []
    for _ in range(60):
        chosen = patients[rng.integers(0, len(patients), size=len(patients))]
        samples = np.concatenate([np.flatnonzero(rows["subject_id"].to_numpy() == one) for one in chosen])
        sides_of = []
        for end in (row["highest"], row["lowest"]):
            inside = samples[sex[samples] == ends[end]]
            sides_of.append(np.mean([roc_auc_score(y[inside, 0], p[inside, 0]) for _, y, p in pairs]))
        drawn.append(sides_of[0] - sides_of[1])
    assert (row["low"], row["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
    assert row["n_draws"] == 60


def test_intersections_and_groups_of_few_patients(small, few, found_gaps):
    row = found_gaps.filter(task="phenotyping", method="FlexCare", dimension="sex and race").row(0, named=True)
    path = files(small, "FlexCare", "phenotyping")[0]
    stays = pl.read_parquet(small / "data/stays.parquet").select("stay_id", "gender", "race")
    rows = sides(small, path)[0].join(stays, on="stay_id", how="left").drop_nulls("gender")
    race = pl.col("race").str.extract("^(WHITE|BLACK|HISPANIC|ASIAN)").fill_null("other")
    sizes = rows.group_by("gender", race).agg(pl.col("subject_id").n_unique())["subject_id"]
    assert row["n_groups"] == int((sizes >= BELOW).sum()) and row["n_hidden"] == int((sizes < BELOW).sum()) > 0
    assert ", " in row["lowest"] and "no ICU stay" not in row["lowest"]
    hidden = gaps.gaps(few, below=10_000, replicates=4, seed=0)
    assert hidden["gap"].null_count() == hidden.height and hidden["n_groups"].max() == 0
    assert "not defined" in gaps.gaps_table(hidden, "FlexCare").to_markdown()


def test_a_group_of_one_class_has_no_value(small, tmp_path):
    """All women are negative: their AUROC is not 0.5, and there is no second group to compare the men with."""
    stays = pl.read_parquet(small / "data/stays.parquet").select("stay_id", "gender")
    results = changed(small, tmp_path, "readmission", "label", lambda n, _: np.ones(n, np.int64))
    path = tmp_path / "cohorts/readmission.parquet"
    cohort = pl.read_parquet(path).join(stays, on="stay_id", how="left", maintain_order="left")
    alternate = (pl.int_range(pl.len()) % 2) * (pl.col("gender") == "M").cast(pl.Int64)
    cohort.with_columns(label=alternate).drop("gender").write_parquet(path)
    frame = gaps.gaps(results, below=BELOW, replicates=20, seed=0).filter(task="readmission", dimension="sex")
    assert frame["n_undefined"].to_list() == [1] * frame.height and frame["gap"].null_count() == frame.height


def test_calibration_intercepts_of_weighted_samples():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, size=30), rng.uniform(0.05, 0.95, size=30)
    weights = rng.integers(0, 3, size=(5, 30)).astype(float)
    found = gaps.intercepts(labels, scores, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        assert value == pytest.approx(in_the_large(labels.repeat(row), scores.repeat(row)), abs=1e-8)
    assert np.isnan(gaps.intercepts(np.zeros(3), scores[:3], np.ones((1, 3)))).all()


# --- all of them --------------------------------------------------------------------------------------------------


def test_the_command_writes_what_the_tables_show(small, tmp_path):
    for part in ("cohorts", "data", "runs"):
        (tmp_path / part).symlink_to(small / part)
    (tmp_path / "analysis/statistics").mkdir(parents=True)
    statistics(Results(tmp_path), tmp_path / "analysis/statistics", below=BELOW, replicates=10)
    entry = TABLES["statistics"]
    layouts = make_tables(entry, Results(tmp_path), below=BELOW)
    assert tuple(layout.name for layout in layouts) == entry.stems
    for layout in layouts:
        assert layout.rows and layout.to_latex().isascii()
        assert "nan" not in layout.to_markdown().lower().replace("inan", "")


def test_a_page_computes_what_takes_seconds_only(small):
    """Without the target `statistics`, a page of runs has calibration of labels and decisions, but no intervals."""
    assert not (small / "analysis/statistics").exists()
    page = build_page(Results(small), About())
    for anchor in ("label-calibration", "selective", "decisions"):
        body = page.split(f'<section class="part" id="{anchor}"')[1].split("</section>")[0]
        assert "<table" in body and "<figure" in body
    for anchor in ("uncertainty", "gaps", "contributions"):
        body = page.split(f'<section class="part" id="{anchor}"')[1].split("</section>")[0]
        assert "run the target" in body and "<table" not in body
