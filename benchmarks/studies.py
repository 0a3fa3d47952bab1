"""Does guidance help? The studies behind the README's answer, each one `python -m pipeline study`.

    python -m benchmarks.studies depth --corpus CORPUS [--scale cpu|gpu] [--parallel N] [--out DIR]

The results (every number in JSON, the table, the figures) are copied to benchmarks/results/studies/. Started
again, a study goes on where it was. `--scale cpu` is the recipe `small`, a minute or two a run on one core;
`--scale gpu` is RoBERTa-base's width, for rows of 512 tokens and batches as in the guidance paper, minutes a
run on an H100. Prints the study's table and, as its last line, one JSON object.
"""

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "studies"
_KEPT = ("study.json", "study_results.json", "table.md", "*.png")


@dataclass(frozen=True)
class StudyPlan:
    """A question and the arguments of `study` that answer it."""

    question: str
    arguments: tuple[str, ...]


# As Clark et al. (2019) saw it in trained encoders: neighbours below, delimiters and sentence ends above.
_DELIMITERS_ABOVE = "{0-2: {next: 1, previous: 1}, 3-: {delimiters: 1, sentence_ends: 1}}"
_GONE_AT_HALF = ("guidance.plateau=0.25", "guidance.end=0.5")
_ELECTRA = ("objective.kind=electra", "objective.generator_layers=2", "train.num_steps=1200")
_GUIDED = ("--vary", "guidance.weight=0,0.1")
STUDIES = {
    "depth": StudyPlan(
        "How much sooner is the unguided run's final loss reached, at which depth?",
        (*_GUIDED, "--vary", "model.num_layers=2,4,8,12,16", "--seeds", "3"),
    ),
    "deep": StudyPlan(
        "The same for the two largest depths of the guidance paper alone, for wide models.",
        (*_GUIDED, "--vary", "model.num_layers=12,16", "--seeds", "2"),
    ),
    "sensitivity": StudyPlan(
        "Does guidance make training less touchy about learning rate and warm-up?",
        (
            *_GUIDED,
            *("--vary", "optimizer.learning_rate=3e-4,1e-3,3e-3"),
            *("--vary", "schedule.warmup=0.0,0.1", "--seeds", "2"),
        ),
    ),
    "scarce": StudyPlan(
        "Does it help more when text is scarce?",
        (*_GUIDED, "--vary", "data.train_share=0.01,0.05,0.2", "--seeds", "3"),
    ),
    "language": StudyPlan(
        "And when a language has little text at all? For a task afterwards, see benchmarks.downstream.",
        (
            *("--arm", "unguided", "guidance.weight=0"),
            *("--arm", "default"),
            *("--arm", "not pretrained", "guidance.weight=0", "train.num_steps=1"),
            *("--seeds", "3", "--set", "train.num_steps=1200", "--set", "checkpoint.every_steps=1200"),
        ),
    ),
    "objectives": StudyPlan(
        "Replaced-token detection against masked language modelling at equal time, on minimal pairs; and "
        "guidance of its networks. Its steps cost 1.31 times the FLOPs, so there are 1,600 / 1.33 of them.",
        (
            *("--arm", "mlm", "guidance.weight=0", "train.num_steps=1600"),
            *("--arm", "electra", "guidance.weight=0", *_ELECTRA),
            *("--arm", "discriminator guided", *_ELECTRA),
            *("--arm", "generator guided", "guidance.networks=[generator]", *_ELECTRA),
            *("--arm", "both guided", "guidance.networks=[generator,discriminator]", *_ELECTRA),
            *("--seeds", "3", "--compare-by", "accuracy", "task=blimp", "data=data/blimp", "limit=100"),
        ),
    ),
    "controls": StudyPlan(
        "Is it the patterns that help, or any sparse attention? Which of them? Are sampled layers as good?",
        (
            *("--arm", "unguided", "guidance.weight=0"),
            *("--arm", "default"),
            *("--arm", "random keys", "guidance.heads={random-1: 1, random-2: 1}"),
            *("--arm", "next only", "guidance.heads={next: 1}"),
            *("--arm", "previous only", "guidance.heads={previous: 1}"),
            *("--arm", "first only", "guidance.heads={first: 1}"),
            *("--arm", "with first", "guidance.heads={next: 1, previous: 1, first: 1}"),
            *("--arm", "all layers to the end", "guidance.layers_per_step=null"),
            *("--seeds", "3"),
        ),
    ),
    "sampling": StudyPlan(
        "What does it cost to look at some layers only, from the start or once the patterns have formed?",
        (
            *("--arm", "unguided", "guidance.weight=0"),
            *("--arm", "default"),
            *("--arm", "sampled from the start", "guidance.dense=0"),
            *("--arm", "all layers to the end", "guidance.layers_per_step=null"),
            *("--seeds", "3"),
        ),
    ),
    "forms": StudyPlan(
        "Which form of the loss, which schedule, which layers; a bias instead?",
        (
            *("--arm", "unguided", "guidance.weight=0"),
            *("--arm", "default"),
            *("--arm", "squared error", "guidance.error=squared"),
            *("--arm", "published loss", "guidance.normalization=authors", "guidance.alpha=100"),
            # The same factor on rows of 64 tokens as the default weight of squared errors has there.
            *("--arm", "published, alpha 4.67", "guidance.normalization=authors", "guidance.alpha=4.67"),
            *("--arm", "to 0 at half", *_GONE_AT_HALF),
            *("--arm", "constant weight", "guidance.plateau=1.0"),
            *("--arm", "lowest 3 of 6 layers", "guidance.layers=3"),
            *("--arm", "delimiters above", f"guidance.heads={_DELIMITERS_ABOVE}"),
            *("--arm", "bias", "guidance.method=bias"),
            *("--arm", "bias to 0 at half", "guidance.method=bias", *_GONE_AT_HALF),
            *("--seeds", "2"),
        ),
    ),
    "strength": StudyPlan(
        "How strong may the pull be?",
        ("--vary", "guidance.weight=0,0.01,0.1,0.4,1.6", "--seeds", "2"),
    ),
    "extremes": StudyPlan(
        "Does guidance with its defaults ever end worse than none? For corpora of several row lengths.",
        (*_GUIDED, "--vary", "model.num_layers=2,16", "--seeds", "2"),
    ),
}
_SCALES: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "gpu": (
        *("model.hidden_size=768", "model.num_heads=12", "model.intermediate_size=3072"),
        *("optimizer.learning_rate=2e-4", "schedule.warmup=0.1", "train.num_steps=1500"),
        *("train.global_batch_size=16", "train.micro_batch_size=16", "train.precision=bf16"),
        *("train.deepspeed=zero1", "data.num_workers=1", "evaluation.every_steps=100"),
        *("evaluation.max_rows=256", "checkpoint.every_steps=1500"),
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=tuple(STUDIES), help="what is asked")
    parser.add_argument("--corpus", type=Path, required=True, help="a directory made by data_prep")
    parser.add_argument(
        "--scale", choices=tuple(_SCALES), default="cpu", help="size of the runs (default: cpu)"
    )
    parser.add_argument("--parallel", metavar="N", help="runs at a time (default: 2 on CPU, 1 on a GPU)")
    parser.add_argument("--seeds", metavar="N", help="runs of each cell (default: the study's own number)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/study-STUDY-SCALE")
    parser.add_argument("--name", help="of the results (default: STUDY-SCALE)")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    plan, name = STUDIES[arguments.study], arguments.name or f"{arguments.study}-{arguments.scale}"
    out = arguments.out or Path("runs") / f"study-{name}"
    print(f"{name}: {plan.question}", flush=True)
    overrides = [f"corpus={arguments.corpus}", *_SCALES[arguments.scale], *arguments.overrides]
    command = [sys.executable, "-m", "pipeline", "study", "small", "--out", str(out)]
    parallel = arguments.parallel or ("2" if arguments.scale == "cpu" else "1")
    command += [*plan.arguments, *(["--seeds", arguments.seeds] if arguments.seeds else [])]
    command += ["--parallel", parallel]
    command += [part for override in overrides for part in ("--set", override)]
    code = subprocess.run(command).returncode
    if code == 0:
        kept = _keep(out, RESULTS / name)
        worst = _worst_percent(out / "study_results.json")
        print(json.dumps({"benchmark": "studies", "study": name, "worst_percent": worst, "kept": kept}))
    return code


def _worst_percent(results: Path) -> float | None:
    """By how much the worst cell's final loss is above its baseline's, in percent; negative if none is."""
    cells = json.loads(results.read_text(encoding="utf-8"))["cells"]
    differences = [cell["difference"]["relative_percent"] for cell in cells if cell["difference"]]
    return max(differences, default=None)


def _keep(out: Path, directory: Path) -> list[str]:
    """Copy the results to where the documentation shows them; returns the files."""
    directory.mkdir(parents=True, exist_ok=True)
    files = sorted(file for pattern in _KEPT for file in out.glob(pattern))
    for file in files:
        shutil.copyfile(file, directory / file.name)
    return [str(directory / file.name) for file in files]


if __name__ == "__main__":
    sys.exit(main())
