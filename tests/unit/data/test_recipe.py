"""A command stores nothing under a key that does not cover what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexcare_data.__main__ import main as data_command
from flexcare_data.config import load_config
from flexcare_data.plan import Plan, Product
from flexcare_data.store.recipe import Recipe, RecipeError, key_of_folder
from flexcare_model.__main__ import main as model_command
from flexcare_model.plan import ModelPlan

CONFIG = {"synthetic": {"patients": 12}, "notes": {"encoder": "tiny", "max_tokens": 16}, "train": {"seeds": [42]}}


@pytest.fixture
def plan(tmp_path) -> Plan:
    return Plan(load_config(CONFIG | {"output": str(tmp_path)}))


def spec_of(product: Product, folder: Path) -> list[str]:
    path = folder / f"{product.name}.json"
    Recipe(product.name, product.spec).write(path)
    return ["--spec", str(path)]


def command(plan: Plan, name: str, *changes: str) -> list[str]:
    """The command of stage ``name`` as the rules give it; later arguments win."""
    product, row = plan.product(name), plan.stage(name)
    words = [name.partition("-")[0], *(["--task", name.partition("-")[2]] if name.startswith("cohort-") else [])]
    if row.raw:
        words += ["--mimiciv", str(plan.root("mimiciv"))]
    words += [
        word for up, read in product.inputs.items() if up != "synthetic" for word in (f"--{up}", str(read.folder))
    ]
    words += ["--patients", "12"] if name == "synthetic" else []
    return [*words, *spec_of(product, plan.output), "--out", str(product.folder), *changes]


def refused(capsys, arguments: list[str], *texts: str, run=data_command) -> None:
    assert run(arguments) == 1
    said = capsys.readouterr().err
    for text in (*texts, "nothing was stored", "bug of the rule"):
        assert text in said
    assert not Path(arguments[len(arguments) - 1 - arguments[::-1].index("--out") + 1]).exists()


def test_the_commands_of_the_rules_are_taken(plan):
    for name in ("synthetic", "splits", "stays"):
        assert data_command(command(plan, name)) == 0
        manifest = json.loads((plan.product(name).folder / "manifest.json").read_text())
        assert manifest["spec"] == plan.product(name).spec


def test_another_option_is_refused(capsys, tmp_path):
    """A rule that no longer passes its options would store the published values under the key of others."""
    plan = Plan(load_config(CONFIG | {"output": str(tmp_path), "options": {"readmission": "hospital"}}))
    assert data_command(command(plan, "synthetic")) == 0
    refused(capsys, command(plan, "stays"), "options readmission: expected hospital, got kept_icu_stays")
    assert data_command(command(plan, "stays", "--option", "readmission=hospital")) == 0


def test_another_setting_is_refused(capsys, plan):
    refused(capsys, command(plan, "synthetic", "--patients", "13"), "settings patients: expected 12, got 13")
    refused(capsys, command(plan, "synthetic", "--seed", "2"), "settings seed: expected 1, got 2")


def test_another_upstream_folder_is_refused(capsys, plan):
    expected = plan.product("stays").key
    other = str(plan.store / "stays-0123456789ab")
    refused(capsys, command(plan, "hourly", "--stays", other), f"stays: expected {expected}, got 0123456789ab")
    elsewhere = str(plan.store / "synthetic-0123456789ab" / "mimiciv")
    refused(capsys, command(plan, "splits", "--mimiciv", elsewhere), "synthetic: expected", "got 0123456789ab")


def test_a_raw_folder_that_the_plan_does_not_have_is_refused(capsys, plan, tmp_path):
    spec = plan.product("stays").spec
    spec = spec | {"raw": dict.fromkeys(spec["raw"], "absent"), "upstream": {}}
    product = Product("stays", spec, tmp_path, tmp_path, {})
    arguments = ["stays", *spec_of(product, tmp_path), "--mimiciv", str(tmp_path)]
    refused(capsys, [*arguments, "--out", str(tmp_path / f"stays-{product.key}")], "raw admissions: expected absent")


def test_the_encoder_of_the_notes_is_compared(capsys, plan, tmp_path):
    """A prepared one by its key, a folder of the user by its content."""
    product = plan.product("notes")
    cohorts = [plan.product(name).folder for name in plan.cohorts]
    for name, folder in zip(plan.cohorts, cohorts, strict=True):
        folder.mkdir(parents=True)
        (folder / f"{name.removeprefix('cohort-')}.parquet").touch()
    words = [word for folder in cohorts for word in ("--cohorts", str(folder))]
    words = ["notes", "--sections", str(product.inputs["sections"].folder), *words, "--max-tokens", "16"]
    for more, text in (
        (["--encoder", str(tmp_path / "encoder-0123456789ab")], "upstream encoder: expected"),
        (["--encoder", str(product.inputs["encoder"].folder), "--storage", "int8"], "storage: expected float16"),
        (["--encoder", str(product.inputs["encoder"].folder), "--max-tokens", "17"], "max_tokens: expected 16, got 17"),
    ):
        arguments = [*words, *more, *spec_of(product, tmp_path), "--out", str(product.folder)]
        refused(capsys, arguments, text, run=model_command)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("{}")
    local = Plan(load_config(CONFIG | {"output": str(tmp_path), "notes": {"encoder": str(mine), "max_tokens": 16}}))
    (mine / "config.json").write_text('{"hidden_size": 4}')
    product = local.product("notes")
    (mine / "config.json").write_text('{"hidden_size": 8}')
    words += ["--encoder", str(mine), *spec_of(product, tmp_path), "--out", str(product.folder)]
    refused(capsys, words, "settings encoder: expected", run=model_command)


def test_another_place_or_product_is_refused(capsys, plan):
    out = str(plan.store / "splits-0123456789ab")
    refused(capsys, command(plan, "splits", "--out", out), f"a name that ends with -{plan.product('splits').key}")
    refused(
        capsys,
        [*command(plan, "splits"), *spec_of(plan.product("stays"), plan.output)],
        "expected a recipe of splits, got one of stays",
    )


@pytest.mark.parametrize(
    "made",
    [
        ("train", lambda models: models.run("flexcare", "six_tasks", 42)),
        ("train --interaction", lambda models: models.analysis("interaction", "flexcare", "six_tasks", 42)),
        ("analyse --kind inside", lambda models: models.analysis("inside", "flexcare", "six_tasks", 42)),
        ("statistics", lambda models: models.statistics),
        ("tables table2", lambda models: models.table("table2")),
        ("figure figure4", lambda models: models.figure("figure4")),
        ("report", lambda models: models.page("report")),
        ("card", lambda models: models.card),
        ("compare-protocols", lambda models: models.comparison(models)),
    ],
    ids=lambda made: made[0],
)
def test_a_recipe_is_made_only_in_its_own_place_and_by_its_own_command(capsys, plan, tmp_path, made):
    name, product = made[0], made[1](ModelPlan(plan))
    path = tmp_path / "recipe.json"
    Recipe(product.name, product.spec).write(path)
    words = [*name.split(), "--recipe", str(path)]
    out = str(tmp_path / f"{product.name}-0123456789ab")
    refused(capsys, [*words, "--out", out], f"-{product.key}", run=model_command)
    with pytest.raises(RecipeError, match=r"expected a recipe of figures-figure1b, got one of"):
        Recipe.read(path, makes="figures-figure1b", out=product.folder)
    assert Recipe.read(path, makes=product.spec["product"], out=product.folder).spec == json.loads(
        json.dumps(product.spec)
    )


def test_the_draws_of_the_statistics_are_in_their_key(plan, tmp_path, monkeypatch):
    """And the command takes them from there."""
    from flexcare_model import plan as planned
    from flexcare_model.report.numbers import statistics

    before = ModelPlan(plan).statistics.key
    for name, value in (("REPLICATES", 20), ("REPLICATES_SEED", 5)):
        monkeypatch.setattr(planned, name, value)
        assert ModelPlan(plan).statistics.key != before
    product = ModelPlan(plan).statistics
    taken = {}
    monkeypatch.setattr(statistics, "run", lambda results, out, **given: taken.update(given))
    path = tmp_path / "recipe.json"
    Recipe(product.name, product.spec).write(path)
    assert model_command(["statistics", "--recipe", str(path), "--out", str(product.folder)]) == 0
    assert taken == {"below": 10, "replicates": 20, "seed": 5}


def test_the_key_of_a_folder_is_at_the_end_of_its_name():
    assert key_of_folder(Path("store/cohort-drg-0123456789ab")) == "0123456789ab"
    assert key_of_folder(Path("built/stays")) == "stays"
