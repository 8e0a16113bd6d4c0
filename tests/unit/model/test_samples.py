"""Samples and batches: equal to a slow recount from the files, in every way of reading them."""

from __future__ import annotations

import json
import pickle
import shutil
import threading

import numpy as np
import polars as pl
import pytest
import torch
from support.fabricated_samples import write_output
from torch.utils.data import DataLoader

from flexcare_data.modalities import NOTE_WIDTH
from flexcare_data.parallel import prefetch
from flexcare_data.series import COLUMN_PLAN, ColumnPlan, HourlyRows, expand
from flexcare_data.store.folders import StoreError
from flexcare_data.store.shards import ShardError
from flexcare_data.tasks import TASKS
from flexcare_data.variables import CATEGORIES, COLUMNS, CONTINUOUS, VARIABLES
from flexcare_model.data.dataset import load_task, to_device
from flexcare_model.data.index import SampleError

FIELDS = ("ts", "ts_len", "img", "note_tok", "note_len", "present", "label", "visible")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_output(tmp_path_factory.mktemp("output"))


def assert_same(one, two):
    for name in FIELDS:
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=0, atol=0, msg=name)


def recount_series(output, task, sample_id, max_hours):
    """The 76 columns of one sample, hour by hour, from the files."""
    hourly = output / "data" / "hourly"
    values, observed = np.load(hourly / "values.npy"), np.load(hourly / "observed.npy")
    scaler = json.loads((hourly / "scaler.json").read_text())
    cohort = pl.read_parquet(output / f"cohorts/{task}.parquet")
    row = cohort.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
    index = pl.read_parquet(hourly / "index.parquet")
    first = index.row(by_predicate=pl.col("stay_id") == row["stay_id"], named=True)["offset"]
    rows = [(values[first + h], observed[first + h]) for h in range(row["n_hours"])]
    tails = hourly / f"{task}_tails"
    if tails.exists():
        index = pl.read_parquet(tails / "index.parquet").filter(pl.col("sample_id") == sample_id)
        for tail in index.iter_rows(named=True):
            for k in range(tail["n_rows"]):
                at = tail["offset"] + k
                rows[tail["start"] + k] = np.load(tails / "values.npy")[at], np.load(tails / "observed.npy")[at]
    matrix = []
    for numbers, charted in rows[-max_hours:]:
        line = []
        for name, number in zip(VARIABLES, numbers, strict=True):
            if name in CATEGORIES:
                line += [float(k == number) for k in range(len(CATEGORIES[name]))]
            else:
                place = CONTINUOUS.index(name)
                line.append((number - scaler["mean"][place]) / scaler["std"][place])
        matrix.append(line + [float(c) for c in charted])
    return torch.tensor(np.array(matrix), dtype=torch.float32)


@pytest.mark.parametrize("task", ["in_hospital_mortality", "phenotyping", "diagnosis"])
def test_series_equal_a_recount(output, task):
    data = load_task(output, task, None, max_hours=20, modalities=["time_series"])
    batch = data.batch(range(len(data))).check()
    for i, sample_id in enumerate(data.sample_ids):
        expected = recount_series(output, task, sample_id, 20)
        assert batch.ts_len[i] == len(expected)
        torch.testing.assert_close(batch.ts[i, : len(expected)], expected, rtol=0, atol=0)
        assert not batch.ts[i, len(expected) :].any()


def test_arrays_and_tensors_expand_to_the_same_bits():
    rng = np.random.default_rng(0)
    values = rng.normal(80, 20, (500, len(VARIABLES)))
    for column, name in enumerate(VARIABLES):
        if name in CATEGORIES:  # -1 and the last number are no category
            values[:, column] = rng.integers(-1, len(CATEGORIES[name]) + 1, len(values))
    values[rng.random(values.shape) < 0.1] = np.nan
    observed = rng.integers(0, 2, values.shape, dtype=np.uint8)
    plan = COLUMN_PLAN.standardised(rng.normal(80, 20, len(CONTINUOUS)), rng.uniform(0.5, 30, len(CONTINUOUS)))
    for columns in (COLUMN_PLAN, plan):
        array = expand(values, observed, columns)
        tensor = expand(
            torch.from_numpy(values), torch.from_numpy(observed), ColumnPlan(*map(torch.from_numpy, columns)), torch
        )
        assert array.dtype == np.float64 and array.shape == (500, len(COLUMNS))
        assert np.array_equal(array.view(np.int64), tensor.numpy().view(np.int64))
        assert np.array_equal(array.astype(np.float32).view(np.int32), tensor.float().numpy().view(np.int32))
    for column, name in enumerate(VARIABLES):
        places = [COLUMNS.index(name)] if name in CONTINUOUS else np.flatnonzero(COLUMN_PLAN.variable == column)
        cells, plain = values[:, column], expand(values, observed)[:, places]
        if name in CONTINUOUS:
            assert np.array_equal(plain[:, 0], cells, equal_nan=True)
        else:
            assert np.array_equal(plain.sum(axis=1), (cells >= 0) & (cells < len(CATEGORIES[name])))


