"""README.md and docs/ are true: links, paths, commands and quoted messages exist, generated parts are up to date.

The tests with marker `pages` write the files of each page and run all of its commands, in a copy of the repository
with fabricated data in place of MIMIC.
"""

from __future__ import annotations

import ast
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
import snakemake
import torch
from safetensors.numpy import load_file
from support.documents import PAGES, ROOT, Place, blocks, commands
from transformers import BertConfig, BertModel

from flexcare_data.cli import commands as data_commands
from flexcare_data.generate.documents import PARTS, renewed
from flexcare_data.options import PAPER_TASKS, Options
from flexcare_model.cli import commands as model_commands
from flexcare_model.console import commands as flexcare_commands

# --- what can be read -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PARTS)
def test_generated_parts_are_up_to_date(page):
    """`python -m flexcare_data docs` writes them."""
    assert (ROOT / "docs" / page).read_text() == renewed(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert [link for link in links if not link.startswith("https://") and not (page.parent / link).exists()] == []


def test_every_page_is_reached_from_the_readme():
    text = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES[1:] if f"(docs/{page.name})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_of_the_repository_exist(page):
    """Files that a page names in code: below the packages, tests, rules, examples or workflow."""
    tops = "flexcare_data|flexcare_model|tests|rules|examples|workflow|profiles"
    named = re.findall(rf"`((?:{tops})/[\w./-]*)`", page.read_text())
    made = {block.file for other in PAGES for block in blocks(other)}
    assert [name for name in named if not (ROOT / name).exists() and name not in made] == []


def test_options_that_the_text_explains_exist():
    """A line on what an option does begins with its name and value."""
    explained = re.findall(r"^- `(\w+): (\w+)`", (ROOT / "docs/benchmark.md").read_text(), flags=re.MULTILINE)
    assert len(explained) > 5
    for name, value in explained:
        assert Options.model_validate({name: value})


VALUED = {"--cores", "--configfile", "--config", "--workflow-profile", "--profile", "--quiet"}
"""Options of Snakemake with a value, where a sentence names a target after them."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_within_the_text_exist(page):
    """Subcommands and targets that a sentence names."""
    menus = {
        "flexcare": flexcare_commands,
        "python -m flexcare_data": data_commands,
        "python -m flexcare_model": model_commands,
    }
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    targets = {"all", "cohorts", *PAPER_TASKS, *re.findall(r"^rule (\w+):", rules, flags=re.MULTILINE), "..."}
    for inline in re.findall(r"`((?:snakemake|flexcare|python -m flexcare_\w+) [^`]+)`", page.read_text()):
        program, _, rest = inline.partition(" ") if not inline.startswith("python") else _python_module(inline)
        words = shlex.split(rest)
        if program in menus and words[0] != "run":
            assert words[0] in menus[program].commands or words[0].startswith("-"), inline
        elif program in ("snakemake", "flexcare"):
            words = words[1:] if program == "flexcare" else words
            named = [word for before, word in itertools.pairwise([program, *words]) if before not in VALUED]
            assert {word for word in named if not word.startswith("-")} <= targets, inline


def _python_module(inline: str) -> tuple[str, str, str]:
    python, m, module, *words = inline.split(" ")
    return " ".join([python, m, module]), " ", " ".join(words)


def messages(path: Path) -> Iterator[str]:
    """Every text in a Python source, with three dots for each value that is filled in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@cache
def all_messages() -> tuple[str, ...]:
    sources = [path for package in ("flexcare_data", "flexcare_model") for path in (ROOT / package).rglob("*.py")]
    sources += [Path(snakemake.__file__).parent / name for name in ("exceptions.py", "cli.py")]
    rules = [line for path in (ROOT / "rules").rglob("*.smk") for line in path.read_text().splitlines()]
    return (*(text for path in sources for text in messages(path)), *rules, os.strerror(28))


@pytest.mark.parametrize("message", re.findall(r"^\| `(.+?)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M))
def test_messages_exist(message):
    """Each quoted message of docs/troubleshooting.md is one that the project (or Snakemake) still prints."""
    parts = [re.escape(part) for part in re.split(r"\.\.\.", message) if part.strip(": ")]
    assert parts
    pattern = re.compile(".*".join(parts), re.DOTALL)
    assert any(pattern.search(text) for text in all_messages())


# --- what can be run --------------------------------------------------------------------------------------------

IN_MAKE = "runs this test, or what this test runs"
FULL_SIZE = "many trainings"
DRY = {
    "make demo": IN_MAKE,
    "make test": IN_MAKE,
    "snakemake --cores 16 --configfile mine.yaml": FULL_SIZE,
    "snakemake --cores 16 results/runs/flexcare/six_tasks/seed42/metrics.json --configfile mine.yaml":
        "docs/own_models.md makes such a run",
    "snakemake --cores 16 flexcare --configfile paper.yaml": FULL_SIZE,
    "snakemake --cores 16 table3 --configfile paper.yaml": FULL_SIZE,
    "snakemake --cores 16 paper --configfile paper.yaml": FULL_SIZE,
}  # fmt: skip
"""Commands that are only planned (-n), with the reason. Those that need SLURM are only planned too."""
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A copy of the repository, with fabricated data and a small encoder where the pages have MIMIC and BioBERT.

    The folder results/ has all samples already: the pages assume what the README builds.
    """
    place = Place.make(tmp_path_factory.mktemp("documents"))
    raw = place.tree / "raw"
    place.run(f"python -m flexcare_data synthesize --patients 50 --seed 3 --out {raw}")
    place.names |= {
        "/data/mimiciv/2.0": str(raw / "mimiciv"),
        "/data/mimiciv/2.2": str(raw / "mimiciv"),
        "/data/mimic-cxr-jpg/2.0.0": str(raw / "mimic_cxr_jpg"),
        "/data/mimic-iv-note/2.2": str(raw / "mimic_iv_note"),
        "/models/biobert": str(place.tree / "models/biobert"),
        "/lab/flexcare-store": str(place.tree / "lab"),
        "dmis-lab/biobert-base-cased-v1.2": str(pickled_encoder(place.tree / "models/pickled")),
    }
    place.run("flexcare convert-encoder dmis-lab/biobert-base-cased-v1.2 /models/biobert")
    place.write_files(README)
    place.run("snakemake --cores 2 samples --configfile mine.yaml")
    cohort = pl.read_parquet(place.tree / "results/cohorts/drg.parquet")
    place.names["--sample ID"] = f"--sample {cohort['sample_id'][0]}"
    return place


def pickled_encoder(folder: Path) -> Path:
    """A BERT of BioBERT's form and width, with one layer, as it is published: weights as a pickle."""
    folder.mkdir(parents=True)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "aeiou")]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    config = BertConfig(vocab_size=len(words), num_hidden_layers=1, intermediate_size=64)
    torch.manual_seed(0)
    torch.save(BertModel(config).state_dict(), folder / "pytorch_model.bin")
    config.save_pretrained(folder)
    return folder


def follow(name: str, place: Place) -> list[str]:
    """Write the files of the README and of a page and run the commands of the page; returns what each printed."""
    page = ROOT / name
    place.write_files(README)
    place.write_files(page)
    printed = []
    for command in commands(page):
        if command.startswith("make "):
            command = command.replace("make ", "make -n ", 1)
        elif command in DRY or "profiles/slurm" in command:
            command = command.replace("snakemake ", "snakemake -n ", 1)
        printed.append(place.run(command))
    return printed


GENERAL = [str(page.relative_to(ROOT)) for page in PAGES if not page.name.startswith("add_a_")]


@pytest.mark.pages
@pytest.mark.parametrize("name", GENERAL)
def test_commands(name, place):
    """Every command of the page ends without an error. What some print is looked at in the tests below."""
    follow(name, place)


def test_no_command_hides():
    """All lines of code of the pages are commands that the tests run, or blocks of a known language."""
    known = {"yaml", "toml", "python", "sql", "mermaid", "text"}
    assert {block.language for page in PAGES for block in blocks(page)} <= known
    programs = {shlex.split(command)[0] for page in PAGES for command in commands(page)}
    assert programs <= {"make", "snakemake", "flexcare", "python", ".", "mkdir", "chmod"}
    listed = {command for page in PAGES for command in commands(page)}
    assert set(DRY) <= listed


@pytest.mark.pages
def test_python_of_the_pages(place):
    programs = [block.text for page in PAGES for block in blocks(page) if block.language == "python" and not block.file]
    assert len(programs) == 2
    printed = ""
    for program in programs:
        (place.tree / "program.py").write_text(program)
        printed += place.run("python program.py")
    assert re.search(r"\(\d+, 76\) \('capillary_refill_rate=0.0'", printed)


@pytest.mark.pages
def test_sql_of_the_pages(place):
    sql = [block.text for page in PAGES for block in blocks(page) if block.language == "sql"]
    assert len(sql) == 2
    here = Path.cwd()
    os.chdir(place.tree)
    try:
        decades, charted = (duckdb.sql(query).pl() for query in sql)
    finally:
        os.chdir(here)
    cohort = pl.read_parquet(place.tree / "results/cohorts/in_hospital_mortality.parquet")
    assert decades["samples"].sum() == cohort.height
    assert np.isclose((decades["samples"] * decades["died"]).sum(), cohort["label"].sum())
    events = pl.read_parquet(place.tree / "results/data/events.parquet").filter(
        pl.col("hours").is_between(0, 24, "left")
    )
    pulse = events.filter(pl.col("variable") == "heart_rate")
    row = charted.filter(pl.col("variable") == "heart_rate").to_dicts()[0]
    assert np.isclose(row["per_stay"], pulse.height / pulse["stay_id"].n_unique())
    assert np.isclose(row["median"], pulse["number"].median())


# --- extending: every command of the pages, and its result -----------------------------------------------------

KEYS = """
import json
from flexcare_data.config import load_config
from flexcare_data.discovery import task_names
from flexcare_data.plan import Plan, cohort_stage
from flexcare_model.plan import ModelPlan
plan = Plan(load_config({}))
cohorts = [cohort_stage(task) for task in task_names()]
names = ["stays", "splits", "events", "hourly", "sections", "radiographs", *cohorts, "audit", "images", "notes"]
run = ModelPlan(plan).run("mt", "readmission", 42)
print(json.dumps({name: plan.product(name).key for name in names} | {"run": run.key}))
"""


def keys(place: Place) -> dict[str, str]:
    return json.loads(place.run(f"{sys.executable} -c '{KEYS}'"))


def raw_of(output: Path) -> Path:
    """The fabricated raw data that ``output`` was last built from; a changed variable fabricates other data."""
    recipes = (output / "by_key/stages").glob("synthetic-*")
    return output / "store" / max(recipes, key=lambda path: path.stat().st_mtime).name


@pytest.mark.pages
def test_a_task(place):
    before = keys(place)
    printed, *_ = follow("docs/add_a_task.md", place)
    after = keys(place)
    assert after == before | {"cohort-mortality_7d": after["cohort-mortality_7d"]}
    assert "mortality_7d (The cohort of mortality 7d" in place.run("snakemake --list-target-rules")
    assert "--task mortality_7d" in printed and "--task drg" not in printed  # a target builds what it needs

    results = place.tree / "demo"
    cohort = pl.read_parquet(results / "cohorts/mortality_7d.parquet")
    stays = pl.read_parquet(results / "data/stays.parquet")
    admissions = pl.read_csv(raw_of(results) / "mimiciv/hosp/admissions.csv.gz", try_parse_dates=True)
    deaths = dict(admissions.select("hadm_id", "deathtime").drop_nulls().iter_rows())
    intimes = dict(stays.select("stay_id", "intime").iter_rows())
    assert cohort.height > 20 and cohort["label"].sum() > 0 and set(cohort["n_hours"]) == {24}
    for row in cohort.to_dicts():
        died = row["hadm_id"] in deaths
        hours = (deaths[row["hadm_id"]] - intimes[row["stay_id"]]).total_seconds() / 3600 if died else None
        assert row["label"] == (hours is not None and hours <= 168)
        assert hours is None or hours >= 24
    certificate = json.loads((results / "data/leakage.json").read_text())
    assert set(certificate["tasks"]) == {"in_hospital_mortality", "mortality_7d"}
    metrics = json.loads((results / "runs/mt/mortality_7d/seed42/metrics.json").read_text())
    assert 0 <= metrics["metrics"]["mortality_7d"]["auroc"] <= 1


@pytest.mark.pages
def test_a_model(place):
    before = keys(place)
    tested, _, planned = follow("docs/add_a_model.md", place)
    assert keys(place) == before
    assert " passed" in tested and "failed" not in tested
    assert "logs/train/late_fusion/phenotyping/seed42" in planned
    folder = place.tree / "demo/runs/late_fusion/readmission/seed42"
    assert json.loads((folder / "metrics.json").read_text())["model"] == "late_fusion"
    assert load_file(folder / "model.safetensors")["heads.readmission.weight"].shape == (1, 48)


@pytest.mark.pages
def test_a_variable(place):
    """Last, because it makes another benchmark of the copy."""
    _, printed, _ = follow("docs/add_a_variable.md", place)
    assert printed.splitlines()[-1] == "['lactate', 'observed:lactate']"
    assert "`lactate` | mmol/L" in (place.tree / "docs/data_dictionary.md").read_text()
    results = place.tree / "demo"
    samples = pl.read_parquet(results / "cohorts/readmission.parquet")["sample_id"]
    events = pl.read_parquet(results / "data/events.parquet").filter(pl.col("variable") == "lactate")
    labs = pl.read_csv(raw_of(results) / "mimiciv/hosp/labevents.csv.gz", infer_schema=False)
    charted = set(labs.filter(pl.col("itemid") == "50813")["value"].drop_nulls())
    assert events.height > 100 and set(events["value"]) <= charted
    values, observed = (np.load(results / f"data/hourly/{name}.npy") for name in ("values", "observed"))
    assert values.shape == observed.shape and values.shape[1] == 18
    assert 0 < observed[:, 17].mean() < 1 and 1.2 in values[observed[:, 17] == 0][:, 17]
    matrix = f"flexcare_data.load_matrix('demo', 'readmission', '{samples[0]}')"
    model = "MODELS['late_fusion'](ModelConfig(), {'readmission': 1}).embedding.time_series.weight"
    imports = "import flexcare_data; from flexcare_model.models import MODELS, ModelConfig"
    shapes = place.run(f'python -c "{imports}; print({matrix}.shape[1], {model}.shape[1])"')
    assert shapes.split() == ["78", "78"]
