"""Dataset card and Croissant description."""

from __future__ import annotations

import hashlib
import json
import logging

from flexcare_model.report.about import About
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.pages.card import croissant, dataset_card


def test_croissant_validates_with_mlcroissant(results, tmp_path, caplog):
    import mlcroissant

    path = tmp_path / "croissant.json"
    path.write_text(json.dumps(croissant(results, About(code_version="1.0.0"))))
    with caplog.at_level(logging.WARNING):
        dataset = mlcroissant.Dataset(jsonld=path)
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    assert {record.id for record in dataset.metadata.record_sets} == set(results.cohorts)


def test_croissant_describes_the_files_as_they_are(results, output):
    written = croissant(results, About(code_version="1.0.0"))
    for entry in written["distribution"]:
        content = (output / entry["contentUrl"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    for record in written["recordSet"]:
        columns = [field["source"]["extract"]["column"] for field in record["field"]]
        assert columns == results.cohorts[record["@id"]].columns


def test_card_says_what_where_from_and_what_is_wrong(results):
    text = dataset_card(results, About(config={"protocol": "flexcare"}, code_version="1.0.0"))
    for part in (
        "SYNTHETIC DATA",
        "Credentialed",
        "Known biases",
        "Known defects",
        "by patient",
        "## Samples and patients",
    ):
        assert part in text
    assert "| IHM |" in text


def test_card_of_an_empty_folder_and_of_real_data(tmp_path):
    text = dataset_card(Results(tmp_path), About(is_synthetic=False))
    assert "SYNTHETIC" not in text and "No cohort has been built yet" in text