def test_series_equal_the_expansion_of_the_data_half(output):
    data = load_task(output, "phenotyping", None, modalities=["time_series"])
    hourly = output / "data" / "hourly"
    matrix = expand(np.load(hourly / "values.npy"), np.load(hourly / "observed.npy"))
    scaler = json.loads((hourly / "scaler.json").read_text())
    columns = [COLUMNS.index(name) for name in CONTINUOUS]
    matrix[:, columns] = (matrix[:, columns] - scaler["mean"]) / scaler["std"]
    for row in (0, 7):
        (first, n), (_, n_tail) = data.inputs.places["time_series"][row]
        assert n_tail == 0
        assert torch.equal(data[row].series, torch.from_numpy(matrix[first : first + n]).float())


def test_a_tail_replaces_the_last_hour(output):
    data = load_task(output, "diagnosis", None, modalities=["time_series"])
    plain = load_task(output, "phenotyping", None, modalities=["time_series"])
    tailed = data[0].series
    same_stay = plain[plain.sample_ids.index(str(int(data.sample_ids[0]) - 20_000))].series
    assert torch.equal(tailed[:10], same_stay[:10])
    assert not torch.equal(tailed[10], same_stay[10])


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_and_split_makes_a_valid_batch(output, task):
    for split in ("train", "val", "test"):
        data = load_task(output, task, split)
        assert len(data) > 0
        batch = data.batch(range(len(data))).check()
        assert batch.task_name == task
        assert not batch.img[~batch.present[:, 1]].any()


def test_batch_loader_workers_and_collate_agree(output):
    data = load_task(output, "diagnosis", "val")
    whole = data.batch(range(len(data)))
    assert_same(whole, data.collate([data[i] for i in range(len(data))]))
    for workers in (0, 1):
        (loaded,) = DataLoader(data, batch_size=len(data), num_workers=workers, collate_fn=data.collate)
        assert_same(whole, loaded)
    assert_same(whole, pickle.loads(pickle.dumps(data)).batch(range(len(data))))


def test_pickle_holds_no_shards(output):
    data = load_task(output, "in_hospital_mortality", "val")
    data.batch([0])
    assert len(pickle.dumps(data)) < 50_000


def test_rows_keep_their_order_and_do_not_see_their_batch_mates(output):
    data = load_task(output, "readmission", "val")
    batch = data.batch([5, 0, 7])
    for place, row in enumerate([5, 0, 7]):
        alone = data.batch([row])
        hours, tokens = int(alone.ts_len), int(alone.note_len)
        assert torch.equal(batch.ts[place, :hours], alone.ts[0])
        assert torch.equal(batch.note_tok[place, :tokens], alone.note_tok[0])
        assert torch.equal(batch.img[place], alone.img[0])
        assert torch.equal(batch.label[place], alone.label[0])


def test_note_vectors_are_those_of_the_shard(output):
    data = load_task(output, "drg", None)
    index = pl.read_parquet(output / "data/notes/index.parquet").filter(pl.col("section") == "brief_hospital_course")
    cohort = pl.read_parquet(output / "cohorts/drg.parquet")
    cohort = cohort.join(index, on="note_id", how="left", maintain_order="left")
    for i in (0, 1, 17, 59):
        row = cohort.row(i, named=True)
        note = data[data.sample_ids.index(row["sample_id"])].note
        if row["note_id"] is None:
            assert note is None
            continue
        shard = np.load(output / "data/notes/shards" / f"{row['shard']}.npy")
        expected = shard[row["offset"] : row["offset"] + row["n_tokens"]].astype(np.float32)
        assert torch.equal(note, torch.from_numpy(expected))


