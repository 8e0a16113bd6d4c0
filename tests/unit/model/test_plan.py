"""Plans of other options: what a target that compares configurations reads, and how its products are found."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.paths import RAW

from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_model import plan as planned
from flexcare_model.plan import ModelPlan

CONFIG = {"synthetic": {"patients": 12}, "notes": {"encoder": "tiny"}, "train": {"seeds": [42], "baselines": ["mt"]}}
RUN = ("flexcare", "six_tasks", 42)


def plan(**changes) -> ModelPlan:
    return ModelPlan(Plan(load_config(CONFIG | changes)))


def sides(product) -> dict[str, set[str]]:
    """Keys of the runs that a comparison reads, by side."""
    found: dict[str, set[str]] = {}
    for name, read in product.inputs.items():
        if read.spec.get("product") == "run":
            found.setdefault(name.partition("/")[0], set()).add(read.key)
    return found


def test_an_option_is_priced_alone(monkeypatch):
    """Flexcare with one option of corrected is another run than under either protocol, whichever is configured."""
    monkeypatch.setattr(planned, "PRICED", ("edges",))
    found = [plan(protocol=protocol) for protocol in ("flexcare", "corrected")]
    for models in found:
        runs = sides(models.comparison(models.other_protocol))
        assert set(runs) == {"flexcare", "corrected", "edges"}
        assert len(set.union(*runs.values())) == 3
        alone = plan(options={"edges": "left"})
        assert runs["edges"] == {alone.run(*RUN).key}
        assert models.comparison(models.other_protocol).spec["settings"]["priced"] == ["edges"]
    assert sides(found[0].comparison(found[0].other_protocol)) == sides(found[1].comparison(found[1].other_protocol))


def test_options_of_the_configuration_are_kept_in_other_plans():
    models = plan(options={"readmission": "hospital"})
    for other in list(models.plans())[1:]:
        assert other.data.options.readmission == "hospital"
        assert (other.config.output, other.config.store_path) == (models.config.output, models.config.store_path)


@pytest.mark.parametrize("protocol", ["flexcare", "corrected"])
def test_the_split_by_time_is_compared_with_the_random_split(protocol):
    """Configured as random or by time: the same two sides."""
    random, temporal = plan(protocol=protocol), plan(protocol=protocol, options={"split": "temporal"})
    expected = {"random": {random.run(*RUN).key}, "temporal": {temporal.run(*RUN).key}}
    assert expected["random"] != expected["temporal"]
    for models in (random, temporal):
        product = models.temporal_split
        assert sides(product) == expected
        assert product.inputs["temporal/validation-flexcare-six_tasks-seed42"].inputs["run"].key in expected["temporal"]
        assert product.inputs["temporal/splits"].key == temporal.data.product("splits").key
        assert "random/splits" not in product.inputs
    assert temporal.splits["temporal"] is temporal


def test_every_compared_product_is_found_by_its_key():
    """`plans` reaches all configurations whose products a target reads."""
    for models in (plan(), plan(options={"split": "temporal"})):
        keys = {other.run(*RUN).key for other in models.plans()}
        for product in (models.temporal_split, models.comparison(models.other_protocol)):
            assert set.union(*sides(product).values()) <= keys


def test_pages_read_predictions_of_val_only_where_patients_are_split_by_time():
    named = {split: set(plan(options={"split": split}).page("report").inputs) for split in ("hash", "temporal")}
    more = {"validation-flexcare-six_tasks-seed42", *(f"validation-mt-{task}-seed42" for task in plan().trained_tasks)}
    assert named["temporal"] - named["hash"] == more
    assert not {name for name in plan(options={"split": "temporal"}).page("so_far").inputs if "validation" in name}


def test_tables_know_whether_the_configuration_is_the_papers():
    """The edition is read from `stays`; protocol, options and data sets are settings, without any path."""
    raw = {name: str(RAW / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
    assert all(Path(folder).is_dir() for folder in raw.values())
    notes = {"encoder": "tiny"}
    expected = {
        plan(raw=raw, notes=notes): True,
        plan(raw=raw, notes=notes, options={"sampling": "hash"}): False,
        plan(raw=raw, notes=notes, protocol="corrected"): False,
        plan(raw=raw | {"mimic_iv_note": None}, notes=notes): False,
    }
    for models, is_papers in expected.items():
        for name in ("table2", "table3", "table6"):
            product = models.table(name)
            assert product.spec["settings"]["as_published"] is is_papers, name
            assert models.data.product("stays").key in product.spec["inputs"].values()
            assert str(RAW) not in str(product.spec)
        assert models.page("report").spec["settings"]["as_published"] is is_papers
        assert "as_published" not in models.table("statistics").spec["settings"]
