"""report.html: complete, self-contained, marked, and nothing in it belongs to one patient."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytest
from support.fabricated_results import fabricate, fabricate_analysis
from support.paths import RAW

from flexcare_data.config import load_config
from flexcare_data.plan import Plan
from flexcare_model.plan import ModelPlan
from flexcare_model.report.about import About
from flexcare_model.report.numbers import provenance
from flexcare_model.report.numbers.layout import Layout, number
from flexcare_model.report.numbers.results import Results
from flexcare_model.report.numbers.statistics import run as statistics
from flexcare_model.report.pages.page import _summary, build_page

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
)  # fmt: skip


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer methods than the other tests have: drawing them all takes long and shows nothing else."""
    root = fabricate(tmp_path_factory.mktemp("page") / "results", baselines=("mt",), variants=("flexcare_base",))
    fabricate_analysis(root)
    (root / "analysis/statistics").mkdir()
    statistics(Results(root), root / "analysis/statistics", below=10, replicates=50)
    return root


@pytest.fixture(scope="module")
def results(output: Path) -> Results:
    return Results(output)


@pytest.fixture(scope="module")
def page(results: Results) -> str:
    config = {"protocol": "flexcare", "raw": {"mimiciv": None}}
    return build_page(results, About(config=config, code_version="1.2.3", seeds=(40, 42)))


def without_pictures(page: str) -> str:
    return re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "data:picture", page)


def test_nothing_is_asked_from_outside(page):
    text = without_pictures(page)
    assert "http" not in re.sub(r'http-equiv="[^"]+"', "", text)
    for address in re.findall(r'(?:src|href|srcset|action|poster)="([^"]*)"', text):
        assert address.startswith(("data:", "#")), address
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|<iframe|<object|<embed", text)


def test_every_entry_of_the_contents_leads_somewhere(page):
    anchors = re.findall(r'<a href="#([^"]+)"', page)
    ids = re.findall(r'\sid="([^"]+)"', without_pictures(page))
    assert len(anchors) > 12
    assert set(anchors) <= set(ids)
    assert sorted(set(ids)) == sorted(set(ids) | set(anchors))
    sections = re.findall(r'<section class="part" id="([^"]+)"', page)
    assert len(sections) == len(set(sections))


def test_synthetic_data_is_marked_and_real_data_is_not(results, page, tmp_path):
    assert page.count("SYNTHETIC DATA") >= 3
    real = build_page(Results(tmp_path), About(config={"raw": {"mimiciv": "x"}}, is_synthetic=False))
    assert "SYNTHETIC" not in real


def test_no_identifier_of_the_cohorts_is_on_the_page(output, page):
    text = without_pictures(page)
    words = set(re.findall(r"[\w-]+", text))
    for path in sorted((output / "cohorts").iterdir()):
        cohort = pl.read_parquet(path)
        for column in ("sample_id", "subject_id", "hadm_id", "stay_id", "dicom_id", "note_id"):
            assert not words & {str(value) for value in cohort[column].drop_nulls()}, (path.name, column)


def test_small_counts_are_shown_nowhere(output, page):
    """`sign` was planted with 3 dropped values, which must be shown as a bound only."""
    row = re.search(r"<td[^>]*>sign</td>\s*<td class=\"num\">([^<]*)</td>", page)
    assert row is not None and row.group(1) == "&lt;10"


def test_absent_parts_name_the_target_that_makes_them(tmp_path):
    page = build_page(Results(tmp_path), About())
    for target in ("cohorts", "table3", "flexcare"):
        assert f"run the target <code>{target}</code>" in page


def test_variants_are_compared_only_where_there_is_a_second_one(output, page, tmp_path):
    """Table 3 already shows FlexCare; alone it would give a table of `not run` and a figure of one bar."""
    assert "Table 4: ablations" in page and "run the target <code>table4</code>" not in page
    shutil.copytree(output, tmp_path / "alone", symlinks=True)
    shutil.rmtree(tmp_path / "alone/runs/flexcare_base")
    alone = build_page(Results(tmp_path / "alone"), About(config={}, code_version="1"))
    assert "Table 4: ablations" not in alone and "run the target <code>table4</code>" in alone
    assert "Table 3: methods" in alone


