"""Note vectors: equal to a plain loop over the encoder, each text once, the same bytes with any number of threads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from flexcare_data.encoder_files import encoder_files
from flexcare_data.hashing import spec_key
from flexcare_data.job_part import JobPart
from flexcare_data.schema import NOTES_INDEX, check
from flexcare_data.stages.work import ChangedError, StageWork
from flexcare_data.store.folders import MANIFEST
from flexcare_model.notes import build as notes_build
from flexcare_model.notes import loading, prepare
from flexcare_model.notes.batching import batches
from flexcare_model.notes.build import build, wanted_notes
from flexcare_model.notes.convert import convert
from flexcare_model.notes.encoder import EncoderError, encoder_digest, load_encoder
from flexcare_model.notes.storage import dequantize, quantize
from flexcare_model.notes.tiny import make_tiny_encoder
from flexcare_model.notes.vectors import NoteVectors

PMH, BHC = "past_medical_history", "brief_hospital_course"
SECTION = NOTES_INDEX.columns[1].dtype
SPEC = {"stage": "notes"}
WORDS = ("history", "of", "type", "two", "diabetes", "mellitus", "hypertension", "atrial", "warfarin", "copd", "chf")


def invented_texts(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(1, 40))) + f" {i}" for i in range(n)]


def sections(texts: list[str], courses: list[str | None] | None = None) -> pl.DataFrame:
    ids = [f"n{i:03d}" for i in range(len(texts))]
    columns = {"note_id": ids, PMH: texts, BHC: courses or [None] * len(texts)}
    return pl.DataFrame(columns, schema={"note_id": pl.String, PMH: pl.String, BHC: pl.String})


def wanted(table: pl.DataFrame, section: str = PMH) -> pl.DataFrame:
    return table.drop_nulls(section).select("note_id", section=pl.lit(section, dtype=SECTION))


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "tiny"
    make_tiny_encoder(folder, invented_texts(50), seed=1)
    return folder


@pytest.fixture(scope="module")
def encoder(tiny):
    return load_encoder(str(tiny))


def plain_loop(encoder, text: str, max_tokens: int = 512) -> np.ndarray:
    """One text at a time, without padding, as anyone would write it."""
    ids = encoder.tokenizer(text, add_special_tokens=False, truncation=True, max_length=max_tokens)["input_ids"]
    if not ids:
        return np.zeros((0, 768), np.float32)
    with torch.no_grad():
        return encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].numpy()


# --- vectors ----------------------------------------------------------------------------------------------------


def test_vectors_equal_a_plain_loop(tiny, encoder, tmp_path):
    texts = [*invented_texts(6), "x " * 700, " ", "none"]
    table = sections(texts, courses=[*invented_texts(8, seed=5), None])
    both = pl.concat([wanted(table), wanted(table, BHC)])
    counts = build(table.lazy(), both, str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC)
    assert counts["notes"] == 17 and counts["texts_without_tokens"] == 1
    index = check(pl.read_parquet(tmp_path / "notes-1" / "index.parquet"), NOTES_INDEX)
    assert index.filter(note_id="n006")["n_tokens"].to_list()[0] == 512
    reader = NoteVectors(tmp_path / "notes-1")
    for section in (PMH, BHC):
        for note_id, text in table.drop_nulls(section).select("note_id", section).iter_rows():
            expected = plain_loop(encoder, text)
            got = reader.vectors(note_id, section)
            assert got.shape == expected.shape and got.dtype == np.float16
            assert np.abs(got - expected).max(initial=0) < 5e-3  # half precision, values below 5
    with pytest.raises(KeyError, match="in no cohort"):
        reader.vectors("n008", BHC)


def test_padding_has_no_effect(encoder):
    ids = torch.randint(5, 40, (1, 6), generator=torch.Generator().manual_seed(0))
    alone = encoder.vectors(ids, torch.tensor([6]))
    padded = encoder.vectors(
        torch.cat([torch.cat([ids, torch.full((1, 9), 7)], 1), torch.full((1, 15), 3)]), torch.tensor([6, 0])
    )
    torch.testing.assert_close(padded[:1, :6], alone)
    assert padded[0, 6:].abs().sum() == 0 and padded[1].abs().sum() == 0


def test_the_encoder_is_frozen_and_in_eval_mode(encoder):
    assert not encoder.model.training and not any(p.requires_grad for p in encoder.model.parameters())


def test_a_slice_is_not_a_copy(tiny, tmp_path):
    table = sections(invented_texts(3))
    build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC)
    reader = NoteVectors(tmp_path / "notes-1")
    (shard,) = reader.rows.arrays
    assert isinstance(shard.base, np.memmap) and np.shares_memory(reader.vectors("n001", PMH), shard)


def test_wanted_notes():
    def cohort(*ids):
        return pl.DataFrame({"note_id": ids}, schema={"note_id": pl.String})

    pairs = wanted_notes({"phenotyping": cohort("b", "a", None), "readmission": cohort("a"), "drg": cohort("a")})
    assert pairs.with_columns(pl.col("section").cast(pl.String)).rows() == [("a", PMH), ("a", BHC), ("b", PMH)]


def test_a_wanted_section_that_is_missing_is_an_error(tiny, tmp_path):
    table = sections(invented_texts(3))
    unknown = wanted(table).head(1).with_columns(note_id=pl.lit("n999"))
    more = pl.concat([wanted(table), unknown])
    with pytest.raises(ValueError, match="4 sections are wanted, 3 of them"):
        build(table.lazy(), more, str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC)


# --- once per lab -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["float16", "int8", "tokens"])
def test_bytes_do_not_depend_on_threads(tiny, tmp_path, storage):
    table = sections(invented_texts(30))
    for threads in (1, 3):
        out = tmp_path / f"store{threads}" / "notes-1"
        build(table.lazy(), wanted(table), str(tiny), out_dir=out, spec=SPEC, storage=storage, threads=threads)
    assert files(tmp_path / "store1") == files(tmp_path / "store3")


def test_each_text_is_embedded_once(tiny, tmp_path, monkeypatch):
    embedded = []
    real = notes_build.load_into_memory

    def counting(name):
        encoder = real(name)
        vectors = encoder.vectors
        object.__setattr__(encoder, "vectors", lambda ids, lengths: embedded.extend(lengths) or vectors(ids, lengths))
        return encoder

    monkeypatch.setattr(notes_build, "load_into_memory", counting)

    def run(name: str, table: pl.DataFrame, **settings) -> int:
        embedded.clear()
        build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / name, spec={"s": name}, **settings)
        return len(embedded)

    texts = invented_texts(10)
    assert run("notes-1", sections(texts + texts)) == 10
    assert run("notes-2", sections(texts[3:])) == 0
    assert run("notes-3", sections([*texts, "a new one"])) == 1
    assert run("notes-4", sections(texts), max_tokens=4) == 10
    reader, old = NoteVectors(tmp_path / "notes-3"), NoteVectors(tmp_path / "notes-1")
    assert (reader.vectors("n002", PMH) == old.vectors("n012", PMH)).all()
    assert len(NoteVectors(tmp_path / "notes-4").vectors("n000", PMH)) <= 4


def test_a_stopped_build_keeps_its_parts(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(notes_build, "PART_TOKENS", 200)
    table = sections(invented_texts(40))
    out, whole = tmp_path / "store" / "notes-1", tmp_path / "whole" / "notes-1"

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(table.lazy(), wanted(table), str(tiny), out_dir=out, spec=SPEC, progress=stop)
    (pool,) = (tmp_path / "store").glob("vectors-*")
    assert len(list(pool.glob("part-*.parquet"))) >= 1 and not out.exists()
    todo = []
    build(
        table.lazy(), wanted(table), str(tiny), out_dir=out, spec=SPEC, progress=lambda done, total: todo.append(total)
    )
    build(table.lazy(), wanted(table), str(tiny), out_dir=whole, spec=SPEC)
    assert todo[0] < pl.read_parquet(whole / "index.parquet")["n_tokens"].sum() * 0.7
    assert files(tmp_path / "store") == files(tmp_path / "whole")


@pytest.mark.parametrize("total", [2, 5])
def test_bytes_do_not_depend_on_the_number_of_jobs(tiny, tmp_path, monkeypatch, total):
    """In any order, with more jobs than parts too, and where the pool holds some of the texts already."""
    monkeypatch.setattr(notes_build, "PART_TOKENS", 200)
    table = sections(invented_texts(40))
    seen, shared, whole = [], tmp_path / "shared" / "notes-1", tmp_path / "whole" / "notes-1"
    for out in (shared, whole):
        build(table.lazy(), wanted(table)[::7], str(tiny), out_dir=out.with_name("notes-0"), spec=SPEC)
    build(table.lazy(), wanted(table), str(tiny), out_dir=whole, spec=SPEC)
    for number in range(total, 0, -1):
        build(table.lazy(), wanted(table), str(tiny), out_dir=shared, spec=SPEC, part=JobPart(number, total))
        assert not shared.exists()
    build(table.lazy(), wanted(table), str(tiny), out_dir=shared, spec=SPEC, progress=lambda *call: seen.append(call))
    assert seen == []
    assert files(tmp_path / "shared") == files(tmp_path / "whole")


def test_progress_ends_with_all_tokens(tiny, tmp_path):
    table, calls = sections(invented_texts(30)), []
    counts = build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC,
                   progress=lambda *call: calls.append(call))  # fmt: skip
    assert calls[-1] == (counts["tokens"], counts["tokens"])
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)


def test_no_notes_at_all(tiny, tmp_path):
    table = sections([])
    counts = build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC)
    assert counts["notes"] == 0 and NoteVectors(tmp_path / "notes-1").places == {}


@pytest.mark.parametrize("when", ["before the job", "while it is loaded", "while texts are embedded"])
def test_an_encoder_that_changes_while_the_stage_is_made(tiny, tmp_path, monkeypatch, when):
    """Nothing is stored, and no vector of the new encoder is stored as one of the old encoder."""
    folder, store = shutil.copytree(tiny, tmp_path / "mine"), tmp_path / "store"
    table = sections(invented_texts(20))
    upstream = {"sections": tmp_path / "sections", "cohort-readmission": tmp_path / "readmission"}
    for place in upstream.values():
        place.mkdir()
    table.write_parquet(tmp_path / "sections/sections.parquet")
    table.select("note_id").write_parquet(tmp_path / "readmission/readmission.parquet")
    settings = {"encoder": str(folder), "storage": "float16", "max_tokens": 512, "batch_tokens": 64, "device": "cpu"}

    def planned() -> StageWork:
        spec = {"settings": {"encoder": encoder_files(folder)}}
        return StageWork(
            "notes", store / f"notes-{spec_key(spec)}", None, upstream=upstream, settings=settings, spec=spec
        )

    def alter(*_: object) -> None:
        """Overwrite the weights in place, as ``cp`` does."""
        weights = folder / "model.safetensors"
        content = weights.read_bytes()
        with weights.open("r+b") as file:
            file.seek(len(content) // 2)
            file.write(bytes(len(content) // 4))

    work = planned()
    if when == "before the job":
        alter()
    elif when == "while it is loaded":
        real = loading.load_encoder
        monkeypatch.setattr(loading, "load_encoder", lambda name: alter() or real(name))
    else:
        monkeypatch.setattr(notes_build, "meter", lambda name: alter)
    with pytest.raises((ChangedError, EncoderError), match=r"has changed .* nothing was stored\. Give the same"):
        notes_build.run(work)
    assert not work.out.exists()
    monkeypatch.undo()
    notes_build.run(planned())
    expected = {}
    for name, encoder in (("old", tiny), ("new", folder)):
        whole = tmp_path / name / "notes-1"
        build(table.lazy(), wanted(table), str(encoder), out_dir=whole, spec=SPEC, batch_tokens=64, device="cpu")
        expected |= {path.name: files(path) for path in (tmp_path / name).glob("vectors-*")}
    assert len(expected) == 2
    for pool in store.glob("vectors-*"):
        found = files(pool)
        assert found == {name: expected[pool.name][name] for name in found}


def prepared(store: Path, encoder: str, table: pl.DataFrame | None = None) -> Path:
    """The folder of the stage `encoder`."""
    upstream = {}
    if table is not None:
        upstream["sections"] = store / "sections-1"
        upstream["sections"].mkdir(parents=True, exist_ok=True)
        table.write_parquet(upstream["sections"] / "sections.parquet")
    out = store / "encoder-1"
    prepare.run(StageWork("encoder", out, options=None, upstream=upstream, settings={"encoder": encoder}))
    return out


def test_the_encoder_of_a_trial_is_made_of_the_texts(tmp_path):
    table = sections(invented_texts(12))
    for store in (tmp_path / "a", tmp_path / "b"):
        made = prepared(store, prepare.TINY, table)
        build(table.lazy(), wanted(table), made, out_dir=store / "notes-1", spec=SPEC)
        assert (store / "notes-1" / "encoder").readlink() == Path("../encoder-1")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    made = load_encoder(str(tmp_path / "a" / "notes-1" / "encoder"))
    expected = plain_loop(made, table[PMH][4])
    assert np.abs(NoteVectors(tmp_path / "a" / "notes-1").vectors("n004", PMH) - expected).max() < 5e-3


def test_an_encoder_of_the_hub_is_kept_in_the_store(tiny, tmp_path, monkeypatch):
    """Its files, not the links of the hub's cache, which may be cleared; what has no effect stays behind."""
    snapshot = tmp_path / "hub" / "models--group--name" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    for path in tiny.iterdir():
        (snapshot / path.name).symlink_to(path)
    (snapshot / "README.md").write_text("words")
    references = snapshot.parents[1] / "refs"
    references.mkdir()
    (references / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made = prepared(tmp_path / "store", "group/name")
    assert sorted(path.name for path in made.iterdir()) == sorted([*(path.name for path in tiny.iterdir()), MANIFEST])
    assert not any(path.is_symlink() for path in made.iterdir())
    assert encoder_digest(made) == encoder_digest(tiny)
    ours, theirs = (load_encoder(str(folder)) for folder in (made, tiny))
    np.testing.assert_array_equal(plain_loop(ours, "history of chf"), plain_loop(theirs, "history of chf"))


# --- storage ----------------------------------------------------------------------------------------------------


def test_int8_is_near_float16(tiny, tmp_path):
    table = sections(invented_texts(12))
    for storage in ("float16", "int8"):
        out = tmp_path / storage / "notes-1"
        build(table.lazy(), wanted(table), str(tiny), out_dir=out, spec=SPEC, storage=storage)
    half, small = (NoteVectors(tmp_path / storage / "notes-1") for storage in ("float16", "int8"))
    for note_id in table["note_id"]:
        expected, got = half.vectors(note_id, PMH).astype(np.float32), small.vectors(note_id, PMH)
        step = np.abs(expected).max(axis=1, keepdims=True) / 127
        assert (np.abs(got - expected) <= 0.52 * step + 2e-3).all()
        assert np.linalg.norm(got - expected) < 0.01 * np.linalg.norm(expected)


def test_quantize_edge_cases():
    vectors = np.array([[0, 0, 0], [1e-9, 0, 0], [30000, -30000, 1], [1, -0.5, 0.25]], np.float32)
    values, scale = quantize(vectors)
    assert values.dtype == np.int8 and scale.dtype == np.float16
    np.testing.assert_allclose(dequantize(values, scale), vectors, rtol=0.01, atol=150)
    np.testing.assert_allclose(dequantize(values, scale)[3], vectors[3], atol=0.005)
    assert (dequantize(*quantize(vectors[:2])) == 0).all()
    assert quantize(np.zeros((0, 3), np.float32))[0].shape == (0, 3)


def test_word_pieces_only(tiny, encoder, tmp_path):
    table = sections(invented_texts(5))
    build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC, storage="tokens")
    reader = NoteVectors(tmp_path / "notes-1")
    ids, scale = reader.stored("n003", PMH)
    assert ids.dtype == np.int32 and scale is None
    vectors = encoder(torch.from_numpy(ids.astype(np.int64))[None], torch.tensor([len(ids)]))[0]
    np.testing.assert_allclose(vectors.numpy(), plain_loop(encoder, table[PMH][3]), atol=1e-5)
    with pytest.raises(ValueError, match="word-piece ids"):
        reader.vectors("n003", PMH)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_is_near_the_cpu(tiny, tmp_path):
    table = sections(invented_texts(200))
    for device in ("cpu", "cuda"):
        out = tmp_path / device / "notes-1"
        build(table.lazy(), wanted(table), str(tiny), out_dir=out, spec=SPEC, device=device)
    cpu, cuda = (NoteVectors(tmp_path / device / "notes-1") for device in ("cpu", "cuda"))
    for note_id in table["note_id"]:
        expected, got = cpu.vectors(note_id, PMH).astype(np.float32), cuda.vectors(note_id, PMH).astype(np.float32)
        assert np.linalg.norm(got - expected) < 0.02 * np.linalg.norm(expected)


