"""The examples of docs/add_a_model.md and docs/add_a_task.md, as files in a copy of the packages: each is one file, and
the tables, the statistics, the figures and the page show it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from support.documents import blocks
from support.paths import ROOT

MODEL, MODEL_TITLE = "series_lstm", "LSTM on the series"
TASK, TASK_TITLE = "mortality_7d", "M7D"
PROGRAM = """
import json, sys
from pathlib import Path
from flexcare_data import discovery
from support.fabricated_results import SIX, fabricate, fabricate_analysis
from flexcare_model.__main__ import main
from flexcare_model.report.catalogue import FIGURES, TABLES
from flexcare_model.report.make import make_figure
from flexcare_model.report.numbers.results import Results

output = str(fabricate(
    Path(sys.argv[1]), patients=160, seeds=(40,), baselines=("mt", "series_lstm"), variants=("flexcare_base",),
    tasks=(*SIX, "mortality_7d"),
))
fabricate_analysis(Path(output), baselines=("mt", "series_lstm"), trained=(*SIX, "mortality_7d"))
assert main(["statistics", "--output", output, "--replicates", "20", "--out", output + "/analysis/statistics"]) == 0
for name in TABLES:
    assert main(["tables", name, "--output", output, "--out", output + "/tables"]) == 0
assert main(["report", "--output", output, "--out", output + "/page"]) == 0

def texts(figure):
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return legends + [axes.get_title("left") + axes.get_title() + axes.get_xlabel() for axes in figure.axes] + [
        label.get_text() for axes in figure.axes for label in axes.get_yticklabels()
    ]

