"""The configuration: one model, and the files made from it or laid over it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flexcare_data.config import CONFIG_DIR, Config, ConfigError, load_config
from flexcare_data.discovery import models
from flexcare_data.generate.config_files import default_yaml, json_schema
from flexcare_data.options import PROTOCOLS, Options
from flexcare_data.train_settings import settings_of


def test_default_yaml_and_schema_are_up_to_date():
    """Renew both with `python -m flexcare_data config-schema`."""
    assert (CONFIG_DIR / "default.yaml").read_text() == default_yaml()
    assert (CONFIG_DIR / "config.schema.json").read_text() == json_schema()


def test_default_yaml_holds_the_defaults():
    assert Config.model_validate(yaml.safe_load(default_yaml())) == Config()


def test_every_key_of_default_yaml_is_explained():
    lines = default_yaml().splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r" *[a-z_]+:", line)]
    assert len(keys) > 60
    assert [lines[i] for i in keys if not lines[i - 1].strip().startswith("# ")] == []


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_presets_are_valid(preset):
    config = load_config({"preset": preset})
    written = yaml.safe_load((CONFIG_DIR / f"{preset}.yaml").read_text())
    for section, values in written.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            if key == "models":
                written_ones = {f"{model}.{name}": v for model, own in value.items() for name, v in own.items()}
                found = {path: getattr(getattr(config.train.models, path.split(".")[0]), path.split(".")[1])
                         for path in written_ones}  # fmt: skip
                assert found == written_ones
                continue
            got = getattr(getattr(config, section), key)
            assert (list(got) if isinstance(got, tuple) else got) == value


def test_paper_preset_is_the_paper():
    config = load_config({"preset": "paper", "raw": {"mimiciv": "/data/mimiciv"}})
    train = config.train
    assert train.seeds == (40, 42, 44, 46, 48)
    assert (train.epochs, train.lr, train.baseline_epochs, train.baseline_lr) == (25, 1e-4, 40, 5e-4)
    assert config.protocol == "flexcare"
    assert config.resolved_options == Options()
    # Every setting of a model that it compares is written, so that another default changes no run of the paper.
    written = yaml.safe_load((CONFIG_DIR / "paper.yaml").read_text())["train"]["models"]
    for name in (*train.baselines, "flexcare"):
        own = {one.name for one in models()[name].settings if one.default is not None}
        assert set(written[name]) == own, name
    for name in models():
        assert settings_of(train, name) == settings_of(Config().train, name), name


def test_presets_apply_by_the_data():
    """Without raw data the small sizes of `demo`; with it the full ones."""
    assert load_config({}).preset == "demo"
    assert load_config({}).is_synthetic
    real = load_config({"raw": {"mimiciv": "/data/mimiciv"}})
    assert real.preset is None
    assert real.notes.encoder == "dmis-lab/biobert-base-cased-v1.2"


def test_user_settings_win_over_preset_over_default():
    config = load_config({"preset": "demo", "train": {"epochs": 2}})
    assert config.train.epochs == 2
    assert config.train.hidden_dim == yaml.safe_load((CONFIG_DIR / "demo.yaml").read_text())["train"]["hidden_dim"]
    assert config.train.heads == Config().train.heads


def test_text_values_of_the_command_line_are_read():
    """Snakemake hands nested values of --config over as text."""
    config = load_config(
        {"train": {"lr": "0.1", "compile": "false", "seeds": ["1", "2"]}, "synthetic": {"edition": 3.1}}
    )
    assert (config.train.lr, config.train.compile, config.train.seeds) == (0.1, False, (1, 2))
    assert config.synthetic.edition == "3.1"


def test_all_mistakes_are_reported_at_once_with_a_suggestion():
    mistakes = {
        "outptu": "x",
        "protocol": "flexcre",
        "train": {"epoch": 3, "lr": -1},
        "options": {"age": "anchr", "readmision": "hospital"},
    }
    with pytest.raises(ConfigError) as caught:
        load_config(mistakes)
    first, *lines = str(caught.value).splitlines()
    assert first == "wrong configuration:"
    assert len(lines) == 6
    text = "\n".join(lines)
    assert "outptu: unknown key; did you mean output?" in text
    assert "did you mean flexcare?" in text
    assert "train.epoch: unknown key; did you mean epochs?" in text
    assert "train.lr: Input should be greater than 0, got -1" in text
    assert "did you mean anchor?" in text
    assert "options.readmision: unknown key; did you mean readmission?" in text


def test_mistakes_in_the_settings_of_a_model_are_reported_with_a_suggestion():
    wrong = {"mtt": {}, "mt": {"fusion_layers": 1, "answer": "presnt", "learning_rate": 1, "epochs": 0}}
    with pytest.raises(ConfigError) as caught:
        load_config({"train": {"models": wrong}})
    text = str(caught.value)
    assert "train.models.mtt: unknown key; did you mean mt?" in text
    assert "train.models.mt.fusion_layers: unknown key; did you mean fusion_layer?" in text
    assert "train.models.mt.answer: expected 'joint' or 'present', got 'presnt'; did you mean present?" in text
    assert "train.models.mt.epochs: Input should be greater than 0, got 0" in text
    assert "train.models.mt.learning_rate: unknown key; known: lr, epochs," in text


def test_single_options_override_the_protocol():
    config = load_config({"protocol": "corrected", "options": {"split": "shuffle42", "ranges": False}})
    expected = PROTOCOLS["corrected"].model_dump() | {"split": "shuffle42", "ranges": "off"}
    assert config.resolved_options.model_dump() == expected


def test_corrected_differs_from_published_in_known_options():
    flexcare, corrected = PROTOCOLS["flexcare"].model_dump(), PROTOCOLS["corrected"].model_dump()
    assert {name for name in flexcare if flexcare[name] == corrected[name]} == {"notes"}


def test_store_is_in_the_output_unless_configured():
    assert load_config({"output": "out"}).store_path == Path("out/store")
    assert load_config({"output": "out", "store": {"path": "/lab/store"}}).store_path == Path("/lab/store")


def test_pages_show_settings_of_single_models_only_where_they_have_a_value():
    shown = load_config({"train": {"models": {"mt": {"lr": 0.01}}}}).deciding()["train"]["models"]
    assert shown["mt"] == {"lr": 0.01, "fusion_layer": 0, "answer": "joint", "aux_weight": 1.0}
    assert "flexcare_base" not in shown


@pytest.mark.parametrize(
    ("temporal", "text"),
    [
        ({"train": []}, "temporal.train: Value error, expected one or more groups of years, such as 2014 - 2016"),
        ({"train": ["2014 - 2016"]}, "expected each group once, in one of train, val and test"),
        ({"val": ["2014 - 2016", "2014 - 2016"]}, "more than once: ['2014 - 2016']"),
        ({"test": ["2017-2019"]}, "temporal.test: Value error, expected one or more groups of years"),
        ({"dev": ["2014 - 2016"]}, "temporal.dev: unknown key; known: train, val, test"),
    ],
)
def test_wrong_groups_of_years(temporal, text):
    with pytest.raises(ConfigError, match=re.escape(text)):
        load_config({"temporal": temporal})
