"""Radiographs: study times, one file to one tensor against an independent full decode, shards of many."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from support.paths import ROOT

from flexcare_data.config import load_config
from flexcare_data.job_part import JobPart
from flexcare_data.plan import Plan
from flexcare_data.raw import radiographs as raw_radiographs
from flexcare_data.raw.radiographs import radiograph_path
from flexcare_data.raw.tables import empty_counts
from flexcare_data.schema import CXR_INDEX, check
from flexcare_data.stages.images import build as images
from flexcare_data.stages.images import decoding
from flexcare_data.stages.images.build import build, decode_part
from flexcare_data.stages.images.decoding import ImageError, decode
from flexcare_data.stages.radiographs import build_radiographs, study_time
from flexcare_data.stages.work import ChangedError, StageWork
from flexcare_data.store import verify
from flexcare_data.synthetic.write import write_data_set

SPEC = {"stage": "images"}


def smooth(height: int, width: int, *, seed: int = 0, top: int = 255) -> np.ndarray:
    """A grey picture with structure at several scales and some grain, like a radiograph."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    picture = 0.5 + 0.2 * np.sin(7 * x + seed) * np.cos(5 * y) + 0.1 * np.sin(60 * x * y) + 0.1 * (x + y - 1)
    picture += rng.normal(0, 0.01, picture.shape)
    return (picture.clip(0, 1) * top).astype(np.uint16 if top > 255 else np.uint8)


