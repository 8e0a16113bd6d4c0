"""Encoders of any family, width and number of positions: their vectors, their limits, and the training on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from support.encoders import LONGEST, WIDTHS, WORDS, make_encoder

from flexcare_data.schema import NOTES_INDEX
from flexcare_model.notes.build import build
from flexcare_model.notes.encoder import EncoderError, encoder_width, load_encoder
from flexcare_model.notes.vectors import NoteVectors

PMH = "past_medical_history"
SECTION = NOTES_INDEX.columns[1].dtype
FAMILIES = tuple(WIDTHS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("encoders")
    return {family: make_encoder(family, place / family) for family in FAMILIES}


def text(n: int, seed: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, size=n))


def notes(texts: list[str]) -> tuple[pl.LazyFrame, pl.DataFrame]:
    table = pl.DataFrame({"note_id": [f"n{i}" for i in range(len(texts))], PMH: texts})
    return table.lazy(), table.select("note_id", section=pl.lit(PMH, dtype=SECTION))


def alone(encoder, words: str) -> np.ndarray:
    """One text, without padding and without a mask."""
    ids = torch.tensor([encoder.tokenizer(words, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        return encoder.model(input_ids=ids).last_hidden_state[0].numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_width_and_positions_are_those_of_the_encoder(folders, family):
    encoder = load_encoder(str(folders[family]))
    assert encoder_width(folders[family]) == encoder.width == WIDTHS[family]
    assert encoder.longest == LONGEST[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_batch_equals_single_texts(folders, family):
    """Up to the last position, beside a text of one piece and one without any."""
    encoder = load_encoder(str(folders[family]))
    texts = [text(n, seed) for seed, n in enumerate((LONGEST[family], 1, 40, 3))]
    pieces = [torch.from_numpy(ids).long() for ids in encoder.pieces(texts, LONGEST[family])]
    lengths = torch.tensor([*map(len, pieces), 0])
    ids = torch.full((5, LONGEST[family]), 3)  # what padding holds has no effect
    for row, own in zip(ids, pieces, strict=False):
        row[: len(own)] = own
    hidden = encoder.vectors(ids, lengths)
    assert hidden.isfinite().all()
    for row, words, n in zip(hidden, texts, lengths, strict=False):
        np.testing.assert_allclose(row[:n].numpy(), alone(encoder, words), atol=2e-5)
        assert not row[n:].any()
    assert not hidden[4].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_vectors_on_disk_have_the_width_of_the_encoder(folders, tmp_path, family):
    longest = LONGEST[family]
    texts = [text(n, seed) for seed, n in enumerate((longest + 200, 5, 300, 1, 520))]
    table, wanted = notes([*texts, " "])
    made = {}
    for storage in ("float16", "int8", "tokens"):
        out = tmp_path / f"notes-{storage}"
        build(table, wanted, folders[family], out_dir=out, spec={}, storage=storage, max_tokens=longest, device="cpu")
        made[storage] = NoteVectors(out)
        assert (made[storage].width, made[storage].max_tokens) == (WIDTHS[family], longest)
    encoder = load_encoder(str(folders[family]))
    for number, words in enumerate(texts):
        expected = alone(encoder, " ".join(words.split()[:longest]))
        got = made["float16"].vectors(f"n{number}", PMH)
        np.testing.assert_allclose(got.astype(np.float32), expected, atol=5e-3)
        rounded = made["int8"].vectors(f"n{number}", PMH)
        assert rounded.shape == expected.shape
        assert np.abs(rounded - expected).max() < 0.05 * np.abs(expected).max()
        ids, _ = made["tokens"].stored(f"n{number}", PMH)
        assert len(ids) == min(longest, len(words.split()))


@pytest.mark.parametrize("family", FAMILIES)
def test_more_tokens_than_positions_are_refused(folders, tmp_path, family):
    table, wanted = notes([text(9, 0)])
    message = f"notes.max_tokens: expected at most {LONGEST[family]} for this encoder, got {LONGEST[family] + 1}"
    with pytest.raises(EncoderError, match=message):
        build(table, wanted, folders[family], out_dir=tmp_path / "notes", spec={}, max_tokens=LONGEST[family] + 1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tokenizer_without_a_limit_leaves_that_of_the_model(tmp_path, family):
    """The position table of RoBERTa has two rows more than it has positions for pieces."""
    folder = make_encoder(family, tmp_path / "encoder")
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["model_max_length"]
    path.write_text(json.dumps(settings))
    assert load_encoder(str(folder)).longest == LONGEST[family]
    path.write_text(json.dumps(settings | {"model_max_length": 77}))
    assert load_encoder(str(folder)).longest == 77


def test_an_encoder_without_a_width_is_an_error(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"')
    with pytest.raises(EncoderError, match="no width in its configuration"):
        encoder_width(tmp_path)
