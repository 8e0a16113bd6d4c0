"""What counts as the code of a stage."""

from __future__ import annotations

import pytest

from flexcare_data import code_digest as source
from flexcare_data import commands
from flexcare_data.config import Config, load_config
from flexcare_data.plan import Plan


def test_a_function_counts_with_what_it_uses_of_its_module_and_nothing_else():
    code = source.function_code("flexcare_data.commands", "run_hourly")
    assert "phenotypes.parquet" in code and "def _write_counts" in code and "def _write_json" in code
    assert "run_events" not in code and "_sources" not in code
    assert commands.run_hourly.__doc__ not in code
    assert source.function_code("flexcare_data.commands", "run_nothing") == ""


def codes(config: Config) -> dict[str, str]:
    plan = Plan(config)
    return {stage: plan.spec(stage)["code"] for stage in plan.stages}


@pytest.mark.parametrize("changed", ["run_hourly", "_write_json"])
def test_a_changed_command_moves_its_stages(monkeypatch, tmp_path, changed):
    """What is read and filtered between the tables decides the content as much as the stage itself."""
    config = load_config({"output": str(tmp_path)})
    before = codes(config)
    true_code = source.function_code
    monkeypatch.setattr(
        "flexcare_data.plan.function_code",
        lambda module, name: true_code(module, name).replace(f"def {changed}(", f"def {changed}_otherwise("),
    )
    after = codes(config)
    moved = {stage for stage in before if before[stage] != after[stage]}
    assert moved == ({"hourly"} if changed == "run_hourly" else set(before) - {"notes", "cxr"})