def encoded(picture: Image.Image | np.ndarray, kind: str = "JPEG", **settings) -> bytes:
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def full_decode(data: bytes) -> np.ndarray:
    """Every pixel decoded, then an antialiased (triangle) resize written out as two matrix products."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(np.float64)
    short = min(pixels.shape)
    height, width = (int(256 * side / short) for side in pixels.shape)
    resized = triangle(pixels.shape[0], height) @ pixels @ triangle(pixels.shape[1], width).T
    top, left = round((height - 256) / 2), round((width - 256) / 2)
    return resized[top : top + 256, left : left + 256]


def triangle(n_in: int, n_out: int) -> np.ndarray:
    """Weights (n_out, n_in) of a triangle filter as wide as the scale, at least one pixel."""
    scale = n_in / n_out
    reach = max(scale, 1.0)
    centre = (np.arange(n_out) + 0.5) * scale
    weights = np.maximum(0, 1 - np.abs(np.arange(n_in) + 0.5 - centre[:, None]) / reach)
    return weights / weights.sum(axis=1, keepdims=True)


# --- study times ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        (21800506, 213014.531, datetime(2180, 5, 6, 21, 30, 14)),
        (21800506, 123.002, datetime(2180, 5, 6, 0, 1, 23)),
        (21800506, 0.0, datetime(2180, 5, 6)),
        (21800506, 59.999, datetime(2180, 5, 6, 0, 0, 59)),
        (21800506, 60.0, None),  # a second of 60
        (21800506, 240000.0, None),
        (21801306, 1.0, None),
        (21800506, -1.0, None),
        (21800506, 1e300, None),
        (21800506, float("nan"), None),
        (21800506, None, None),
        (None, 1.0, None),
    ],
)
def test_study_time(date, time, expected):
    frame = pl.DataFrame({"date": [date], "time": [time]}, schema={"date": pl.Int64, "time": pl.Float64})
    assert frame.select(study_time(pl.col("date"), pl.col("time"))).item() == expected


def test_ap_radiographs_keep_file_order_and_count_unreadable_times():
    metadata = pl.DataFrame(
        {
            "dicom_id": ["b", "x", "a", "c"],
            "subject_id": [1, 1, 1, 2],
            "study_id": [11, 11, 11, 22],
            "ViewPosition": ["AP", "PA", "AP", None],
            "StudyDate": [21800506] * 4,
            "StudyTime": [1.0, 1.0, 999999.0, 1.0],
        }
    )
    dropped = empty_counts()
    radiographs = build_radiographs(metadata, dropped)
    assert radiographs.rows() == [("a", 1, 11, None, 2), ("b", 1, 11, datetime(2180, 5, 6, 0, 0, 1), 0)]
    assert dropped == {"metadata": {"": {"unreadable_study_time": 1}}}


def test_path():
    path = radiograph_path(Path("/raw"), 10000032, 50414267, "02aa804e")
    assert path == Path("/raw/files/p10/p10000032/s50414267/02aa804e.jpg")


# --- one radiograph ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1300, 1100), (1101, 1733), (2049, 1025)])
def test_jpeg_is_near_a_full_decode(shape):
    """Sizes that the fast decoder halves, some not a multiple of what it drops."""
    data = encoded(smooth(*shape), quality=90)
    difference = np.abs(decode(data) - full_decode(data))
    assert difference.mean() <= 0.35 and difference.max() <= 4  # of these 0.25 is the rounding to whole levels


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("shape", [(300, 260), (256, 256), (40, 70), (1, 1)])
def test_other_formats_and_small_images(kind, shape):
    data = encoded(smooth(*shape), kind)
    tensor = decode(data)
    assert tensor.shape == (256, 256) and tensor.dtype == np.uint8
    assert np.abs(tensor - full_decode(data)).max() <= 1.01
    if shape == (256, 256):
        assert (tensor == smooth(256, 256)).all()


def test_the_centre_is_kept():
    picture = np.zeros((300, 900), np.uint8)
    picture[:, 300:600] = 200
    assert (decode(encoded(picture, "PNG"))[:, 5:-5] == 200).all()


def test_16_bits_become_8():
    deep = smooth(300, 400, top=65535)
    expected = decode(encoded((deep / 257).round().astype(np.uint8), "PNG")).astype(int)
    for kind in ("PNG", "TIFF"):
        assert np.abs(decode(encoded(Image.fromarray(deep), kind)) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "CMYK", "YCbCr", "LAB"])
def test_colour_becomes_luma(mode):
    grey = Image.fromarray(smooth(300, 400))
    picture = grey.convert("RGB").convert(mode) if mode != "LAB" else Image.new("LAB", (400, 300), (128, 128, 128))
    kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "LAB": "TIFF"}.get(mode, "PNG")
    tensor = decode(encoded(picture, kind))
    if mode not in ("1", "LAB", "P"):
        assert np.abs(tensor.astype(int) - decode(encoded(grey, "PNG"))).mean() < 1.5


def test_first_frame_counts():
    frames = [Image.fromarray(np.full((300, 300), level, np.uint8)) for level in (10, 200)]
    assert (decode(encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:])) == 10).all()


JPEG = encoded(smooth(600, 600), quality=90)
PNG = encoded(smooth(600, 600), "PNG")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (JPEG[:5000], "truncated"),
        (PNG[:5000], "truncated"),
        (JPEG[:30], "not an image|truncated|damaged"),
        (b"<html>404</html>", "not an image"),
        (PNG[:40] + bytes(200) + PNG[240:], "damaged|not an image"),
        (encoded(smooth(3000, 20), "PNG"), "shape of more than 1 to 10"),
        (encoded(Image.new("F", (300, 300), 0.5), "TIFF"), "type F"),
        (encoded(Image.new("I", (300, 300), 70000), "TIFF"), "32-bit"),
    ],
)
def test_what_cannot_be_read_has_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


def test_huge_images_are_refused_before_they_are_unpacked():
    """A PNG of a few kB may unpack to gigabytes."""
    bomb = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert len(bomb) < 100_000
    with pytest.raises(ImageError, match="more pixels"):
        decode(bomb)


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "none.jpg")
    with pytest.raises(ImageError, match="directory"):
        decode(tmp_path)


def test_real_radiographs(open_data):
    for path in sorted((open_data / "open-cxr" / "images").iterdir())[4:12]:
        data = path.read_bytes()
        difference = np.abs(decode(data) - full_decode(data))
        assert difference.mean() <= 0.35 and difference.max() <= 4


# --- many -------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(tmp_path) -> tuple[pl.DataFrame, Path]:
    """Seventy small radiographs: the fourth missing, the sixth empty."""
    root, rows = tmp_path / "raw", []
    for i in range(70):
        row = (f"d{i:03d}", 10_000_000 + i // 3, 50_000_000 + i)
        rows.append(row)
        path = radiograph_path(root, row[1], row[2], row[0])
        path.parent.mkdir(parents=True, exist_ok=True)
        if i != 3:
            path.write_bytes(b"" if i == 5 else encoded(smooth(260, 280, seed=i)))
    return pl.DataFrame(rows, schema=["dicom_id", "subject_id", "study_id"], orient="row"), root


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tensor(stage: Path, dicom_id: str) -> np.ndarray:
    shard, row = pl.read_parquet(stage / "index.parquet").filter(dicom_id=dicom_id).select("shard", "row").row(0)
    return np.load(stage / "shards" / shard, mmap_mode="r", allow_pickle=False)[row]


def test_build(raw, tmp_path):
    dicoms, root = raw
    stage = tmp_path / "store" / "images-0123456789ab"
    counts = build(pl.concat([dicoms, dicoms]).sample(fraction=1, shuffle=True, seed=1), root, out_dir=stage,
                   spec=SPEC, broken_share=0.1)  # fmt: skip
    assert counts == {
        "radiographs": 70, "tensors": 68, "missing": 1, "broken": 1, "problems": {"empty file": 1, "missing": 1},
    }  # fmt: skip
    index = check(pl.read_parquet(stage / "index.parquet"), CXR_INDEX)
    assert index.filter(pl.col("problem").is_not_null()).select("dicom_id", "shard", "row", "problem").rows() == [
        ("d003", None, None, "missing"),
        ("d005", None, None, "empty file"),
    ]
    assert pl.read_parquet(stage / "problems.parquet").rows() == [
        ("files/p10/p10000001/s50000003/d003.jpg", "d003", "missing"),
        ("files/p10/p10000001/s50000005/d005.jpg", "d005", "empty file"),
    ]
    for dicom_id, subject_id, study_id in dicoms[[0, 4, 69]].iter_rows():
        assert (tensor(stage, dicom_id) == decode(radiograph_path(root, subject_id, study_id, dicom_id))).all()
    assert json.loads((stage / "counts.json").read_text()) == counts
    problems = verify.verify(tmp_path / "store")
    assert [line for line in problems if "has the key" not in line] == []


def test_bytes_do_not_depend_on_processes(raw, tmp_path):
    dicoms, root = raw
    for processes in (1, 2):
        out = tmp_path / f"store{processes}" / "images-0123456789ab"
        build(dicoms, root, out_dir=out, spec=SPEC, processes=processes, broken_share=0.1)
    assert files(tmp_path / "store1") == files(tmp_path / "store2")


def test_a_second_build_decodes_what_is_new(raw, tmp_path, monkeypatch):
    dicoms, root = raw
    decoded = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda data: decoded.append(1) or real(data))

    def run(name: str, frame: pl.DataFrame) -> int:
        decoded.clear()
        build(frame, root, out_dir=tmp_path / "store" / name, spec={"stage": name}, broken_share=0.5)
        return len(decoded)

    assert run("images-1", dicoms.head(3)) == 3
    assert run("images-2", dicoms.head(3)) == 0
    assert run("images-3", dicoms.head(10)) == 10 - 3 - 1  # less the missing one
    path = radiograph_path(root, *dicoms.row(0)[1:], "d000")
    path.write_bytes(encoded(smooth(400, 400, seed=99)))
    assert run("images-4", dicoms.head(3)) == 1
    assert (tensor(tmp_path / "store" / "images-4", "d000") == real(path)).all()
    path.unlink()
    assert run("images-5", dicoms.head(3)) == 0
    assert pl.read_parquet(tmp_path / "store" / "images-5" / "problems.parquet")["problem"].to_list() == ["missing"]


def test_a_stopped_build_keeps_its_parts(raw, tmp_path, monkeypatch):
    dicoms, root = raw
    monkeypatch.setattr(images, "PART_SIZE", 16)
    monkeypatch.setattr(images, "_IMAGES_PER_TASK", 16)
    dicoms = dicoms.filter(~pl.col("dicom_id").is_in(["d003", "d005"])).head(40)

    def stop(done: int, total: int) -> None:
        if done > 16:
            raise KeyboardInterrupt

    stage, other = tmp_path / "store" / "images-1", tmp_path / "other" / "images-1"
    with pytest.raises(KeyboardInterrupt):
        build(dicoms, root, out_dir=stage, spec=SPEC, progress=stop)
    assert len(list((tmp_path / "store").glob("tensors-*/part-*.npy"))) == 1 and not stage.exists()
    seen = []
    build(dicoms, root, out_dir=stage, spec=SPEC, progress=lambda done, total: seen.append(total))
    assert seen[0] == 24
    build(dicoms, root, out_dir=other, spec=SPEC)
    assert files(tmp_path / "store") == files(tmp_path / "other")


@pytest.mark.parametrize("total", [2, 7])
def test_bytes_do_not_depend_on_the_number_of_jobs(raw, tmp_path, monkeypatch, total):
    """In any order, with more jobs than parts too, and where the pool holds some of the tensors already."""
    dicoms, root = raw
    monkeypatch.setattr(images, "PART_SIZE", 16)
    shared, whole = tmp_path / "shared" / "images-1", tmp_path / "whole" / "images-1"
    for out in (shared, whole):
        build(dicoms[::7], root, out_dir=out.with_name("images-0"), spec=SPEC, broken_share=1)
    build(dicoms, root, out_dir=whole, spec=SPEC, broken_share=1)
    (pool,) = (tmp_path / "shared").glob("tensors-*")
    found = 0
    for number in range(total, 0, -1):
        shuffled = dicoms.sample(fraction=1, shuffle=True)
        found += decode_part(shuffled, root, JobPart(number, total), pool_dir=pool, spec=SPEC)
        assert not shared.exists()
    assert found == 68  # less the missing and the empty one
    decoded = []
    real = decoding.decode
    monkeypatch.setattr(decoding, "decode", lambda data: decoded.append(1) or real(data))
    build(dicoms, root, out_dir=shared, spec=SPEC, broken_share=1)
    assert len(decoded) == 1  # the empty one, for its reason
    assert files(tmp_path / "shared") == files(tmp_path / "whole")


def test_workers_end_with_a_killed_build(raw, tmp_path):
    dicoms, root = raw
    dicoms.write_parquet(tmp_path / "dicoms.parquet")
    script = tmp_path / "build.py"
    script.write_text("""