def test_tasks_that_a_run_left_out_are_named_once(tmp_path):
    for seed in (40, 42):
        path = tmp_path / f"runs/flexcare/six_tasks/seed{seed}/metrics.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"metrics": {}, "n": {}, "left_out": {"readmission": "no samples", "drg": "none"}}))
    lines = _summary(Results(tmp_path), About(left_out={"drg": "raw.mimiciv has no table"}))
    assert [text for title, text in lines if title == "Left out"] == [
        "drg is left out: raw.mimiciv has no table",
        "readmission is left out of flexcare on six_tasks: no samples",
    ]


def test_the_fingerprint_of_the_cohorts(tmp_path):
    """Tasks with few samples have neither their number nor digests, also where the file was written with both."""
    assert provenance.fingerprint(Results(tmp_path), below=10) is None
    assert "No fingerprint found" in build_page(Results(tmp_path), About())
    digests = {"ids": {"digest": "0123456789abcdef"}, "labels": {"digest": "fedcba9876543210"}}
    tasks = {
        "readmission": {"samples": 1234, "parts": digests},
        "diagnosis": {"samples": "<10", "parts": {}},
        "drg": {"samples": 3, "parts": digests},
    }
    (tmp_path / "data").mkdir()
    (tmp_path / "data/fingerprint.json").write_text(json.dumps({"total": "5" * 32, "tasks": tasks}))
    header, rows, total = provenance.fingerprint(Results(tmp_path), below=10)
    assert header == ("Task", "Samples", "Ids", "Labels")
    assert rows == [
        ("readmission", "1,234", "01234567", "fedcba98"),
        ("diagnosis", "<10", "–", "–"),
        ("drg", "<10", "–", "–"),
    ]
    page = build_page(Results(tmp_path), About())
    assert total in page and "fedcba98" in page and "fedcba987" not in page


def test_time_and_memory_by_rule(tmp_path):
    for name, line in {
        "train/mt/drg/seed40-0123456789ab": "40.0\t900.5",
        "train/mmf/drg/seed40-0123456789ab": "2.5\t1000",
        "stays-0123456789ab": "7\t-",
        "images-0123456789ab-part1of2": "3\t10",
        "images-0123456789ab-part2of2": "4\t20",
    }.items():
        path = tmp_path / f"benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\n{line}\n")
    rules, jobs = provenance.resources(Results(tmp_path))
    assert rules.frame.rows() == [
        ("images-part1of2", 1, 3.0, 3.0, 10.0), ("images-part2of2", 1, 4.0, 4.0, 20.0),
        ("stays", 1, 7.0, 7.0, None), ("train", 2, 42.5, 40.0, 1000.0),
    ]  # fmt: skip
    assert jobs.frame["job"].to_list() == [
        "images-part1of2", "images-part2of2", "stays", "train/mmf/drg/seed40", "train/mt/drg/seed40",
    ]  # fmt: skip


def test_time_and_memory_of_the_inputs_of_a_page_only(tmp_path):
    """Of a run that was trained twice, or that the page does not show, nothing is listed."""
    keys = {"0123456789ab": "40.0", "ba9876543210": "2.5"}
    for key, seconds in keys.items():
        for name in (f"train/mt/drg/seed40-{key}", f"images-{key}-part1of2"):
            path = tmp_path / f"benchmarks/{name}.tsv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"s\tmax_rss\n{seconds}\t10\n")
    for key, seconds in keys.items():
        _, jobs = provenance.resources(Results(tmp_path), {key})
        assert jobs.frame["job"].to_list() == ["images-part1of2", "train/mt/drg/seed40"]
        assert jobs.frame["seconds"].to_list() == [float(seconds)] * 2
    assert provenance.resources(Results(tmp_path), set()) is None
    page = build_page(Results(tmp_path), About(products=frozenset(["0123456789ab"])))
    assert "40.0" in page and "2.5<" not in page


