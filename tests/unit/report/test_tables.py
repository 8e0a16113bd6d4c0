"""The paper's tables against numbers that are recomputed here from metrics.json."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import subprocess

import pytest
from support.fabricated_results import fabricate
from support.recomputed import compared_cells, wrong_metrics, wrong_sizes

from flexcare_data.options import PAPER_TASKS
from flexcare_data.raw.editions import MIMICIV_ROWS, PAPER
from flexcare_data.store.folders import write_stage
from flexcare_model.cli import results_of
from flexcare_model.report.numbers import groups, population, tables, uncertainty
from flexcare_model.report.numbers import layout as layout_module
from flexcare_model.report.numbers.results import Results

COMPARISONS = {"table3": tables.table3, "table4": tables.table4, "table5": tables.table5, "table6": tables.table6}


def values_of(output, model, experiment, task, metric):
    files = sorted((output / "runs" / model / experiment).glob("seed*/metrics.json"))
    return [json.loads(path.read_text())["metrics"][task][metric] for path in files]


def test_table3_is_mean_and_sample_deviation_over_seeds(output, results):
    compared, _ = tables.table3(results)
    rows = compared.frame.to_dicts()
    assert len(rows) == 7 * 6 * 2
    for row in rows:
        values = values_of(output, row["model"], row["experiment"], row["task"], row["metric"])
        assert row["mean"] == pytest.approx(statistics.mean(values))
        assert row["std"] == pytest.approx(statistics.stdev(values))


def of_real_data(output, folder, *, icu_stays):
    """The same runs and cohorts, as if they were made of real data with this number of ICU stays."""
    (folder / "data").mkdir(parents=True)
    for part in ("runs", "cohorts"):
        (folder / part).symlink_to(output / part)
    flow = {"stays": [{"step": "ICU stays", "stays": icu_stays}, {"step": "adult", "stays": 50}]}
    (folder / "data/flow.json").write_text(json.dumps(flow))
    (folder / "origin.json").write_text(json.dumps({"synthetic": False}))
    return folder


PAPER_STAYS = MIMICIV_ROWS[PAPER["mimiciv"]]["icustays"]


def test_published_numbers_stand_beside_the_population_of_the_paper_only(output, results, tmp_path):
    paper = of_real_data(output, tmp_path / "paper", icu_stays=PAPER_STAYS)
    later = of_real_data(output, tmp_path / "later", icu_stays=MIMICIV_ROWS["3.1"]["icustays"])
    sides = {
        "same": Results(paper, as_published=True),
        "same, by its stages": Results(paper),
        "other protocol": Results(paper, as_published=False),
        "other edition": Results(later, as_published=True),
        "fabricated": results,
        "fabricated, by the recipe": Results(paper, synthetic=True, as_published=True),
    }
    for name, side in sides.items():
        for build in (*COMPARISONS.values(), lambda given: tables.table2(given, below=10)):
            layout = build(side)[0]
            headings = [text for text in layout.header if "published" in text or text == "difference"]
            columns = [column for column in layout.frame.columns if "published" in column or column == "difference"]
            if name.startswith("fabricated"):
                assert headings == [] == columns, (name, layout.name)
            elif name.startswith("same"):
                assert set(headings) <= {"published", "difference"} and "published" in headings, (name, layout.name)
                assert ("difference" in headings) == (layout.name != "table2")
            else:
                assert set(headings) == {"published (another population)"}, (name, layout.name)
                assert all(column.endswith("published_of_another_population") for column in columns)
                assert "no difference is shown" in layout.to_markdown()
    for row in tables.table3(sides["same"])[0].frame.to_dicts():
        assert row["difference"] == pytest.approx(row["mean"] - row["published"])
    other = tables.table3(sides["other edition"])[0].frame
    assert other["published_of_another_population"].null_count() == 0


def test_a_page_that_is_marked_by_hand_has_no_published_numbers(output, tmp_path):
    folder = of_real_data(output, tmp_path / "results", icu_stays=PAPER_STAYS)
    for is_marked in (True, False):
        columns = tables.table6(results_of(folder, None, synthetic=is_marked))[0].frame.columns
        assert {"published", "difference"}.isdisjoint(columns) == is_marked


def test_an_option_of_one_cohort_makes_another_population(output, tmp_path):
    """Without a recipe, the manifests behind the cohorts say which options they were made with."""
    folder = of_real_data(output, tmp_path / "results", icu_stays=PAPER_STAYS)
    assert population.population(Results(folder)) is population.SAME
    (folder / "cohorts").unlink()
    (folder / "cohorts").mkdir()
    cohort = output / "cohorts/readmission.parquet"
    with write_stage(tmp_path / "other-0123456789ab", spec={"options": {"sampling": "hash"}}) as building:
        shutil.copy(cohort.resolve(), building / cohort.name)
    (folder / "cohorts/readmission.parquet").symlink_to(tmp_path / "other-0123456789ab/readmission.parquet")
    assert population.population(Results(folder)) is population.OTHER


def test_the_edition_of_the_paper_is_the_one_of_the_doctor():
    assert population.paper_icu_stays() == PAPER_STAYS
    same = [edition for edition, rows in MIMICIV_ROWS.items() if rows["icustays"] == PAPER_STAYS]
    assert same == [PAPER["mimiciv"]]


def test_a_metric_that_is_not_defined_is_neither_a_number_nor_not_run(output, tmp_path):
    (tmp_path / "cohorts").symlink_to(output / "cohorts")
    shutil.copytree(output / "runs/flexcare", tmp_path / "runs/flexcare")
    path = tmp_path / "runs/flexcare/six_tasks/seed42/metrics.json"
    content = json.loads(path.read_text())
    content["metrics"]["readmission"] |= {"auroc": None, "auprc": None}
    path.write_text(json.dumps(content))
    compared, wide = tables.table3(Results(tmp_path))
    rows = compared.frame.filter(task="readmission", method="FlexCare").to_dicts()
    assert [(row["mean"], row["std"], row["is_defined"], row["n_seeds"]) for row in rows] == [
        (None, None, False, 2)
    ] * 2
    assert layout_module.NOT_DEFINED in compared.notes
    assert "not defined" in compared.to_markdown() and "not defined" in wide.to_markdown()
    assert "FlexCare (REA)" not in " ".join(compared.notes)
    assert compared.frame.filter(task="decompensation", method="FlexCare")["mean"].null_count() == 0


def test_every_cell_follows_from_the_predictions(output, results, tmp_path):
    """Tables 3 to 6 and 2, recomputed with scikit-learn; a changed prediction or cell is noticed."""
    for part in ("runs", "cohorts"):
        (tmp_path / part).symlink_to(output / part)
    for layout in [*tables.table2(results, below=0), *(build(results)[0] for build in COMPARISONS.values())]:
        layout.write(tmp_path / "tables")
    assert wrong_metrics(tmp_path) == []
    assert wrong_sizes(tmp_path) == []
    expected = {"table3": 7 * 6 * 2, "table4": 5 * 6 * 2, "table5": 2 * 7 * 2, "table6": 2 * 6 * 2}
    assert {name: compared_cells(tmp_path, f"tables/{name}") for name in expected} == {
        name: (cells, []) for name, cells in expected.items()
    }
    written = (tmp_path / "tables/table6.csv").read_text()
    row = tables.table6(results)[0].frame.row(3, named=True)
    (tmp_path / "tables/table6.csv").write_text(written.replace(str(row["mean"]), str(row["mean"] + 1e-4)))
    assert len(compared_cells(tmp_path, "tables/table6")[1]) == 1


def test_exactly_the_best_of_each_block_and_metric_is_bold(results):
    for name, builder in COMPARISONS.items():
        frame = builder(results)[0].frame
        for (_, metric), block in frame.group_by("block", "metric"):
            best = block.filter(block["best"])["mean"].round(4).unique().to_list()
            assert best == [block["mean"].round(4).max()], (name, metric)


def test_ties_at_four_decimals_are_all_bold(tmp_path):
    for model, value in (("medfuse", 0.80001), ("mt", 0.80002), ("mmf", 0.7)):
        folder = tmp_path / "runs" / model / "readmission" / "seed1"
        folder.mkdir(parents=True)
        metrics = {"readmission": {"auroc": value, "auprc": value}}
        (folder / "metrics.json").write_text(json.dumps({"metrics": metrics, "n": {"readmission": 50}}))
    frame = tables.table3(Results(tmp_path))[0].frame.filter(tables.pl.col("task") == "readmission")
    assert set(frame.filter("best")["model"]) == {"medfuse", "mt"}
    assert frame.filter("best")["std"].is_null().all()


def test_what_is_not_run_is_named_and_nothing_fails(output, tmp_path):
    shutil.copytree(output / "runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs/mt")
    shutil.rmtree(tmp_path / "runs/mmf/readmission/seed42")
    compared, wide = tables.table3(Results(tmp_path), seeds=(40, 42))
    assert "Not run: MT (IHM, LOS, DEC, PHE, REA, DIA)." in compared.notes
    assert "MMF (REA): 1 of 2 seeds, without 42." in compared.notes
    assert "not run" in compared.to_markdown()
    assert "| MT | – |" in wide.to_markdown()


def test_an_empty_output_folder_gives_tables_that_say_so(tmp_path):
    results = Results(tmp_path)
    assert "Not built: IHM, LOS, DEC, PHE, REA, DIA, DRG" in tables.table2(results, below=10)[0].to_markdown()
    for builder in COMPARISONS.values():
        for layout in builder(results, seeds=(40,)):
            assert "Not run" in layout.to_markdown()


def test_table2_counts_missing_modalities(results):
    frame = tables.table2(results, below=10)[0].frame
    cohort = results.cohorts["diagnosis"]
    row = frame.row(by_predicate=tables.pl.col("task") == "diagnosis", named=True)
    assert row["samples"] == cohort.height
    assert row["missing_time_series_percent"] == pytest.approx(100 * cohort["stay_id"].null_count() / cohort.height)
    assert row["missing_image_percent"] == 0


def test_published_numbers_are_complete():
    frame = population.published()
    assert frame.filter(item="table3").height == 7 * 6 * 2
    assert frame.filter(item="table5").height == 7 * 2 * 2
    assert frame.filter(item="table6").height == 2 * 6 * 2
    for task in PAPER_TASKS[:-1]:
        flexcare = frame.filter(item="table3", method="flexcare", experiment="six_tasks", task=task)
        assert flexcare.height == 2
    assert frame.filter(item="table2", task="diagnosis", metric="missing_note")["value"].item() == 32.56


def test_latex_and_markdown_hold_the_same_numbers(results):
    compared, _ = tables.table3(results)
    latex, markdown = compared.to_latex(), compared.to_markdown()
    assert latex.count("\\textbf{") == markdown.count("**") // 2
    assert latex.count("\\\\") == len(compared.rows) + 1
    column = compared.header.index("first, mean (std)")
    for row in compared.rows:
        assert row[column].text in latex and row[column].text in markdown


@pytest.fixture(scope="module")
def with_variant(tmp_path_factory):
    """Runs that say how many parameters their model has, one of them of a variant; one head of mt is larger."""
    root = fabricate(
        tmp_path_factory.mktemp("variant") / "results", patients=80, seeds=(40,), baselines=("mt",),
        variants=("flexcare_released",),
    )  # fmt: skip
    for path in (root / "runs").glob("*/*/seed*/metrics.json"):
        model, experiment = path.parts[-4:-2]
        size = {"mt": 1_156_993, "flexcare": 1_538_356, "flexcare_released": 1_538_357}[model]
        size += 3_096 if (model, experiment) == ("mt", "phenotyping") else 0
        path.write_text(json.dumps(json.loads(path.read_text()) | {"parameters": size}))
    return Results(root)


def test_table3_has_the_parameters_and_says_what_a_baseline_is(with_variant, results):
    compared, wide = tables.table3(with_variant)
    found = {(row["method"], row["task"]): row["parameters"] for row in compared.frame.to_dicts()}
    assert found["MT", "readmission"] == 1_156_993 and found["MT", "phenotyping"] == 1_160_089
    assert found["FlexCare", "readmission"] == 1_538_356 and found["MedFuse", "readmission"] is None
    by_method = dict(zip(wide.frame["method"], wide.frame["parameters"], strict=True))
    assert (by_method["MT"], by_method["FlexCare"], by_method["MMF"]) == (1_160_089, 1_538_356, None)
    for layout in (compared, wide):
        at = layout.header.index("Parameters (million)")
        shown = {row[at - 1].text: row[at].text for row in layout.rows}
        assert (shown["MT"], shown["FlexCare"], shown["MedFuse"]) == ("1.16", "1.54", "–")
        for text in (layout.to_latex(), layout.to_markdown()):
            assert "is the fusion mechanism of the named method on the common embedding and encoders" in text
            assert "1.54" in text
    assert "parameters" not in tables.table4(results)[0].frame.columns
    assert set(tables.table3(results)[0].frame["parameters"]) == {None}


def test_a_variant_has_a_row_beside_flexcare_where_it_was_run(with_variant, results):
    def methods(found):
        return tables.table3(found)[1].frame["method"].to_list()

    assert methods(with_variant)[-3:] == ["FlexCare-st", "FlexCare, as released", "FlexCare"]
    assert "FlexCare, as released" not in methods(results)
    row = tables.table3(with_variant)[0].frame.filter(method="FlexCare, as released").to_dicts()[0]
    assert (row["model"], row["experiment"], row["n_seeds"]) == ("flexcare_released", "six_tasks", 1)


def test_files_are_written_with_equal_bytes_twice(results, tmp_path):
    for folder in ("a", "b"):
        for layout in tables.table3(results):
            layout.write(tmp_path / folder)
    first = sorted((tmp_path / "a").iterdir())
    assert [path.name for path in first] == [
        f"table3{form}.{suffix}" for form in ("", "_wide") for suffix in ("csv", "md", "tex")
    ]
    assert all(path.read_bytes() == (tmp_path / "b" / path.name).read_bytes() for path in first)


@pytest.fixture(scope="module")
def every_layout(results):
    """All tables, with those that are longer or wider than a page."""
    estimates, compared = uncertainty.bootstrap(results, replicates=10)
    _, summaries = groups.calibration(results, below=10)
    return [
        *tables.table2(results, below=10),
        *(layout for build in COMPARISONS.values() for layout in build(results, seeds=(40, 42, 44))),
        uncertainty.intervals_table(estimates),
        uncertainty.comparisons_table(compared),
        groups.calibration_table(summaries),
        groups.subgroups_table(groups.subgroups(results, below=10), "FlexCare"),
    ]


def test_latex_is_well_formed(every_layout):
    for layout in every_layout:
        latex = layout.to_latex()
        assert latex.isascii(), {letter for letter in latex if not letter.isascii()}
        bare = latex.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        assert bare.count("{") == bare.count("}")
        assert sorted(re.findall(r"\\begin\{(\w+)\}", latex)) == sorted(re.findall(r"\\end\{(\w+)\}", latex))
        rows = [line for line in latex.splitlines() if line.count(" & ")]
        assert {line.count(" & ") for line in rows} == {len(layout.header) - 1}, layout.name
        assert len(rows) >= len(layout.rows) + 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex found")
def test_latex_compiles_and_fits_the_page(every_layout, tmp_path):
    head = r"\documentclass{article}\usepackage[a4paper,margin=2cm]{geometry}"
    head += r"\usepackage{booktabs,graphicx,amssymb,longtable}\begin{document}"
    text = "\n".join([head, *(layout.to_latex() for layout in every_layout), r"\end{document}"])
    (tmp_path / "tables.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout
    assert "Float too large" not in done.stdout