import os, signal, sys
from multiprocessing import active_children
from pathlib import Path
import polars as pl
from flexcare_data.stages.images import build as images

def progress(done, total):
    Path("workers").write_text(" ".join(str(child.pid) for child in active_children()))
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    images.build(pl.read_parquet("dicoms.parquet"), Path("raw"), out_dir=Path("store/images-1"), spec={}, processes=2,
                 progress=progress)
""")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=environment, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 2
    for _ in range(100):
        alive = [pid for pid in workers if running(int(pid))]
        if not alive:
            break
        time.sleep(0.1)
    assert not alive
    assert not list((tmp_path / "store").glob("tensors-*/part-*"))  # nothing that a reader would take for a part
    build(dicoms, root, out_dir=tmp_path / "store" / "images-1", spec=SPEC, broken_share=0.1)
    assert not list((tmp_path / "store").glob("**/.*.tmp.*"))


def running(pid: int) -> bool:
    """True for a process that has not ended; one that only awaits its parent (a zombie) has."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_too_many_broken_files_fail(raw, tmp_path):
    dicoms, root = raw
    out = tmp_path / "store" / "images-1"
    with pytest.raises(ImageError, match=r"2 of 70 .* at most 1.00% .*allow_missing") as error:
        build(dicoms, root, out_dir=out, spec=SPEC)
    assert "d003" not in str(error.value) and "p10000001" not in str(error.value)
    assert pl.read_parquet(out / "problems.parquet").height == 2
    with pytest.raises(ImageError, match=r"1 of 69 "):
        build(dicoms, root, out_dir=out, spec=SPEC, allow_missing=True)
    build(dicoms, root, out_dir=out, spec=SPEC, allow_missing=True, broken_share=0.015)