def test_a_text_without_word_pieces_is_present_and_empty(output):
    data = load_task(output, "drg", None)
    batch = data.batch(range(len(data)))
    assert (batch.present[:, 2] & (batch.note_len == 0)).any()


def test_storages(tmp_path):
    whole = write_output(tmp_path / "float16")
    small = write_output(tmp_path / "int8", storage="int8")
    ids = write_output(tmp_path / "tokens", storage="tokens")
    rows = range(8)
    exact = load_task(whole, "readmission", "val").batch(rows).note_tok
    rounded = load_task(small, "readmission", "val").batch(rows).note_tok
    assert (exact - rounded).abs().max() < 0.02 < exact.abs().max()
    with pytest.raises(SampleError, match="embedder"):
        load_task(ids, "readmission", "val").batch(rows)

    def embedder(pieces, length):
        return pieces.unsqueeze(-1).expand(-1, -1, NOTE_WIDTH).float()

    batch = load_task(ids, "readmission", "val", embedder=embedder).batch(rows).check()
    assert batch.note_tok.shape[-1] == NOTE_WIDTH


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_resident_inputs_give_the_same_batches(tmp_path, storage):
    output = write_output(tmp_path / "output", storage=storage)
    tasks = ("phenotyping", "diagnosis", "drg")
    mapped = {task: load_task(output, task, "val") for task in tasks}
    resident = dict(zip(tasks, to_device(list(mapped.values()), "cpu"), strict=True))
    assert len({id(data.inputs.readers["image"]) for data in resident.values()}) == 1  # shared
    for task in tasks:
        rows = np.arange(len(mapped[task]))[::-1]
        assert resident[task].on_device == ("time_series", "image", "note") and mapped[task].on_device == ()
        assert_same(mapped[task].batch(rows), resident[task].batch(rows))
        assert_same(mapped[task].batch(rows), mapped[task].to("cpu").batch(rows))
        less = mapped[task].without("image")
        assert_same(less.batch([2, 0]), less.to("cpu").batch([2, 0]))
        assert_same(less.batch([2, 0]), resident[task].without("image").batch([2, 0]))


def test_batches_made_ahead(output):
    """What a GPU run does where inputs stay mapped: a thread makes the next batches; order, errors and end are kept."""
    data = load_task(output, "phenotyping", "train")
    groups = [np.arange(k, k + 3) for k in range(0, 30, 3)]
    made = list(prefetch((data.raw_batch(rows) for rows in groups), 2))
    assert len(made) == len(groups)
    for rows, raw in zip(groups, made, strict=True):
        assert torch.equal(raw.series, data.raw_batch(rows).series)

    def failing():
        yield made[0]
        raise ValueError("a shard is gone")

    stream = prefetch(failing(), 2)
    next(stream)
    with pytest.raises(ValueError, match="a shard is gone"):
        next(stream)
    stopped = prefetch((raw for raw in made), 2)
    next(stopped)
    stopped.close()  # a reader that stops early leaves no thread behind
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_what_does_not_fit_stays_mapped(output):
    data = load_task(output, "phenotyping", "val")
    (same,) = to_device([data], "cpu", budget=0)
    assert same.on_device == () and not same.resident
    rows = HourlyRows(output, "phenotyping").stays
    (series_only,) = to_device([data], "cpu", budget=rows.values.nbytes + rows.observed.nbytes)
    assert series_only.on_device == ("time_series",) and not series_only.resident
    assert_same(data.batch([0]), series_only.batch([0]))


def test_datasets_of_two_folders_do_not_share_a_device(output, tmp_path):
    other = load_task(write_output(tmp_path / "other"), "drg", "val")
    with pytest.raises(SampleError, match="one output folder"):
        to_device([load_task(output, "drg", "val"), other], "cpu")


