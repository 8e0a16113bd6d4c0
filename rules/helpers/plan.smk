# Configuration, plan, and functions of the rules. docs/architecture.md explains keys.
#
# Snakemake asks one question only: does the file exist? The name of every output has a key, a hash of everything that
# determines its content (flexcare_data/plan.py, flexcare_model/plan.py), so a file that exists is right. Inputs are
# ancient(): dates do not matter. The store is shared, so nothing in it is an output of a rule: a stage has an empty mark
# in the output folder instead. Published names are links; one that shows something else is made again (published.smk).

import difflib
import fcntl
import re
import shlex
from functools import cache
from pathlib import Path

from flexcare_data.errors import UserError
from snakemake.exceptions import WorkflowError
from snakemake.io import Mtime
from snakemake.settings.types import RerunTrigger

try:
    from flexcare_data.config import load_config
    from flexcare_data.discovery import task_names
    from flexcare_data.hashing import spec_key
    from flexcare_data.options import Options, cautions
    from flexcare_data.origin import Origin
    from flexcare_data.plan import Plan, cohort_stage, first_names
    from flexcare_data.publish import check_free, is_published, link_commands
    from flexcare_data.store.folders import is_complete
    from flexcare_data.store.recipe import Recipe
    from flexcare_model.experiments import EXPERIMENTS
    from flexcare_model.plan import ModelPlan, links_of, remove_damaged
    from flexcare_model.report.catalogue import FIGURES, PAGES, TABLE_STEMS

    CONFIG = load_config(config)
    PLAN = Plan(CONFIG)
    PLAN.check_roots()
except UserError as error:
    # A mistake in the configuration, in a task's or model's file, or in a path: reported before anything is planned.
    raise WorkflowError(str(error)) from None

OUT = str(CONFIG.output)
BY_KEY = f"{OUT}/by_key"
DRY_RUN = workflow.output_settings.dryrun
IS_MAIN = workflow.is_main_process
MODELS = ModelPlan(PLAN)
ORIGIN = Origin.of(CONFIG, workflow.overwrite_configfiles)

# Files derived from patients are not readable by others: those of Snakemake and of all its jobs.
os.umask(0o027)

