# Configuration, plan, and every function of the rules.
#
# The store. A data stage writes {store}/{stage}-{key}/ and its manifest.json last; the key is a digest of everything
# that decides the content (flexcare_data/plan.py). So "it exists" means "it is right", whoever built it: inputs from
# the store are ancient(), and a changed option or changed code asks for another folder. Links below the output folder
# point at the folders of this configuration (rules choose_* and publish_*).

import fcntl
import json
import os
import re
import shlex
import sys
from pathlib import Path

from flexcare_data.raw import radiographs as radiograph_files
from flexcare_data.config import ConfigError, Train, load_config
from flexcare_data.code_digest import code_digest, model_classes
from flexcare_data.plan import Plan, cohort_stage
from flexcare_data.store.folders import spec_key
from flexcare_data.tasks import TASKS
from snakemake.exceptions import WorkflowError

try:
    CONFIG = load_config(config)
except ConfigError as error:
    raise WorkflowError(str(error)) from None

PLAN = Plan(CONFIG)
# Jobs on other nodes read this file anew; what is downloaded meanwhile must not change their keys.
os.environ[radiograph_files.STATE] = PLAN.radiograph_files()
COHORTS = [cohort_stage(task) for task in CONFIG.tasks]
OUT = str(CONFIG.output)
STORE = str(CONFIG.store_path)
ABLATIONS = ["flexcare_base", "flexcare_no_ct", "flexcare_no_decorr", "flexcare_no_moe", "flexcare_no_task_token"]
DRG_EXPERIMENTS = ["drg_1pct", "drg_100pct", "drg_1pct_pretrained", "drg_100pct_pretrained"]
# What a run is made of. What only decides how fast it is made (threads, workers, data_device) reaches the commands as
# resources, which Snakemake does not compare with those of an earlier run.
TRAIN_SETTINGS = json.dumps(
    CONFIG.train.model_dump(exclude={"seeds", "baselines", "threads", "workers", "data_device"}), sort_keys=True
)
# Only where the notes are stored as word-piece ids, which are embedded while training.
ENCODER_FOR_TOKENS = f"--encoder {shlex.quote(CONFIG.notes.encoder)}" if CONFIG.notes.storage == "tokens" else ""
SYNTHETIC = CONFIG.synthetic.model_dump()
# Marks that the raw data is there: fabricated with these settings by this code, or looked at by the doctor.
if CONFIG.is_synthetic:
    RAW_READY = f"{OUT}/synthetic_raw/complete-{spec_key([SYNTHETIC, code_digest('flexcare_data.synthetic')])}"
else:
    RAW_READY = f"{OUT}/.checked/raw-{spec_key(CONFIG.raw.model_dump(mode='json'))}"
ENVIRONMENT = str(Path(workflow.basedir, "environment.yml"))

# Nothing derived from patients is readable by everybody: this holds for what Snakemake makes and for all its jobs.
os.umask(0o027)

# Commands read `python -m ...` and run in the interpreter that runs Snakemake, activated or not.
shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


wildcard_constraints:
    key="[0-9a-f]{12}",
    share="[0-9]+",
    shares="[0-9]+",
    out=re.escape(OUT),
    task="|".join(TASKS),
    model="[a-z0-9_]+",
    experiment="|".join(["six_tasks", *TASKS, *DRG_EXPERIMENTS]),
    seed="[0-9]+",


def manifest(stage):
    """Pattern of the manifest of ``stage``: the key stays a wildcard, so that rules and log names are general."""
    return f"{STORE}/{stage}-{{key}}/manifest.json"


def built(*stages):
    """Manifests of the upstream stages by name, as named inputs."""
    return {stage.replace("-", "_"): ancient(str(PLAN.manifest(stage))) for stage in stages}


def folders(*stages):
    """Folders of stages in the store, as arguments of a command."""
    return " ".join(shlex.quote(str(PLAN.dir(stage))) for stage in stages)


def raw_files(stage):
    """Raw files of ``stage``. Their content is in its key, so their dates do not matter."""
    return [ancient(RAW_READY), *(ancient(str(path)) for path in PLAN.raw_files(stage))]


def cohort_events(wildcards):
    """Events, for the cohort whose series may end within an hour (diagnosis)."""
    reads = PLAN.stages[cohort_stage(wildcards.task)].upstream
    return list(built("events").values()) if "events" in reads else []


def share_mark(stage):
    """Pattern of the file that says that a share of ``stage`` is in its pool."""
    return f"{OUT}/.shares/{stage}-{{key}}/{{share}}of{{shares}}"


def share_marks(stage, jobs):
    """Marks of all shares of ``stage``; none where one job does the stage alone."""
    numbers = range(1, jobs + 1) if jobs > 1 else []
    return expand(share_mark(stage), key=PLAN.key(stage), share=numbers, shares=jobs)


def links(stage):
    """Published files of ``stage``, below the output folder. A linked folder is a pool that others may add to."""
    return [link for link in PLAN.stages[stage].outputs.values() if Path(link).suffix]