def test_tails_of_two_tasks_are_on_the_device_side_by_side(output, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(output, both)
    tails = both / "data" / "hourly" / "readmission_tails"
    shutil.copytree(both / "data" / "hourly" / "diagnosis_tails", tails)
    index = pl.read_parquet(tails / "index.parquet")
    ids = [str(int(name) - 20_000) for name in index["sample_id"]]  # the same stays in another task
    cohort = pl.read_parquet(both / "cohorts/readmission.parquet")
    start = cohort.filter(pl.col("sample_id").is_in(ids)).sort("sample_id")["n_hours"] - 1
    index.with_columns(pl.Series("sample_id", ids), start=start).write_parquet(tails / "index.parquet")
    np.save(tails / "values.npy", np.load(tails / "values.npy")[::-1])
    mapped = [load_task(both, task, None) for task in ("diagnosis", "readmission")]
    plain = load_task(output, "readmission", None)
    place = plain.sample_ids.index(ids[0])
    assert torch.equal(mapped[1][place].series[:-1], plain[place].series[:-1])
    assert not torch.equal(mapped[1][place].series[-1], plain[place].series[-1])
    for data, moved in zip(mapped, to_device(mapped, "cpu"), strict=True):
        rows = np.arange(len(data))
        assert_same(data.batch(rows), moved.batch(rows))


def test_without_augmentation(output):
    data = load_task(output, "diagnosis", "train")
    plain = data.without_augmentation()
    expected = load_task(output, "diagnosis", "train", augment=False).batch([0, 1])
    assert_same(plain.batch([0, 1]), expected)
    assert data.augment and not torch.equal(data.batch([0, 1]).img, expected.img)


def test_modalities_taken_away(output):
    data = load_task(output, "diagnosis", None)
    bare = data.without("image", "note")
    assert not bare.present[:, 1:].any() and bare.present[:, 0].all()
    assert bare.dropped["no modality left"] == int((~data.present[:, 0]).sum())
    assert data.present[:, 1].all()  # the original is as it was
    assert bare.sample_ids == load_task(output, "diagnosis", None, modalities=["time_series"]).sample_ids


def test_a_broken_image(output):
    """dicom-0001 has no tensor: its stay keeps the other inputs, its study is no sample of diagnosis."""
    diagnosis, mortality = load_task(output, "diagnosis", None), load_task(output, "in_hospital_mortality", None)
    assert "50001" not in diagnosis.sample_ids
    assert diagnosis.dropped == {"image without tensor": 1}
    assert mortality.absent == {"image without tensor": 1}
    assert not mortality.present[mortality.sample_ids.index("30001"), 1]


def test_errors_name_what_is_missing(output, tmp_path):
    with pytest.raises(SampleError, match="expected a task of"):
        load_task(output, "mortality")
    with pytest.raises(SampleError, match="modalities"):
        load_task(output, "drg", modalities=["text"])
    with pytest.raises(StoreError, match="no such table"):
        load_task(tmp_path, "drg")
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet").with_columns(note_id=pl.lit("unknown"))
    with pytest.raises(ShardError, match="lacks 60 of the note_id values"):
        load_task(output, "readmission", None, cohort=cohort)
    with pytest.raises(IndexError):
        load_task(output, "drg")[10_000]


def test_a_foreign_cohort_without_labels(output):
    cohort = pl.read_parquet(output / "cohorts/readmission.parquet").drop("label").head(5)
    assert load_task(output, "readmission", None, cohort=cohort).batch(range(5)).check().label.tolist() == [-2.0] * 5


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("hourly/index", {"offset": -5}),
        ("hourly/index", {"offset": 10**12}),
        ("hourly/index", {"n_hours": 3}),
        ("hourly/diagnosis_tails/index", {"offset": 10**6}),
        ("hourly/diagnosis_tails/index", {"n_rows": 0}),
        ("cxr/index", {"row": 10**9}),
        ("cxr/index", {"shard": "../../../../etc/passwd"}),
        ("notes/index", {"n_tokens": 10**9}),
        ("notes/index", {"offset": -3}),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(output, tmp_path, table, change):
    copied = shutil.copytree(output, tmp_path / "copied")
    path = copied / "data" / f"{table}.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.lit(value, frame.schema[name]).alias(name) for name, value in change.items()).write_parquet(
        path
    )
    with pytest.raises(ShardError):
        load_task(copied, "diagnosis", None)


@pytest.mark.parametrize("name", ["hourly/values.npy", "hourly/diagnosis_tails/observed.npy", "cxr/shards/part-0.npy",
                                  "notes/shards/part-1.npy"])  # fmt: skip
@pytest.mark.parametrize("content", [b"", b"no array", "cut short", np.zeros((2, 3))])
def test_a_damaged_shard_is_refused(output, tmp_path, name, content):
    copied = shutil.copytree(output, tmp_path / "copied")
    path = copied / "data" / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(path.read_bytes()[:-1] if content == "cut short" else content)
    with pytest.raises(ShardError, match="rebuild it"):
        load_task(copied, "diagnosis", None)
