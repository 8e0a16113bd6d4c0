"""Several notes of a sample and vectors of another width, from the raw reports to the trained model."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from support.builds import Build, build
from support.built_samples import embed, publish
from support.encoders import LONGEST, WIDTHS, make_encoder

from flexcare_data.__main__ import main as main_of_data
from flexcare_data.synthetic.write import write_data_set
from flexcare_model.data.dataset import TaskDataset, load_task, to_device
from flexcare_model.data.index import SampleError
from flexcare_model.data.raw_batch import embed_texts
from flexcare_model.models import MODELS
from flexcare_model.notes.encoder import load_encoder
from flexcare_model.notes.vectors import NoteVectors
from flexcare_model.training.predict import predict
from flexcare_model.training.train_and_evaluate import run

TASKS = ("readmission", "diagnosis")
FAMILY = "modernbert"
MAX_TOKENS = LONGEST[FAMILY]
STORAGES = ("float16", "int8", "tokens")
REPORT = "radiology_report"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return make_encoder(FAMILY, tmp_path_factory.mktemp("encoder") / FAMILY)


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Build:
    """Reports of 250 to 900 words, so that the second or third of a sample is cut."""
    folder = tmp_path_factory.mktemp("built")
    write_data_set(folder / "raw", patients=24, seed=3, edition="2.2")
    path = folder / "raw/mimic_iv_note/note/radiology.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    parts = text.split("FINDINGS")
    words = [" ".join(["copd", "of", "type"] * (80 + 43 * (k % 6))) for k in range(len(parts))]
    long = parts[0] + "".join(f"FINDINGS: {w}. \nFINDINGS{part}" for w, part in zip(words, parts[1:], strict=False))
    path.write_bytes(gzip.compress(long.encode()))
    made = build(folder / "raw", folder / "stages", tasks=TASKS, options={"notes": "radiology"}, n_reports=3)
    cohorts = [word for task in TASKS for word in ("--cohorts", str(made.folder(f"cohort-{task}")))]
    arguments = ["images", "--mimic-cxr-jpg", str(folder / "raw/mimic_cxr_jpg"), *cohorts]
    assert main_of_data([*arguments, "--out", str(made.folder("images"))]) == 0
    return made


@pytest.fixture(scope="module")
def outputs(built, encoder, tmp_path_factory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("outputs")
    made = {s: embed(built, encoder, TASKS, storage=s, max_tokens=MAX_TOKENS) for s in STORAGES}
    return {storage: publish(built, place / storage, name, TASKS) for storage, name in made.items()}


def concatenated(output: Path, note_id: str, max_tokens: int) -> np.ndarray:
    notes = NoteVectors(output / "data/notes")
    return np.concatenate([notes.vectors(name, REPORT) for name in note_id.split(" ")])[:max_tokens].astype(np.float32)


@pytest.mark.parametrize("max_tokens", [None, 700, 3])
@pytest.mark.parametrize("task", TASKS)
def test_a_sample_reads_its_reports_newest_first(outputs, task, max_tokens):
    output = outputs["float16"]
    data = load_task(output, task, None, max_tokens=max_tokens)
    cohort = pl.read_parquet(output / f"cohorts/{task}.parquet")
    n_notes, lengths = set(), []
    for row in cohort.iter_rows(named=True):
        if row["sample_id"] not in data.sample_ids:
            continue
        note = data[data.sample_ids.index(row["sample_id"])].note
        if row["note_id"] is None:
            assert note is None
            continue
        expected = concatenated(output, row["note_id"], max_tokens or MAX_TOKENS)
        assert torch.equal(note, torch.from_numpy(expected))
        n_notes.add(row["note_id"].count(" ") + 1)
        lengths.append(len(note))
    assert {1, 2, 3} == n_notes
    assert max(lengths) == (max_tokens or MAX_TOKENS)
    batch = data.batch(range(len(data)))
    assert batch.note_len.tolist() == [0 if data[i].note is None else len(data[i].note) for i in range(len(data))]


def test_a_larger_limit_than_what_is_stored_is_that_of_the_data(outputs):
    """A run is trained on at most `notes.max_tokens` of all notes together; its table of positions may hold more."""
    data = load_task(outputs["float16"], "readmission", None, max_tokens=10**6)
    assert data.batch(range(len(data))).note_len.max() == MAX_TOKENS


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("storage", STORAGES)
def test_inputs_on_a_device_give_the_same_batches(outputs, encoder, storage, task):
    embedder = load_encoder(str(encoder)) if storage == "tokens" else None
    data = load_task(outputs[storage], task, None, embedder=embedder, augment=False)
    (resident,) = to_device([data], "cpu")
    assert "note" in resident.on_device and resident.inputs.readers["note"].storage == storage
    for rows in (range(len(data)), range(len(data))[::-1], [3]):
        one, two = data.batch(rows), resident.batch(rows)
        assert torch.equal(one.note_tok, two.note_tok) and torch.equal(one.note_len, two.note_len)
    shorter = load_task(outputs[storage], task, None, embedder=embedder, augment=False, max_tokens=500)
    both = to_device([data, shorter], "cpu")
    assert both[0].inputs.readers["note"] is both[1].inputs.readers["note"]
    for mapped, moved in zip((data, shorter), both, strict=True):
        assert torch.equal(mapped.batch([0, 1, 2]).note_tok, moved.batch([0, 1, 2]).note_tok)


@pytest.mark.parametrize("max_tokens", [None, 700])
def test_storages_hold_the_same_vectors(outputs, encoder, max_tokens):
    """Also of a report that is cut: it is embedded as a whole, then cut."""
    exact = load_task(outputs["float16"], "diagnosis", None, max_tokens=max_tokens)
    rows = range(len(exact))
    whole = exact.batch(rows).note_tok
    small = load_task(outputs["int8"], "diagnosis", None, max_tokens=max_tokens).batch(rows).note_tok
    embedder = load_encoder(str(encoder))
    ids = load_task(outputs["tokens"], "diagnosis", None, max_tokens=max_tokens, embedder=embedder)
    embedded = checked_of(ids, rows)
    assert whole.shape == small.shape == embedded.shape and whole.shape[-1] == WIDTHS[FAMILY]
    assert (whole - embedded).abs().max() < 5e-3  # half precision
    assert (whole - small).abs().max() < 0.05 * whole.abs().max()


def checked_of(data: TaskDataset, rows) -> torch.Tensor:
    return data.batch(rows).check().note_tok


def test_texts_are_embedded_alone_in_groups_of_any_size(monkeypatch):
    """The vectors of a text depend on no other one, and on no limit of padded pieces at a time."""
    calls = []

    def embedder(ids, lengths):
        calls.append(tuple(ids.shape))
        inside = torch.arange(ids.shape[1]) < lengths[:, None]
        total = (ids * inside).sum(dim=1, keepdim=True)
        # A vector of every piece that also shows its position and the whole text.
        return torch.stack([ids, torch.arange(ids.shape[1]).expand_as(ids), total.expand_as(ids)], dim=-1).float()

    # Texts 1 2 3 | 4 5, then 7 8 9 (of which one piece is kept) | a text that is not read, then none.
    ids = torch.tensor([[1, 2, 3, 4, 5], [7, 8, 9, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.int32)
    texts = np.array([[[3, 3], [2, 2]], [[1, 3], [0, 6]], [[0, 0], [0, 0]]])
    expected = [
        [[1, 0, 6], [2, 1, 6], [3, 2, 6], [4, 0, 9], [5, 1, 9]],
        [[7, 0, 24], *[[0, 0, 0]] * 4],
        [[0, 0, 0]] * 5,
    ]
    assert embed_texts(ids, texts, embedder).tolist() == expected
    assert calls == [(3, 3)]
    monkeypatch.setattr("flexcare_model.data.raw_batch.EMBEDDED_TOKENS", 1)
    assert embed_texts(ids, texts, embedder).tolist() == expected
    assert calls[1:] == [(1, 2), (1, 3), (1, 3)]


SETTINGS = {
    "tasks": ["readmission", "diagnosis"], "hidden_dim": 8, "layers": 1, "heads": 2, "epochs": 1, "baseline_epochs": 1,
    "batch_size": 16, "max_hours": 12, "threads": 2, "device": "cpu", "experts": 3,
}  # fmt: skip


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_is_trained_on_them(outputs, tmp_path, model):
    """More word pieces than the usual 512, and another width: both are those of the data, and are kept with the run."""
    multi = MODELS[model].multi_task
    folder = tmp_path / "run"
    experiment = "six_tasks" if multi else "readmission"
    run(outputs["float16"], folder, model=model, experiment=experiment, seed=1, settings=SETTINGS)
    assert (folder / "metrics.json").is_file()
    weights = load_file(folder / "model.safetensors")
    if "embedding.note.weight" in weights:
        assert weights["embedding.note.weight"].shape == (8, WIDTHS[FAMILY])
        assert weights["embedding.note_position"].shape == (MAX_TOKENS, 8)
    scores = predict(folder, "readmission", output=outputs["float16"], split="test")
    assert (
        scores.height
        and scores.select(pl.col("^score.*$|^probability.*$|^p_.*$")).null_count().sum_horizontal().sum() == 0
    )


@pytest.mark.parametrize("storage", ["int8", "tokens"])
def test_flexcare_is_trained_on_the_other_storages(outputs, encoder, tmp_path, storage):
    settings = SETTINGS | {"tasks": ["readmission"]}
    given = str(encoder) if storage == "tokens" else None
    run(
        outputs[storage],
        tmp_path / "run",
        model="flexcare",
        experiment="six_tasks",
        seed=1,
        settings=settings,
        encoder=given,
    )
    scores = predict(tmp_path / "run", "readmission", output=outputs[storage], encoder=given)
    assert scores.height == len(load_task(outputs[storage], "readmission", None))


def test_data_of_another_encoder_is_refused(outputs, built, tmp_path):
    """Unless its notes are left out."""
    narrow = make_encoder("distilbert", tmp_path / "narrow")
    name = embed(built, narrow, TASKS, storage="float16", max_tokens=40)
    other = publish(built, tmp_path / "other", name, TASKS)
    folder = tmp_path / "run"
    run(outputs["float16"], folder, model="mt", experiment="readmission", seed=1, settings=SETTINGS)
    with pytest.raises(SampleError, match=f"width {WIDTHS[FAMILY]}, as in its training, got 48"):
        predict(folder, "readmission", output=other)
    assert predict(folder, "readmission", output=other, without=("note",)).height
