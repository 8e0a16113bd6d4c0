"""No patient's value outside the data folders; no network; no pickle; hostile files are refused."""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import canaries, conditions
from support.killable import digests, run
from support.prepared import PATCHES
from test_killed_builds import CONFIG, ROOT, end, start

DATA = ("data/", "cohorts/", "store/", "meds_labels/", "analysis/", "image_list.txt")
"""What holds ids or values by design (docs/workflow.md), and below runs/*/*/*/ the folder predictions/."""


def is_data(name: str) -> bool:
    return name.startswith(DATA) or re.match(r"runs/[^/]+/[^/]+/[^/]+/predictions/", name) is not None


def texts(path: Path) -> str:
    """Content of a file: its text with what is encoded in it, the values of a table, else its bytes."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).select(pl.all().cast(pl.String, strict=False)).write_csv()
    content = path.read_bytes().decode("utf-8", "replace")
    encoded = re.findall(r"base64,([A-Za-z0-9+/=]+)", content)
    plain = re.sub(r"base64,[A-Za-z0-9+/=]+", "", content)
    return plain + "".join(base64.b64decode(part).decode("utf-8", "replace") for part in encoded)


@pytest.fixture(scope="module")
def reported(base, tmp_path_factory) -> tuple[Path, list[str]]:
    """A copy of the output with every table, figure and page, and what the commands printed."""
    output, printed = tmp_path_factory.mktemp("reported") / "output", [*base.printed]
    shutil.copytree(base.output, output, symlinks=True)
    for command in (
        *(["tables", f"table{number}", "--out", "tables"] for number in range(2, 7)),
        *(["figure", f"figure{name}", "--out", "figures"] for name in ("1b", "1c", "4")),
        ["statistics", "--replicates", "20", "--out", "analysis/statistics"],
        ["tables", "statistics", "--out", "tables"],
        ["card", "--out", "card"],
        ["report", "--seeds", "40", "--out", "report"],
    ):
        done = run(["flexcare_model", *command[:-1], output / command[-1], "--output", output], watched=output)
        assert done.status == 0, done.printed
        printed.append(done.printed)
    return output, printed


def test_canaries_are_in_the_data_and_nowhere_else(base, reported):
    output, printed = reported
    known = canaries.identifiers(base.raw)
    assert len(known) > 500
    sections = pl.read_parquet(output / "data/notes/sections.parquet")
    assert sections["past_medical_history"].drop_nulls().str.contains(canaries.NAME).any()
    assert canaries.betrayed(sections.head(1).write_csv(), known)
    names = [path.relative_to(output).as_posix() for path in sorted(output.rglob("*")) if path.is_file()]
    outside = [name for name in names if not is_data(name)]
    assert len(outside) > 40
    found = {name: canaries.betrayed(texts(output / name), known) for name in outside}
    assert {name: betrayed for name, betrayed in found.items() if betrayed} == {}
    assert canaries.betrayed("\n".join(outside), known) == set()
    assert canaries.betrayed("\n".join(printed), known) == set()


@pytest.mark.parametrize("openly", [False, True], ids=["odd rows", "an open quote"])
def test_no_error_or_count_quotes_a_raw_row(base, tmp_path, openly):
    """Rows of canaries in each column of every table, as errors of libraries would quote them."""
    raw = tmp_path / "raw"
    shutil.copytree(base.raw, raw)
    canaries.spoil(raw, openly=openly)
    known, failed = canaries.identifiers(base.raw), 0
    for stage in ("stays", "splits", "events", "sections", "cohort-diagnosis", "cohort-drg"):
        done = run(base.command(stage, tmp_path / "store" / stage, raw), watched=tmp_path)
        assert canaries.betrayed(done.printed, known) == set(), stage
        assert "unexpected" not in done.printed, done.printed
        failed += done.status
        for name in ("flow.json", "dropped.json"):
            if (tmp_path / "store" / stage / name).exists():
                assert canaries.betrayed((tmp_path / "store" / stage / name).read_text(), known) == set(), stage
    assert bool(failed) == openly


def test_an_unexpected_error_withholds_its_words(base, tmp_path, capfd, monkeypatch):
    """Polars quotes the values that it cannot convert."""
    from flexcare_data.__main__ import main

    def convert(work):
        pl.Series([canaries.SENTENCE]).cast(pl.Int64)

    monkeypatch.setattr("flexcare_data.stages.splits.run", convert)
    arguments = ["splits", "--mimiciv", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.delenv("FLEXCARE_FULL_ERRORS", raising=False)
    assert main(arguments) == 1
    printed = capfd.readouterr().err
    assert canaries.NAME not in printed and "InvalidOperationError" in printed and "test_privacy.py" in printed
    monkeypatch.setenv("FLEXCARE_FULL_ERRORS", "1")
    with pytest.raises(pl.exceptions.PolarsError, match=canaries.NAME):
        main(arguments)


# --- network ----------------------------------------------------------------------------------------------------


def test_data_is_built_with_the_network_cut(tmp_path):
    """Without a network, loopback included: the workflow and its commands need none."""
    if not conditions.possible(conditions.without_network):
        pytest.skip("a network namespace is not permitted here")
    config = CONFIG | {"synthetic": {"patients": 12, "seed": 3}}
    end(start(tmp_path, "readmission", config=config, before=conditions.without_network))
    assert (tmp_path / "results/cohorts/readmission.parquet").exists()


def test_models_are_trained_with_every_connection_refused(base, tmp_path):
    """Notes are embedded, a model trained and the report written without a single attempt to connect."""
    for command, out in (
        (base.command("notes", tmp_path / "store/notes"), tmp_path / "store"),
        (base.command("train", tmp_path / "run"), tmp_path / "run"),
    ):
        done = run(command, watched=out, patches=PATCHES if out.name == "store" else {}, before=(no_connections,))
        assert done.status == 0, done.printed


def no_connections() -> None:
    def hook(event: str, details: tuple) -> None:
        if event in ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto"):
            os._exit(77)

    sys.addaudithook(hook)


# --- pickle -----------------------------------------------------------------------------------------------------


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("package", ["flexcare_data", "flexcare_model"])
def test_no_source_loads_or_writes_a_pickle(package):
    unsafe = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
    for path in (ROOT / package).rglob("*.py"):
        tree = ast.parse(path.read_text())
        names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert {name.split(".")[0] for name in names}.isdisjoint(unsafe), path
        for name, call in calls(tree):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            if name in ("np.load", "numpy.load", "np.save"):
                assert given.get("allow_pickle") == "False", path
            if name == "torch.load":
                assert given.get("weights_only") == "True" and path.name == "convert.py", path
            assert name not in ("torch.save", "yaml.load", "yaml.unsafe_load", "eval", "exec"), path
            assert given.get("trust_remote_code", "False") == "False", path


def test_no_written_file_is_a_pickle(base, reported):
    for folder in (base.folder, reported[0]):
        for path in [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]:
            start = path.read_bytes()[:2]
            assert not (start[:1] == b"\x80" and start[1:] in (b"\x02", b"\x03", b"\x04", b"\x05")), path.name
            assert path.suffix not in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"), path.name


# --- hostile files ----------------------------------------------------------------------------------------------


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def npy(shape: str, descr: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def hostile_shards(mark: Path) -> dict[str, bytes]:
    trapped = io.BytesIO()
    np.save(trapped, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    return {
        "pickle": pickle.dumps(Trap(mark)),
        "array of objects": trapped.getvalue(),
        "huge": npy("(99999999999, 17)", "<f8"),
        "negative": npy("(-1, 17)", "<f8"),
        "another type": npy("(1, 17)", "<i8", bytes(136)),
        "another width": npy("(1, 3)", "<f8", bytes(24)),
        "cut short": npy("(2, 17)", "<f8", bytes(136)),
        "code as header": npy("__import__('os').abort()", "<f8"),
        "empty": b"",
    }


def linked(base, output: Path) -> Path:
    shutil.copytree(base.output, output, symlinks=True, ignore=shutil.ignore_patterns("runs"))
    return output


@pytest.mark.parametrize("kind", list(hostile_shards(Path())))
@pytest.mark.parametrize("name", ["hourly/values.npy", "cxr/shards", "notes/shards"])
def test_a_hostile_shard_is_refused(base, tmp_path, name, kind):
    from flexcare_data.store.shards import ShardError
    from flexcare_model.data.dataset import load_task

    output, content = linked(base, tmp_path / "output"), hostile_shards(tmp_path / "mark")[kind]
    place = output / "data" / name
    if place.is_dir():
        parts = shutil.copytree(place, tmp_path / "parts")
        place.unlink()
        place.symlink_to(parts)
        place = next(place.glob("part-*.npy"))
    else:
        place.unlink()
    place.write_bytes(content)
    with pytest.raises(ShardError, match="rebuild it"):
        load_task(output, "in_hospital_mortality", "train").batch([0])
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("index", "change"),
    [
        ("hourly", {"offset": -5}),
        ("hourly", {"offset": 10**12}),
        ("cxr", {"row": -1}),
        ("cxr", {"row": 10**9}),
        ("notes", {"offset": -3}),
        ("notes", {"n_tokens": 10**9}),
        ("cxr", {"shard": "../../../../etc/passwd"}),
        ("notes", {"shard": "/etc/passwd"}),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(base, tmp_path, index, change):
    from flexcare_data.store.shards import ShardError
    from flexcare_model.data.dataset import load_task
    from flexcare_model.data.index import SampleError

    output = linked(base, tmp_path / "output")
    path = output / "data" / index / "index.parquet"
    frame = pl.read_parquet(path)
    path.unlink()
    frame.with_columns(pl.lit(value, frame.schema[name]).alias(name) for name, value in change.items()).write_parquet(
        path
    )
    with pytest.raises((SampleError, ShardError)):
        load_task(output, "in_hospital_mortality", "train")


@pytest.mark.parametrize("stage", ["hourly", "cohort-drg"])
def test_a_damaged_table_of_the_store_is_one_message(base, tmp_path, stage):
    """Half a parquet file, and one that is a pickle."""
    command = base.command(stage, tmp_path / "store" / stage)
    for content in ((base.store / "stays/stays.parquet").read_bytes()[:500], pickle.dumps(Trap(tmp_path / "mark"))):
        stays = tmp_path / "stays"
        shutil.copytree(base.store / "stays", stays, dirs_exist_ok=True)
        (stays / "stays.parquet").write_bytes(content)
        hostile = [str(stays) if part == str(base.store / "stays") else part for part in command]
        done = run(hostile, watched=tmp_path / "store")
        assert done.status == 1 and "Traceback" not in done.printed, done.printed
        assert "damaged" in done.printed and "store verify" in done.printed, done.printed
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("harm", ["cut short", "huge header", "a pickle", "other tensors", "NaN in config", "no JSON"])
def test_a_hostile_run_is_refused(base, tmp_path, harm):
    from flexcare_model.training.checkpoint import CheckpointError, load_model

    folder = shutil.copytree(base.output / "runs/flexcare/six_tasks/seed40", tmp_path / "run")
    weights, config = folder / "model.safetensors", folder / "config.json"
    content = weights.read_bytes()
    if harm == "cut short":
        weights.write_bytes(content[: len(content) // 2])
    elif harm == "huge header":
        weights.write_bytes((2**62).to_bytes(8, "little") + content[8:])
    elif harm == "a pickle":
        weights.write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    elif harm == "other tensors":
        import hashlib

        tensors = load_file(weights) | {"intruder": torch.zeros(1)}
        save_file(tensors, weights, {"config_sha256": hashlib.sha256(config.read_bytes()).hexdigest()})
    elif harm == "NaN in config":
        config.write_text(re.sub(r'"lr": [0-9.e-]+', '"lr": NaN', config.read_text()))
    else:
        config.write_text("{")
    with pytest.raises(CheckpointError):
        load_model(folder)
    assert not (tmp_path / "mark").exists()


def test_a_hostile_state_is_refused(base, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run_text = json.loads((base.output / "runs/flexcare/six_tasks/seed40/config.json").read_text()) | {
        "task_outputs": {}
    }
    for state in ("{}", '{"surprise": 1}', "[]", "{"):
        metadata = {"run": json.dumps(run_text), "state": state}
        save_file({"model/x": torch.zeros(1), "nowhere": torch.zeros(1)}, folder / "state.safetensors", metadata)
        done = run(base.command("train", folder), watched=folder)
        assert done.status == 1 and "expected the state of a run" in done.printed, done.printed


def test_a_config_cannot_run_code(tmp_path):
    """A tag of YAML that would build an object is refused before anything runs."""
    mark = tmp_path / "mark"
    (tmp_path / "bad.yaml").write_text(f"output: !!python/object/apply:os.system ['touch {mark}']\n")
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-n", "--configfile", "bad.yaml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and not mark.exists()
    assert "Config file is not valid" in done.stdout + done.stderr


def test_telemetry_is_off(base, tmp_path):
    """The libraries of models and weights are set offline before they are loaded."""
    names = ["HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"]
    code = f"""
import os, sys
from flexcare_model.__main__ import main
print(not {{"torch", "transformers", "huggingface_hub"}} & set(sys.modules))
main(["train", "--help"])
print([os.environ.get(name) for name in {names}])
"""
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert (lines[0], lines[-1]) == ("True", "['1', '1']")
    assert digests(base.output / "runs")
