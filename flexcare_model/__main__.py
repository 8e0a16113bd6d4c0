"""One subcommand per stage of the model half: read, call, write.

Every command can be run by hand as the workflow prints it. A known error is one message and exit status 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

# Before torch makes its first CUDA handle: matrix products of the same inputs are then the same.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
# Nothing is reported to anybody.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")
# Threads that wait for one another sleep. Spinning, the default, is many times slower where cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from flexcare_data.faults import FULL_ERRORS, explain, withheld
from flexcare_data.shares import Share
from flexcare_model.report.commands import add_commands as add_report_commands


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand."""
    args = _parser().parse_args(arguments)
    os.umask(os.umask(0o077) | 0o007)  # what is derived from patients is never open to everybody
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        args.run(args)
    except Exception as error:
        where = getattr(args, "out", None) or getattr(args, "output", None)
        message = str(error) if isinstance(error, _known_errors()) else explain(error, where)
        if message is None and os.environ.get(FULL_ERRORS):
            raise
        print(f"error: {message}" if message else withheld(error), file=sys.stderr)
        return 1
    return 0


def _known_errors() -> tuple[type[Exception], ...]:
    """Errors that are the user's to mend."""
    from pydantic import ValidationError

    from flexcare_data.schema import SchemaError
    from flexcare_data.store.folders import StoreError
    from flexcare_model.data.index import SampleError
    from flexcare_model.data.shards import ShardError
    from flexcare_model.notes.encoder import EncoderError
    from flexcare_model.training.checkpoint import CheckpointError
    from flexcare_model.training.run_config import RunConfigError
    from flexcare_model.training.train import TrainError

    return (
        ValidationError, SchemaError, StoreError, ShardError, CheckpointError, RunConfigError, EncoderError,
        SampleError, TrainError,
    )  # fmt: skip


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flexcare_model", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_embed(commands)
    _add_tiny_encoder(commands)
    _add_convert_encoder(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    add_report_commands(commands)
    return parser


# --- notes ------------------------------------------------------------------------------------------------------


def _add_embed(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("embed", help="token vectors of the notes that the cohorts need")
    parser.add_argument("--cohorts", type=Path, nargs="+", required=True, help="folders of the cohorts")
    parser.add_argument("--sections", type=Path, required=True, help="folder of the stage sections")
    parser.add_argument("--encoder", required=True, help="local folder, hub name, or `tiny`")
    parser.add_argument("--storage", choices=("float16", "int8", "tokens"), default="float16", help="what is kept")
    parser.add_argument("--max-tokens", type=int, default=512, help="word pieces kept of a text")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="padded tokens per batch")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to embed")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help="option of the protocol")
    parser.add_argument("--spec", type=json.loads, default={}, help="what decides the result, for the manifest (JSON)")
    parser.add_argument("--private", action="store_true", help="files readable by the owner only, not by the group")
    parser.add_argument("--threads", type=int, help="threads on a CPU")
    parser.add_argument(
        "--share", type=Share.parse, help="2/8: embed only the second of eight shares, and write no stage"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the stage")
    parser.set_defaults(run=_embed)


def _embed(args: argparse.Namespace) -> None:
    import polars as pl

    from flexcare_data.progress import meter
    from flexcare_model.notes import embed

    files = [path for folder in args.cohorts for path in sorted(folder.glob("*.parquet"))]
    cohorts = {path.stem: pl.read_parquet(path) for path in files if path.stem in embed.TASKS}
    embed.build(
        pl.scan_parquet(args.sections / "sections.parquet"),
        embed.wanted_notes(cohorts),
        args.encoder,
        out_dir=args.out,
        spec=args.spec,
        storage=args.storage,
        max_tokens=args.max_tokens,
        batch_tokens=args.batch_tokens,
        device=args.device,
        threads=args.threads,
        share=args.share,
        group_readable=not args.private,
        progress=meter("tokens"),
    )


def _add_tiny_encoder(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("tiny-encoder", help="a small note encoder with the vocabulary of given texts")
    parser.add_argument("--sections", type=Path, required=True, help="sections.parquet")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.set_defaults(run=_tiny_encoder)


def _tiny_encoder(args: argparse.Namespace) -> None:
    import polars as pl

    from flexcare_model.notes.encoder import make_tiny_encoder

    frame = pl.read_parquet(args.sections)
    texts = [text for name in ("past_medical_history", "brief_hospital_course") for text in frame[name].drop_nulls()]
    make_tiny_encoder(args.out, texts)


def _add_convert_encoder(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("convert-encoder", help="pickled weights of a note encoder as safetensors, once")
    parser.add_argument("source", help="local folder or hub name that holds pytorch_model.bin")
    parser.add_argument("out", type=Path, help="folder to write; set notes.encoder to it")
    parser.set_defaults(run=_convert_encoder)


def _convert_encoder(args: argparse.Namespace) -> None:
    from flexcare_model.notes.encoder import convert

    convert(args.source, args.out)


# --- runs -------------------------------------------------------------------------------------------------------


_FASTER = {"threads": "CPU threads", "workers": "DataLoader workers", "data_device": "where a split lives"}
"""Settings of a run that do not change its result."""


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("train", help="train a model, going on where it was killed, and evaluate it")
    parser.add_argument("--output", type=Path, required=True, help="output folder of the build")
    parser.add_argument("--model", required=True, help="name of the model, such as flexcare or medfuse")
    parser.add_argument("--experiment", default="six_tasks", help="six_tasks, the name of a task, or drg_<p>pct[...]")
    parser.add_argument("--seed", type=int, default=40, help="seed of everything random")
    parser.add_argument("--settings", type=json.loads, default={}, help="section `train` of the configuration (JSON)")
    parser.add_argument("--pretrained", type=Path, help="folder of the run whose weights a pretrained experiment takes")
    parser.add_argument("--encoder", help="note encoder, where the notes are stored as word-piece ids")
    parser.add_argument("--interaction", action="store_true", help="test all tasks after each task (figure 7; slow)")
    for name, meaning in _FASTER.items():
        kind = str if name == "data_device" else int
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help=f"{meaning}, instead of the setting")
    parser.add_argument("--code", default="", help="digest of the code: a killed run of another one starts anew")
    parser.add_argument("--out", type=Path, help="folder of the run (default: below OUTPUT/runs)")
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> None:
    from flexcare_model.training.checkpoint import forget_state
    from flexcare_model.training.evaluate import evaluate_run
    from flexcare_model.training.predict import find_embedder
    from flexcare_model.training.run_config import resolve_run
    from flexcare_model.training.train import choose_device, train

    settings = args.settings | {name: getattr(args, name) for name in _FASTER if getattr(args, name) is not None}
    run, execution = resolve_run(args.model, args.experiment, args.seed, settings)
    folder = args.out or args.output / "runs" / run.model / run.experiment / f"seed{run.seed}"
    embedder = find_embedder(args.output, args.encoder, choose_device(execution.device))
    feed, state = train(
        args.output,
        folder,
        run,
        execution,
        pretrained=args.pretrained,
        interaction=args.interaction,
        embedder=embedder,
        code=args.code,
    )
    evaluate_run(args.output, folder, feed, embedder=embedder, best_epoch=state.best_epoch)
    forget_state(folder)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="score the test split with a trained run again")
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the run")
    _add_where(parser)
    parser.set_defaults(run=_evaluate)


def _evaluate(args: argparse.Namespace) -> None:
    from flexcare_model.data.loader import Feed
    from flexcare_model.training.evaluate import evaluate_run
    from flexcare_model.training.predict import find_embedder
    from flexcare_model.training.train import choose_device

    device = choose_device(args.device)
    output = args.output or args.folder.resolve().parents[3]
    evaluate_run(output, args.folder, Feed(device), embedder=find_embedder(output, args.encoder, device))


def _add_predict(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("predict", help="score any cohort, with any subset of the modalities")
    parser.add_argument("--run", dest="folder", type=Path, required=True, help="folder of the run")
    parser.add_argument("--task", required=True, help="one of the run's tasks")
    parser.add_argument("--split", choices=("train", "val", "test"), help="default: all samples")
    parser.add_argument("--cohort", type=Path, help="a cohort table of your own, labels not needed")
    parser.add_argument(
        "--without", nargs="+", default=[], choices=("time_series", "image", "note"), help="modalities to take away"
    )
    parser.add_argument("--out", type=Path, required=True, help="table to write, .parquet or .csv")
    _add_where(parser)
    parser.set_defaults(run=_predict)


def _predict(args: argparse.Namespace) -> None:
    from flexcare_data.store.folders import atomic_write
    from flexcare_model.training.predict import predict
    from flexcare_model.training.train import choose_device

    frame = predict(
        args.folder,
        args.task,
        output=args.output,
        split=args.split,
        without=args.without,
        cohort=args.cohort,
        encoder=args.encoder,
        device=choose_device(args.device),
    )
    atomic_write(args.out, frame.write_csv if args.out.suffix == ".csv" else frame.write_parquet)


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, help="output folder of the build (default: where the run lies)")
    parser.add_argument("--encoder", help="note encoder, where the notes are stored as word-piece ids")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")


if __name__ == "__main__":
    sys.exit(main())