# Stages that are published together: what every cohort needs, and everything else for itself.
GROUPS = {"data": ["stays", "splits", "events", "hourly", "sections"]}
GROUPS |= {stage: [stage] for stage in PLAN.stages if stage not in GROUPS["data"]}
GROUP_OF = {stage: group for group, stages in GROUPS.items() for stage in stages}
# What the configured tasks are made of and lead to; the plan knows the other tasks too, as they are targets by name.
CONFIGURED = [*GROUPS["data"], *COHORTS, "audit", "cxr", "notes"]


def choice(group):
    """The file which says for which keys the links of ``group`` are made."""
    return f"{OUT}/.published/{group}-{spec_key([PLAN.key(stage) for stage in GROUPS[group]])}"


def published(*stages):
    """Files below the output folder that come from ``stages``, and the choices that they follow."""
    choices = [choice(group) for group in dict.fromkeys(GROUP_OF[stage] for stage in stages)]
    return [*choices, *(f"{OUT}/{link}" for stage in stages for link in links(stage))]


def task_files(task):
    """The cohort of a task and the published files that its samples point into."""
    return published(*PLAN.stages[cohort_stage(task)].upstream, cohort_stage(task))


def options(stage):
    """Arguments that every stage takes: its protocol options, its spec, and who may read it."""
    private = "" if CONFIG.store.group_readable else " --private"
    return f"{PLAN.option_arguments(stage)} --spec {shlex.quote(PLAN.spec_text(stage))}{private}".strip()


def cohort_options(wildcards):
    """The same for the cohort of a task, with the folder of the events where it reads them."""
    events = f"--events {folders('events')} " if cohort_events(wildcards) else ""
    return events + options(cohort_stage(wildcards.task))


def cohort_raw_files(wildcards):
    """Raw files of the cohort of a task."""
    return raw_files(cohort_stage(wildcards.task))


def link_target(stage, name, link):
    """What a published link says: relative where store and output lie in one tree, so that the tree can be moved."""
    target, place = Path(os.path.realpath(PLAN.dir(stage))) / name, Path(os.path.realpath(OUT)) / link
    inside = target.is_relative_to(os.path.realpath(OUT))
    return os.path.relpath(target, place.parent) if inside else str(target)


def link_commands(stage):
    """Shell commands that make the links of ``stage``."""
    pairs = [(link_target(stage, *pair), f"{OUT}/{pair[1]}") for pair in PLAN.stages[stage].outputs.items()]
    return "; ".join(f"ln -sfn {shlex.quote(target)} {shlex.quote(link)}" for target, link in pairs)


def growing(base):
    """A resource that doubles with each attempt, as a retried job may have died for want of it."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


def gpus(device):
    """One GPU, unless the work is meant for the CPU."""
    return 0 if device == "cpu" else 1


def run_file(name):
    """Pattern of a file of a run."""
    return f"{OUT}/runs/{{model}}/{{experiment}}/seed{{seed}}/{name}"


def runs(models, experiments):
    """Results of every combination, for all configured seeds."""
    return expand(run_file("metrics.json"), model=models, experiment=experiments, seed=CONFIG.train.seeds)


def run_tasks(experiment):
    """Tasks that a run trains on."""
    if experiment == "six_tasks":
        return CONFIG.train.tasks
    return ["drg"] if experiment in DRG_EXPERIMENTS else [experiment]


def run_inputs(wildcards):
    """Cohorts of a run, what their samples point into, and the weights that it starts from."""
    if wildcards.model not in model_classes():
        raise WorkflowError(f"model: expected one of {', '.join(model_classes())}; got {wildcards.model}")
    tasks = run_tasks(wildcards.experiment)
    if missing := [task for task in tasks if task not in CONFIG.tasks]:
        # Radiographs and notes are prepared for the configured cohorts; without them a model would learn from less.
        raise WorkflowError(f"{', '.join(missing)}: not among the configured cohorts; add it to tasks, or train others")
    cohorts = [cohort_stage(task) for task in tasks]
    inputs = {"cohorts": published(*cohorts), "samples": published("hourly", "cxr", "notes")}
    if wildcards.experiment.endswith("_pretrained"):
        inputs["pretrained"] = os.path.join(pretrained_run(wildcards), "model.safetensors")
    return inputs


def training_code(wildcards):
    """Digest of the code that trains a model: another model's file, or a new one, trains nothing again."""
    where, _ = model_classes()[wildcards.model]
    return code_digest("flexcare_model.training.train", where)


def pretrained_run(wildcards):
    """The multi-task run that a pretrained run starts from."""
    return f"{OUT}/runs/{wildcards.model}/six_tasks/seed{wildcards.seed}"


def pretrained_argument(wildcards):
    """The same as an argument; nothing for a run from scratch."""
    is_pretrained = wildcards.experiment.endswith("_pretrained")
    return f"--pretrained {shlex.quote(pretrained_run(wildcards))}" if is_pretrained else ""


REPORTED_RUNS = [*runs(["flexcare"], ["six_tasks"]), *runs(CONFIG.train.baselines, CONFIG.train.tasks)]


# --- tables, figures, report ------------------------------------------------------------------------------------