def test_what_a_page_shows_is_in_its_spec(tmp_path, monkeypatch):
    """The keys of all its inputs, the version of the code, and why a configured task is missing."""
    shutil.copytree(RAW / "mimiciv", tmp_path / "mimiciv")
    (tmp_path / "mimiciv/hosp/drgcodes.csv").unlink()
    config = {"raw": {"mimiciv": str(tmp_path / "mimiciv")}, "notes": {"encoder": "tiny"}, "preset": "demo"}
    models = ModelPlan(Plan(load_config(config | {"train": {"baselines": ["mt"], "seeds": [42]}})))
    product = models.page("report")
    settings = product.spec["settings"]
    run = models.run("mt", "readmission", 42)
    assert {run.key, run.inputs["hourly"].key, models.data.product("encoder").key} <= set(settings["products"])
    assert models.run("mmf", "readmission", 42).key not in settings["products"]
    assert settings["left_out"]["drg"].startswith("raw.mimiciv")
    assert str(tmp_path) not in json.dumps(settings)
    for made in (product, models.card, models.comparison(models)):
        assert made.spec["settings"]["code_version"] == version("flexcare")
    page = build_page(Results(tmp_path), About(left_out=settings["left_out"]))
    assert "drg is left out: raw.mimiciv" in page


def test_a_wide_table_is_shown_as_two():
    row = tuple(number(str(n)) for n in range(11))
    layout = Layout("wide", "Wide", tuple("abcdefghijk"), (row,), pl.DataFrame({"a": [1]}), ("note",), grouped=1)
    first, second = layout.parts(10)
    assert (first.header, second.header) == (tuple("abcdefg"), tuple("abhijk"))
    assert [cell.text for cell in second.rows[0]] == ["0", "1", "7", "8", "9", "10"]
    assert (first.notes, second.notes) == ((), ("note",))
    assert layout.parts(11) == [layout]


def test_numbers_of_metrics_json_are_on_the_page(output, page):
    path = output / "runs/flexcare/six_tasks/seed40/metrics.json"
    other = output / "runs/flexcare/six_tasks/seed42/metrics.json"
    values = [json.loads(p.read_text())["metrics"]["readmission"]["auroc"] for p in (path, other)]
    assert f"{sum(values) / 2:.4f} (" in page


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found")
def test_a_browser_shows_all_pictures_without_error_or_request(page, tmp_path: Path):
    """The page is opened from disk, without a server. A script at its end records what happened."""
    probe = """
    <script>
    addEventListener("load", () => {
      const pictures = [...document.images];
      document.querySelectorAll("details").forEach((part) => (part.open = true));
      const broken = pictures.filter((picture) => !picture.complete || picture.naturalWidth === 0).length;
      const requests = performance.getEntriesByType("resource").filter((entry) => !entry.name.startsWith("data:"));
      const wide = document.documentElement.scrollWidth > innerWidth + 1;
      const seen = {pictures: pictures.length, broken, requests: requests.length, wide};
      document.body.dataset.probe = JSON.stringify(seen);
    });
    </script>
    """
    (tmp_path / "report.html").write_text(page.replace("</body>", probe + "</body>"))
    command = [
        str(CHROMIUM), *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1366,768",
        "--virtual-time-budget=8000", "--dump-dom", (tmp_path / "report.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-probe="([^"]+)"', done.stdout)
    assert found is not None
    seen = json.loads(found.group(1).replace("&quot;", '"'))
    assert seen["pictures"] >= 4
    assert (seen["broken"], seen["requests"], seen["wide"]) == (0, 0, False)
    assert "CONSOLE" not in done.stderr, done.stderr