def test_no_radiographs_at_all(tmp_path):
    """A build without MIMIC-CXR-JPG, or whose cohorts have no image."""
    dicoms = pl.DataFrame(schema={"dicom_id": pl.String, "subject_id": pl.Int64, "study_id": pl.Int64})
    counts = build(dicoms, tmp_path / "nowhere", out_dir=tmp_path / "store" / "images-1", spec=SPEC)
    assert counts["radiographs"] == 0
    assert check(pl.read_parquet(tmp_path / "store" / "images-1" / "index.parquet"), CXR_INDEX).is_empty()


def test_an_id_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    rows = {"dicom_id": ["../../../../secret"], "subject_id": [10000001], "study_id": [50000001]}
    build(pl.DataFrame(rows), tmp_path, out_dir=tmp_path / "store" / "images-1", spec=SPEC, broken_share=1)
    problems = pl.read_parquet(tmp_path / "store" / "images-1" / "problems.parquet")["problem"].to_list()
    assert problems == ["dicom_id is not a file name"]


# --- files that come, go or change ------------------------------------------------------------------------------


def test_a_changed_file_asks_for_a_new_stage(tmp_path):
    """By its size, whatever the dates say: a copy of the release elsewhere is the same one."""
    write_data_set(tmp_path / "raw", patients=12, seed=5, edition="2.2")
    shutil.copytree(tmp_path / "raw", tmp_path / "copy", copy_function=shutil.copyfile)

    def key(raw: str, stage: str) -> str:
        roots = {name: str(tmp_path / raw / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}
        config = load_config({"raw": roots, "output": str(tmp_path / "out"), "preset": "demo"})
        return Plan(config).product(stage).key

    assert key("raw", "images") == key("copy", "images")
    keys = [key("raw", "images")]
    file = sorted((tmp_path / "copy/mimic_cxr_jpg/files").rglob("*.jpg"))[0]
    content = file.read_bytes()
    for change in (lambda: file.write_bytes(content + b"0"), file.unlink):
        change()
        keys.append(key("copy", "images"))
    assert len(set(keys)) == 3
    assert key("raw", "cohort-diagnosis") == key("copy", "cohort-diagnosis")
    file.write_bytes(content)
    assert key("copy", "images") == keys[0]


def test_sizes_are_remembered_and_some_of_them_compared(tmp_path, monkeypatch):
    """At each start the sizes of some radiographs are asked for; any difference has all of them asked for again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(raw_radiographs, "_CHECKED", 20)
    write_data_set(tmp_path / "raw", patients=40, seed=5, edition="2.2")
    root, asked = tmp_path / "raw" / "mimic_cxr_jpg", []
    real = raw_radiographs._state
    monkeypatch.setattr(raw_radiographs, "_state", lambda *row: asked.append(row[1]) or real(*row))

    def digest() -> tuple[str, int]:
        asked.clear()
        found = raw_radiographs.listing_digest(root)
        return found, len(asked)

    first, all_of_them = digest()
    assert all_of_them > 40
    again, compared = digest()
    assert again == first and 5 <= compared <= 20
    mine = tmp_path / "cache" / "flexcare"
    assert {path.stat().st_mode & 0o077 for path in (mine, *mine.rglob("*"))} == {0}
    shutil.rmtree(root / "files")
    gone, both = digest()
    assert gone != first and both == all_of_them + compared
    (remembered,) = (mine / "radiographs").iterdir()
    remembered.unlink()
    assert digest() == (gone, all_of_them)


AGAIN = "nothing was stored. Give the same command again"


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """A function that plans the stage `images` of all AP radiographs, as one command does."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_data_set(tmp_path / "raw", patients=40, seed=3, edition="2.2")
    roots = {name: str(tmp_path / "raw" / name) for name in ("mimiciv", "mimic_cxr_jpg", "mimic_iv_note")}

    def plan(**settings) -> StageWork:
        config = load_config({"raw": roots, "output": str(tmp_path / "out"), "images": {"which": "all_ap"} | settings})
        product, found = Plan(config).product("images"), config.images.model_dump()
        return StageWork(
            "images", product.folder, options=None, declared_raw=("metadata",),
            roots={"mimic_cxr_jpg": Path(roots["mimic_cxr_jpg"])}, settings=found | {"processes": 1}, spec=product.spec,
        )  # fmt: skip

    return plan


def jpegs(work: StageWork) -> list[Path]:
    """The AP radiographs of ``work`` in the order in which they are decoded."""
    rows = raw_radiographs._read_listing(work.roots["mimic_cxr_jpg"]).sort("dicom_id")
    columns = rows.select("subject_id", "study_id", "dicom_id")
    return [radiograph_path(work.roots["mimic_cxr_jpg"], *row) for row in columns.iter_rows()]


def rewrite(path: Path, *, same_size: bool) -> None:
    """Another picture in the place of a radiograph, dated a minute later."""
    size, written = path.stat().st_size, path.stat().st_mtime
    content = encoded(smooth(64, 64, seed=77), quality=30)
    assert len(content) < size
    path.write_bytes(content + bytes(size - len(content) if same_size else 1))
    os.utime(path, (written + 60, written + 60))


@pytest.mark.parametrize("same_size", [False, True])
@pytest.mark.parametrize("which", [[0], [-1], [0, -1]], ids=["first", "last", "both"])
@pytest.mark.parametrize("part", [None, JobPart(1, 1)])
def test_a_radiograph_that_changes_while_the_stage_is_made(planned, monkeypatch, same_size, which, part):
    """Nothing is stored, whether it was decoded already or not. The second command makes the stage of the new file."""
    monkeypatch.setattr(images, "PART_SIZE", 16)
    monkeypatch.setattr(images, "_IMAGES_PER_TASK", 16)
    work = planned()
    paths = [jpegs(work)[place] for place in which]

    def during(done: int, total: int) -> None:
        if total - 16 <= done < total:  # several parts of the pool are complete, the last one is not
            for path in paths:
                rewrite(path, same_size=same_size)

    monkeypatch.setattr(images, "meter", lambda name: during)
    if part:
        work.settings["part"] = part
    with pytest.raises(ChangedError, match=rf"have changed while they were read \({len(which)}\); {AGAIN}"):
        images.run(work)
    assert not work.out.exists()
    monkeypatch.setattr(images, "meter", lambda name: None)
    again = planned()
    assert (again.out == work.out) == same_size
    images.run(again)
    for path in paths:
        assert (tensor(again.out, path.stem) == decode(path)).all()
    assert [line for line in verify.verify(again.out.parent) if "tensors" in line] == []


@pytest.mark.parametrize("when", ["before the job", "before the seal"])
@pytest.mark.parametrize("change", ["another size", "removed"])
def test_a_listing_that_is_not_the_planned_one(planned, monkeypatch, when, change):
    """All tensors are in the pool, so that no file is read."""
    images.run(planned(broken_share=0.5))
    work = planned()
    path = jpegs(work)[5]

    def alter() -> None:
        rewrite(path, same_size=False) if change == "another size" else path.unlink()

    real = images._refuse_many
    with monkeypatch.context() as during:
        if when == "before the job":
            alter()
        else:
            during.setattr(images, "_refuse_many", lambda *arguments: alter() or real(*arguments))
        with pytest.raises(ChangedError, match=AGAIN):
            images.run(work)
    assert not work.out.exists()
    again = planned(allow_missing=True)
    assert again.spec["settings"]["files"] != work.spec["settings"]["files"]
    images.run(again)
    index = pl.read_parquet(again.out / "index.parquet").filter(dicom_id=path.stem)
    assert index["problem"].to_list() == ([None] if change == "another size" else ["missing"])


@pytest.mark.parametrize("change", ["another size", "added"])
def test_a_change_that_the_sample_of_a_large_folder_does_not_have(planned, monkeypatch, change):
    """The plan does not see it, the job does, and the next plan too."""
    monkeypatch.setattr(raw_radiographs, "_CHECKED", 10)
    paths = jpegs(planned())
    away = {path: path.read_bytes() for path in paths[::2]}
    for path in away:
        path.unlink()
    first = planned(allow_missing=True)
    listing = raw_radiographs._read_listing(first.roots["mimic_cxr_jpg"])
    absent = pl.col("bytes").is_null()
    sampled = pl.concat([raw_radiographs._spread(listing.filter(which)) for which in (absent, ~absent)])["dicom_id"]
    if change == "added":
        (path, content) = next((path, content) for path, content in away.items() if path.stem not in sampled)
        path.write_bytes(content)
    else:
        path = next(path for path in paths if path not in away and path.stem not in sampled)
        rewrite(path, same_size=False)
    work = planned(allow_missing=True)
    assert work.out == first.out
    with pytest.raises(ChangedError, match=f"list of radiographs has changed since this build was planned; {AGAIN}"):
        images.run(work)
    again = planned(allow_missing=True)
    assert again.out != work.out and not work.out.exists()
    images.run(again)
    assert (tensor(again.out, path.stem) == decode(path)).all()


def test_missing_files_that_were_allowed_once_are_not_allowed_by_default(planned):
    work = planned()
    for path in jpegs(work)[::2]:
        path.unlink()
    images.run(planned(allow_missing=True))
    default = planned()
    assert not default.out.exists()
    with pytest.raises(ImageError, match="allow_missing"):
        images.run(default)


def test_fabricated_radiographs_have_a_pool_for_each_version(raw, tmp_path):
    """The same ids and sizes with other pictures. Real radiographs share one pool."""
    dicoms, root = raw
    dicoms = dicoms.filter(~pl.col("dicom_id").is_in(["d003", "d005"]))
    path = radiograph_path(root, *dicoms.row(0)[1:], "d000")
    before = decode(path)
    specs = {name: {"stage": "images", "upstream": {"synthetic": name * 12}} for name in ("a", "b")}
    build(dicoms, root, out_dir=tmp_path / "store" / "images-1", spec=specs["a"])
    rewrite(path, same_size=True)
    build(dicoms, root, out_dir=tmp_path / "store" / "images-2", spec=specs["b"])
    assert (tensor(tmp_path / "store" / "images-1", "d000") == before).all()
    assert (tensor(tmp_path / "store" / "images-2", "d000") == decode(path)).all()
    assert len(list((tmp_path / "store").glob("tensors-*"))) == 2
    assert images.pool_spec({"upstream": {"cohort-drg": "c" * 12}}) == images.pool_spec({})