# Commands read `python -m ...` and run in the interpreter that runs Snakemake.
shell.prefix(f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH; ")


wildcard_constraints:
    key="[0-9a-f]{12}",
    part="[0-9]+",
    parts="[0-9]+",
    task="|".join(task_names()),
    model="[a-z0-9_]+",
    experiment="|".join(EXPERIMENTS),
    seed="[0-9]+",


# --- planning ---------------------------------------------------------------------------------------------------


def report_errors(function):
    """Turn an error that the user can fix into one message of Snakemake."""

    def wrapped(*arguments):
        try:
            return function(*arguments)
        except UserError as error:
            raise WorkflowError(str(error)) from None

    return wrapped


@cache
def begin():
    """Check the origin of the output folder and renew the marks, which Snakemake reads once; called before all planning.

    Only missing files are made, whatever the profile or the command line sets: other triggers of Snakemake (parameters,
    sets of inputs) do not use keys, so they would run a job again and remove what depends on it.
    """
    report_errors(ORIGIN.check)(CONFIG.output)  # here, so that listing targets needs no --configfile
    workflow.dag_settings.rerun_triggers = frozenset([RerunTrigger.MTIME])
    if IS_MAIN:
        for task, reason in PLAN.left_out.items():
            print(f"note: {task} is left out: {reason}", file=sys.stderr)
        for caution in cautions(PLAN.options):
            print(f"note: {caution}", file=sys.stderr)
    renew_marks(PLAN)
    remove_damaged(PLAN.by_key)


def renew_marks(plan):
    """Make the marks of the stages agree with the store, which others may have filled, moved or pruned."""
    todo = [report_errors(plan.product)(name) for name in plan.published]
    seen = set()
    while todo:
        product = todo.pop()
        if product.name in seen:
            continue
        seen.add(product.name)
        todo += product.inputs.values()
        # The mark first: a stage that another job completes in between must not lose it.
        is_marked, is_there = product.done.exists(), is_complete(product.folder)
        try:
            if is_there and not is_marked:
                product.done.parent.mkdir(parents=True, exist_ok=True)
                product.done.touch()
            elif is_marked and not is_there:
                product.done.unlink()
        except OSError:
            pass  # a folder that cannot be written: the first job reports it


@report_errors
def stage(name):
    """The product of a stage under this configuration."""
    begin()
    return PLAN.product(name)


def by_key(name, key):
    """The product of stage ``name`` with ``key``, of this configuration or of one that a target compares with it."""
    product = in_plans(lambda plan: plan.data.product(name), key)
    if product.key != key:
        raise WorkflowError(f"{name}: no configuration of this build has the key {key}")
    return product


def in_plans(product, key):
    """The first ``product(plan)`` with ``key``; if there is none, that of this configuration.

    The plans are that of this configuration, then those that a target compares with it (`ModelPlan.plans`).
    """
    begin()
    own = report_errors(product)(MODELS)
    if own.key == key:
        return own
    for plan in MODELS.plans():
        try:
            found = product(plan)
        except UserError:
            continue  # this configuration cannot have it; another one may
        if found.key == key:
            renew_marks_of(plan)
            return found
    return own


@cache
def renew_marks_of(plan):
    """Renew the marks of another configuration, once."""
    renew_marks(plan.data)
    return plan


# --- stages -----------------------------------------------------------------------------------------------------


def mark(name):
    """Pattern of the mark of stage ``name``: an empty file that exists while the store holds it."""
    return f"{BY_KEY}/stages/{name}-{{key}}"


def done(product):
    """The file that exists once ``product`` is complete, as an input."""
    return ancient(str(product.done))


def inputs_of(product):
    """What ``product`` reads, as named inputs of its rule.

    Of a product that exists, only the inputs that exist are named: nothing is made again for it.
    """
    is_there = product.done.exists()
    reads = {name: read for name, read in product.inputs.items() if not is_there or read.done.exists()}
    return {re.sub("[^a-z0-9]", "_", name): done(read) for name, read in reads.items()}


def stage_inputs(name):
    """What stage ``name`` reads, as named inputs of its rule."""

    def inputs(wildcards):
        product = by_key(name.format(**wildcards), wildcards.key)
        reads_raw = PLAN.stage(product.name).raw and not CONFIG.is_synthetic and not product.done.exists()
        return inputs_of(product) | ({"checked": checked()} if reads_raw else {})

    return inputs


def stage_arguments(name):
    """Arguments of the command of stage ``name``: raw folders, upstream folders, changed options, recipe, place."""

    def arguments(wildcards):
        product = by_key(name.format(**wildcards), wildcards.key)
        row = PLAN.stage(product.name)
        words = []
        for root, folder in PLAN.roots().items():
            if root in roots_of(row):
                words += [f"--{root.replace('_', '-')}", str(folder)]
        for upstream, read in product.inputs.items():
            if upstream.startswith("cohort-"):
                words += ["--cohorts", str(read.folder)]
            elif upstream not in ("synthetic", "encoder"):
                words += [f"--{upstream}", str(read.folder)]
        published = Options()
        for option, value in product.spec["options"].items():
            if value != getattr(published, option):
                words += ["--option", f"{option}={value}"]
        if "n_reports" in product.spec["settings"]:
            words += ["--n-reports", str(product.spec["settings"]["n_reports"])]
        words += ["--spec", recipe(product)]
        words += [] if CONFIG.store.group_readable else ["--private"]
        return shlex.join([*words, "--out", str(product.folder)])

    return arguments


def roots_of(row):
    """Raw data sets that a stage reads."""
    from flexcare_data.schema import RAW

    return {RAW[table].root for table in row.raw} | ({"mimic_cxr_jpg"} if row.name == "images" else set())


def recipe(product, **extra):
    """Path of the recipe of ``product``, written before its command runs."""
    path = Path(BY_KEY, "recipes", f"{product.name}-{product.key}.json")
    if not DRY_RUN:
        Recipe(product.name, product.spec, links_of(product), extra).write(path)
    return str(path)


def requested(product, wildcards):
    """The product of a job, found by ``product(wildcards)``; its key must be the one in the name of the output.

    Another key was planned under another configuration, or before a change of the code: nothing may be stored under it.
    """
    begin()
    made = report_errors(product)(wildcards)
    if made.key != wildcards.key:
        raise WorkflowError(f"{made.name}: no configuration of this build has the key {wildcards.key}")
    return made


def product_inputs(product):
    """What a product reads, as named inputs of its rule; ``product`` finds it by the wildcards."""

    def inputs(wildcards):
        return inputs_of(requested(product, wildcards))

    return inputs


def product_recipe(product):
    """The recipe of a product; pages also show how long the jobs took."""

    def path(wildcards):
        made = requested(product, wildcards)
        return recipe(made, benchmarks=os.path.abspath(f"{OUT}/benchmarks"))

    return path


def published(products):
    """The published names of ``products()``, as inputs of a target."""

    def names(wildcards):
        begin()
        return [f"{OUT}/{product.target}" for product in report_errors(products)()]

    return names


def part_mark(name):
    """Pattern of the file that exists once one part of the work of stage ``name`` is done."""
    return f"{BY_KEY}/parts/{name}-{{key}}/{{part}}of{{parts}}"


def part_marks(name, jobs):
    """Marks of all parts of stage ``name``; none where one job does the stage alone."""

    def marks(wildcards):
        numbers = range(1, jobs + 1) if jobs > 1 else []
        return expand(part_mark(name), key=wildcards.key, part=numbers, parts=jobs)

    return marks


def no_such_target(wildcards):
    """Report that a target does not exist, and which one was probably meant."""
    known = sorted(rule.name for rule in workflow.rules if not rule.has_wildcards() and rule.name != "no_such_target")
    near = difflib.get_close_matches(wildcards.target, known, n=3, cutoff=0.6)
    meant = f"did you mean {' or '.join(near)}?" if near else "`snakemake --list-target-rules` prints the menu"
    raise WorkflowError(f"no target {wildcards.target}; {meant}")


# --- resources --------------------------------------------------------------------------------------------------


def growing(base):
    """A resource that doubles with each attempt, as a retried job may have died for lack of it."""
    return lambda wildcards, attempt: base * 2 ** (attempt - 1)


def gpus(device):
    """One GPU, unless the work is meant for the CPU."""
    return 0 if device == "cpu" else 1


def lock_output():
    """Lock the output folder until this process ends, and write its origin.

    Snakemake itself locks only the working directory. On a disk without locks the build runs unlocked.
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
        return  # a folder that cannot be written: the first job reports it
    report_errors(ORIGIN.check)(CONFIG.output)  # for targets that plan no product, such as doctor
    ORIGIN.write(CONFIG.output)


@cache
def checked_key():
    """Key of the check of the raw data: changes with a table and with the code of the doctor."""
    from flexcare_data.plan import code_spec
    from flexcare_data.schema import RAW

    begin()
    tables = sorted({table for name in PLAN.published for table in PLAN.stage(name).raw})
    digests = {table: report_errors(PLAN.raw_digest)(table) for table in tables}
    return spec_key({"raw": digests, "code": code_spec("flexcare_data.doctor.examine")})


def checked():
    """Mark of the check of the raw data."""
    return ancient(f"{BY_KEY}/checked/{checked_key()}")


def doctor_config(wildcards):
    """A file with the resolved configuration, for the doctor."""
    text = CONFIG.model_dump_json(indent=1)
    path = Path(BY_KEY, "recipes", f"config-{spec_key(CONFIG.model_dump(mode='json'))}.json")
    if not DRY_RUN and not path.exists():
        from flexcare_data.store.folders import atomic_write

        atomic_write(path, text + "\n")
    return str(path)


def note_settings(wildcards):
    """Settings of the note vectors, and the encoder: a local folder, or the prepared one."""
    notes, product = CONFIG.notes, by_key("notes", wildcards.key)
    encoder = product.inputs["encoder"].folder if "encoder" in product.inputs else PLAN.encoder_folder
    words = ["--encoder", encoder, "--storage", notes.storage, "--max-tokens", notes.max_tokens]
    words += ["--batch-tokens", notes.batch_tokens, "--device", notes.device]
    return shlex.join(map(str, words))


def cohort_and_its_data(task):
    """The cohort of a task and the data that it is made from."""
    return published(lambda: [stage(cohort_stage(task)), *map(stage, PLAN.shared)])


def year_groups(wildcards):
    """Groups of years of each split, where the patients are split by time."""
    settings = by_key("splits", wildcards.key).spec["settings"]
    return shlex.join(word for split, groups in settings.items() for group in groups for word in (f"--{split}", group))


def image_settings(wildcards):
    """Settings of the decoding."""
    images = CONFIG.images
    words = ["--which", images.which, "--broken-share", str(images.broken_share)]
    return shlex.join([*words, *(["--allow-missing"] if images.allow_missing else [])])


def cohort_folders(wildcards):
    """Folders of all cohorts, as arguments of a command."""
    return shlex.join(word for name in PLAN.cohorts for word in ("--cohorts", str(stage(name).folder)))