drawn = {
    name: texts(make_figure(entry, Results(Path(output)), below=10))
    for name, entry in FIGURES.items()
    if name != "figure7"
}
models = [name for name, model in discovery.models().items() if model.module in sys.modules]
print(json.dumps({"drawn": drawn, "models": models}))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages with the files of both pages."""
    tree = tmp_path_factory.mktemp("added")
    for part in ("flexcare_data", "flexcare_model", "workflow", "tests/support"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", tree)
    for page in ("docs/add_a_model.md", "docs/add_a_task.md"):
        for block in blocks(ROOT / page):
            if block.file.endswith(".py"):
                (tree / block.file).write_text(block.text)
    assert (tree / f"flexcare_model/models/{MODEL}.py").is_file()
    assert (tree / f"flexcare_data/tasks/{TASK}.py").is_file()
    return tree


def run(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(tree), str(tree / "tests")])
    return subprocess.run(
        [sys.executable, *arguments], cwd=tree, text=True, capture_output=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": path, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def reported(tree: Path) -> dict:
    """What the program says of its figures; tables and page are in `tree`/results."""
    done = run(tree, "-c", PROGRAM, str(tree / "results"))
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def table(tree: Path, name: str) -> pl.DataFrame:
    return pl.read_csv(tree / f"results/tables/{name}.csv", infer_schema_length=None)


@pytest.mark.slow
def test_table_3_has_the_model_as_a_row_and_the_task_as_a_block(tree, reported):
    frame = table(tree, "table3")
    cells = frame.filter(pl.col("method") == MODEL_TITLE, pl.col("task") == TASK)
    assert set(cells["metric"]) == {"auroc", "auprc"}
    metrics = json.loads((tree / f"results/runs/{MODEL}/{TASK}/seed40/metrics.json").read_text())["metrics"][TASK]
    for row in cells.to_dicts():
        assert row["mean"] == pytest.approx(metrics[row["metric"]])
    assert frame["task"].unique(maintain_order=True).to_list()[-1] == TASK
    methods = frame["method"].unique(maintain_order=True).to_list()
    # Also the other example, which was not trained; FlexCare stays the last.
    assert methods == [
        "MedFuse", "MT", "M3Care", "MMF", "MultiModN", "Late fusion", MODEL_TITLE, "FlexCare-st", "FlexCare",
    ]  # fmt: skip
    text = (tree / "results/tables/table3.md").read_text()
    assert "Table 3: methods on seven tasks" in text and f"| {TASK_TITLE}: AUROC, AUPRC |" in text
    wide = (tree / "results/tables/table3_wide.md").read_text()
    assert f"{TASK_TITLE} AUROC" in wide and f"| {MODEL_TITLE} |" in wide


@pytest.mark.slow
def test_the_other_tables_of_the_paper_have_them(tree, reported):
    for name in ("table4", "table6"):
        assert TASK in table(tree, name)["task"].to_list(), name
    transfer = table(tree, "table5")
    assert transfer.filter(pl.col("method") == MODEL_TITLE)["n_seeds"].to_list() == [1, 1, 1, 1]
    assert set(transfer["task"]) == {"drg"}
    assert TASK in table(tree, "table2")["task"].to_list()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uncertainty", "comparisons", "calibration"])
def test_the_statistics_have_them(tree, reported, name):
    frame = table(tree, name)
    assert frame.filter(pl.col("method") == MODEL_TITLE, pl.col("task") == TASK).height
    text = (tree / f"results/tables/{name}.md").read_text()
    assert MODEL_TITLE in text and TASK_TITLE in text


@pytest.mark.slow
def test_groups_of_patients_have_them(tree, reported):
    frame = pl.read_parquet(tree / "results/analysis/statistics/subgroups.parquet")
    assert frame.filter(pl.col("method") == MODEL_TITLE, pl.col("task") == TASK).height
    assert TASK in table(tree, "subgroups")["task"].to_list()  # of FlexCare


@pytest.mark.slow
def test_figures_have_them(reported):
    drawn = {name: " ".join(texts) for name, texts in reported["drawn"].items()}
    for name in ("missing_modalities", "calibration"):
        assert MODEL_TITLE in drawn[name] and TASK_TITLE in drawn[name], name
    for name in ("figure4", "figure5", "figure6"):
        assert TASK_TITLE in drawn[name], name
    assert "samples of seven tasks" in drawn["figure1c"]


@pytest.mark.slow
def test_the_page_has_them(tree, reported):
    page = (tree / "results/page/page.html").read_text()
    for text in (
        f'<td class="name">{MODEL_TITLE}</td>',
        f"{TASK_TITLE}: AUROC, AUPRC",
        f"{TASK_TITLE}: death in hospital within seven days",
        f"Loss curves of {MODEL_TITLE}, one task at a time",
        f"{TASK_TITLE} Brier",
    ):
        assert text in page, text


@pytest.mark.slow
def test_a_report_imports_no_model(reported):
    assert reported["models"] == []


BROKEN = {
    "flexcare_data/tasks/broken.py": (
        "from flexcare_data.tasks.base import Task\n\nTASK = Task(name='broken', id=9, kind='binary')\n",
        ["-m", "flexcare_model", "tables", "table3", "--output", ".", "--out", "made"],
        "flexcare_data/tasks/broken.py, line 3: TypeError: Task.__init__() missing",
    ),
    "flexcare_data/tasks/twin.py": (
        "from flexcare_data.tasks.base import Task\n\nTASK = Task(name='twin', id=5)\n",
        ["-m", "flexcare_data", "explain", "--task", "drg", "--sample", "1"],
        "flexcare_data/tasks/twin.py, line 3: expected an id that no other task has, got 5, that of diagnosis",
    ),
    "flexcare_model/models/twin.py": (
        "from flexcare_model.models.base import Model\n\n\nclass Twin(Model):\n    name = 'mt'\n",
        ["-m", "flexcare_model", "train", "--output", ".", "--model", "mmf"],
        "flexcare_model/models/twin.py, class Twin: expected a name that no other model has, got 'mt'",
    ),
    "flexcare_model/models/unfinished.py": (
        "class Unfinished(Model:\n",
        ["-m", "flexcare_model", "tables", "table3", "--output", ".", "--out", "made"],
        "flexcare_model/models/unfinished.py, line 1: ",
    ),
    "flexcare_data/resources/variables.toml": (
        "[lactate]\ndefault = 1.2\nmimic3 = [2.1]\n",
        ["-m", "flexcare_data", "explain", "--task", "drg", "--sample", "1"],
        "variables.toml, [lactate]: expected limits with 4 numbers and mimic3 with 2, or categories",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_a_mistake_in_a_declaration_is_one_message(tree, name):
    text, command, message = BROKEN[name]
    path = tree / name
    before = path.read_text() if path.is_file() else None
    path.write_text(text)
    try:
        assert run(tree, "-c", "import flexcare_data, flexcare_data.tasks, flexcare_data.variables").returncode == 0
        done = run(tree, *command)
    finally:
        path.unlink()
        if before is not None:
            path.write_text(before)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