def test_cuda_where_there_is_none(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    table = sections(invented_texts(2))
    with pytest.raises(EncoderError, match=r"expected auto or cpu.*got cuda"):
        build(table.lazy(), wanted(table), str(tiny), out_dir=tmp_path / "notes-1", spec=SPEC, device="cuda")


# --- batches ----------------------------------------------------------------------------------------------------


def test_batches_hold_the_budget_and_every_text_once():
    lengths = np.sort(np.random.default_rng(0).integers(0, 512, 300))
    chosen = batches(lengths, 2048)
    assert [i for a, b in chosen for i in range(a, b)] == list(np.flatnonzero(lengths))
    assert all((b - a) * lengths[b - 1] <= 2048 for a, b in chosen)
    assert batches(np.array([600, 700]), 512) == [(0, 1), (1, 2)]  # a text is never cut for the budget
    assert batches(np.array([0, 0]), 512) == [] and batches(np.array([], int), 512) == []


# --- encoders ---------------------------------------------------------------------------------------------------


def test_the_small_encoder_is_reproducible(tmp_path):
    texts = invented_texts(20)
    for name, order in (("a", texts), ("b", texts[::-1])):
        make_tiny_encoder(tmp_path / name, order, seed=3)
    make_tiny_encoder(tmp_path / "c", texts, seed=4)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    digests = {name: encoder_digest(tmp_path / name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_unknown_words_become_pieces(encoder):
    pieces = encoder.tokenizer.convert_ids_to_tokens(encoder.pieces(["hypertensive"], 512)[0].tolist())
    assert pieces[0] == "hyper" or pieces[0].startswith("hyp")
    assert "".join(piece.removeprefix("##") for piece in pieces) == "hypertensive"


@pytest.fixture
def pickled(tiny, tmp_path) -> Path:
    """A folder as BioBERT's: pickled weights with the names of old checkpoints, of a model with a training head."""
    folder = tmp_path / "pickled"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    old = {}
    for name, tensor in weights.items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        if not name.startswith("pooler."):
            old[f"bert.{name}"] = tensor
    old["cls.predictions.bias"] = torch.zeros(3)
    torch.save(old, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_refused_and_can_be_converted(pickled, encoder, tmp_path):
    with pytest.raises(EncoderError, match="convert-encoder"):
        load_encoder(str(pickled))
    convert(str(pickled), tmp_path / "converted")
    converted = load_encoder(str(tmp_path / "converted"))
    assert not list((tmp_path / "converted").glob("*.bin"))
    np.testing.assert_array_equal(plain_loop(converted, "history of chf"), plain_loop(encoder, "history of chf"))


def test_converting_runs_no_code(pickled, tmp_path):
    """A pickle can name any function; this one would make a file."""

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"bert.embeddings.word_embeddings.weight": Trap()}, pickled / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="cannot be read"):
        convert(str(pickled), tmp_path / "converted")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "converted").exists()


def test_weights_that_are_missing_are_not_made_up(pickled, tiny, tmp_path):
    from safetensors.torch import save_file

    weights = load_file(tiny / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, pickled / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EncoderError, match="1 weights are missing"):
        load_encoder(str(pickled))
    torch.save({}, pickled / "pytorch_model.bin")
    with pytest.raises(EncoderError, match="weights are missing"):
        convert(str(pickled), tmp_path / "converted")


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda f: (f / "config.json").unlink(), "expected config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be loaded"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x10"), "cannot be loaded"),
    ],
)
def test_damaged_encoders_are_errors(tiny, tmp_path, harm, expected):
    folder = tmp_path / "encoder"
    shutil.copytree(tiny, folder)
    harm(folder)
    with pytest.raises(EncoderError, match=expected):
        load_encoder(str(folder))


def test_a_hub_name_is_not_downloaded_offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(EncoderError, match=r"HF_HUB_OFFLINE.*notes\.encoder"):
        load_encoder("dmis-lab/no-such-encoder")


def test_what_has_no_effect_is_not_in_the_digest(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "copy")
    config = json.loads((tmp_path / "copy" / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"transformers_version": "4.0"}))
    (tmp_path / "copy" / "README.md").write_text("words")
    assert encoder_digest(tmp_path / "copy") == encoder_digest(tiny)
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1.0}))
    assert encoder_digest(tmp_path / "copy") != encoder_digest(tiny)
