"""The report shows a standard deviation that no plausible values have, with the published one."""

from __future__ import annotations

import json
from pathlib import Path

from flexcare_model.report.numbers.facts import implausible_scaling
from flexcare_model.report.numbers.results import Results


def written(root: Path, **std: float) -> Results:
    (root / "data/hourly").mkdir(parents=True)
    content = {"source": "train", "columns": list(std), "mean": [0.0] * len(std), "std": list(std.values())}
    (root / "data/hourly/scaler.json").write_text(json.dumps(content))
    return Results(root)


def test_an_outlier_is_shown_with_the_published_deviation(tmp_path):
    layout = implausible_scaling(written(tmp_path, height=407_016.2, weight=25.0))
    assert layout is not None
    assert [[cell.text for cell in row] for row in layout.rows] == [["height", "407,016", "6.2", "137.5"]]
    assert layout.frame["std"].to_list() == [407_016.2]


def test_plausible_deviations_and_an_absent_scaler_show_nothing(tmp_path):
    assert implausible_scaling(written(tmp_path / "some", height=40.0)) is None
    assert implausible_scaling(Results(tmp_path / "none")) is None