REPORT_CODE = code_digest("flexcare_model.report.commands")
SYNTHETIC_MARK = "--synthetic" if CONFIG.is_synthetic else ""
# A comparison that is asked for by name has all baselines in it, where a preset trains none by default.
COMPARED = CONFIG.train.baselines or Train().baselines
ANALYSIS = f"{OUT}/analysis/{{model}}/{{experiment}}/seed{{seed}}"
STATISTICS = f"{OUT}/analysis/statistics/estimates.parquet"
TABLE_FILES = [".csv", ".md", ".tex"]
# What every page is told beside where it is written.
PAGE_ARGUMENTS = (
    f"--output {shlex.quote(OUT)} --suppress-below {CONFIG.report.suppress_below} {SYNTHETIC_MARK}"
    f" --seeds {' '.join(map(str, CONFIG.train.seeds))} --config {shlex.quote(CONFIG.model_dump_json())}"
)
OTHER_PROTOCOL = "corrected" if CONFIG.protocol == "flexcare" else "flexcare"
OTHER_OUTPUT = os.path.abspath(f"{OUT}/protocols/{OTHER_PROTOCOL}")
METHOD_RUNS = [
    *runs(["flexcare"], ["six_tasks", *CONFIG.train.tasks]),
    *runs(COMPARED, CONFIG.train.tasks),
]
RUNS_OF_TABLE = {
    "3": METHOD_RUNS,
    "4": runs(["flexcare", *ABLATIONS[:-1]], ["six_tasks"]),
    "5": [
        *runs(["flexcare"], DRG_EXPERIMENTS),
        *runs(COMPARED, [name for name in DRG_EXPERIMENTS if not name.endswith("_pretrained")]),
    ],
    "6": runs(["flexcare", "flexcare_no_task_token"], ["six_tasks"]),
}


def analysed(name, models, experiments, seeds):
    """Analyses of every combination."""
    return expand(f"{ANALYSIS}/{name}.parquet", model=models, experiment=experiments, seed=seeds)


FIGURE_INPUTS = {
    "figure1b": published(*COHORTS),
    "figure1c": published(*COHORTS),
    "figure4": RUNS_OF_TABLE["4"],
    "figure5": analysed(
        "representations", ["flexcare", "flexcare_no_task_token"], ["six_tasks"], CONFIG.train.seeds[0]
    ),
    "figure6": analysed("experts", ["flexcare"], ["six_tasks"], CONFIG.train.seeds[0]),
    "figure7": analysed("interaction/history", ["flexcare"], ["six_tasks"], CONFIG.train.seeds[0]),
    "missing_modalities": [
        *analysed("modalities", ["flexcare"], ["six_tasks", *CONFIG.train.tasks], CONFIG.train.seeds),
        *analysed("modalities", COMPARED, CONFIG.train.tasks, CONFIG.train.seeds),
    ],
    "calibration": [STATISTICS],
}


wildcard_constraints:
    number="[3-6]",
    figure="|".join(FIGURE_INPUTS),


def finished_runs():
    """Digest of the results that are there when the workflow is read. As a parameter it renews a page, trains nothing."""
    places = [Path(OUT), Path(OTHER_OUTPUT)]
    found = sorted(path for place in places for path in place.glob("runs/*/*/seed*/metrics.json"))
    return spec_key([[str(path), path.read_text()] for path in found])


def table_files(*names):
    """Files of tables."""
    return expand(f"{OUT}/tables/{{name}}{{suffix}}", name=names, suffix=TABLE_FILES)


def figure_files(*names):
    """Files of figures."""
    return expand(f"{OUT}/figures/{{name}}{{suffix}}", name=names, suffix=[".svg", ".png"])


def other_config():
    """This configuration under the other protocol, with a folder of its own and the same store, as JSON."""
    other = CONFIG.model_dump(mode="json")
    other["raw"] = {name: path and os.path.abspath(path) for name, path in other["raw"].items()}
    other["store"]["path"] = os.path.abspath(STORE)
    return json.dumps(other | {"protocol": OTHER_PROTOCOL, "output": OTHER_OUTPUT}, sort_keys=True)


def other_file(name):
    """Pattern of a file of a run under the other protocol."""
    return f"{OTHER_OUTPUT}/runs/{{model}}/{{experiment}}/seed{{seed}}/{name}"


def protocol_arguments():
    """The output folders of both protocols as arguments."""
    return f"--{CONFIG.protocol} {shlex.quote(OUT)} --{OTHER_PROTOCOL} {shlex.quote(OTHER_OUTPUT)}"


def hold_output():
    """Keep other builds out of the output folder until this process has ended, in whatever way.

    Snakemake's own lock is of the working directory. A disk that knows no locks is taken as it is.
    """
    try:
        os.makedirs(OUT, exist_ok=True)
        held = os.open(f"{OUT}/.lock", os.O_RDWR | os.O_CREAT, 0o660)  # closed with the process
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise WorkflowError(
            f"{os.path.abspath(OUT)}: another build works in this output folder, from another working directory. "
            "Wait for its end, or set output to a folder of your own (a store can be shared at the same time)."
        )
    except OSError:
        return  # a folder that cannot be written is told by the first job
