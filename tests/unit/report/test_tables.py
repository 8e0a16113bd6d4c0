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
from flexcare_model.report.numbers import groups, tables, uncertainty
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
        assert row["difference"] == pytest.approx(row["mean"] - row["published"])


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
    assert row["samples_published"] == 132_576
    assert row["missing_image_percent"] == 0


def test_published_numbers_are_complete():
    frame = tables.published()
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
    assert (row["model"], row["experiment"], row["published"], row["n_seeds"]) == (
        "flexcare_released", "six_tasks", None, 1
    )  # fmt: skip


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
