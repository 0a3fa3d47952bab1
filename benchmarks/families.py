"""What works with which model family, tried with whole commands on a tiny corpus.

    python -m benchmarks.families [--only bert roberta] [--out FILE]

For every model type of transformers that has a masked-LM class, a tiny encoder takes three steps from scratch
with `train`; then with guidance, with documents apart, and with its blocks compiled (torch's compiler
captures them but makes no code, which would take minutes). `plan`, `export` and `evaluate` follow. What comes
out is the table of docs/families.md; why something does not work goes to standard error.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

COLUMNS = ("training", "guidance", "documents apart", "compile", "plan", "export", "evaluate")
_SIZES: dict[str, Any] = {"num_layers": 2, "hidden_size": 64, "num_heads": 2, "intermediate_size": 128}
# Without these the family's own defaults do not go with so small a model.
_OPTIONS: dict[str, dict[str, Any]] = {
    "longformer": {"attention_window": 16},
    "mobilebert": {"embedding_size": 64, "true_hidden_size": 64, "intra_bottleneck_size": 64},
    "neomme": {"head_dim": 32, "num_key_value_heads": 2},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [4, 8]},
}
_GUIDANCE = {"heads": {"next": 1}, "weight": 0.1}
_UNCOMPILED = "runs uncompiled"  # of a run that says so and goes on
_SECONDS = 240  # for a command


def make_corpus(directory: Path) -> Path:
    """A corpus of 32-token rows, made by the real commands."""
    from data_prep.__main__ import main

    texts, tokenizer, corpus = directory / "docs.jsonl", directory / "tokenizer", directory / "corpus"
    shard = ["shard", texts, "--tokenizer", tokenizer, "--out", corpus, "--workers", 1]
    for arguments in (
        ["sample", texts, "--max-bytes", 100_000],
        ["tokenizer", texts, "--out", tokenizer, "--vocab-size", 500],
        [*shard, "--length", 32, "--valid-fraction", 0.2],
    ):
        with contextlib.redirect_stdout(sys.stderr):
            assert main([str(argument) for argument in arguments]) == 0
    return corpus


def try_family(family: str, corpus: Path, directory: Path) -> tuple[dict[str, bool], list[str]]:
    """Which of COLUMNS work, and what was told where one does not."""
    works, told = dict.fromkeys(COLUMNS, False), []

    def attempt(column: str, command: list[str], before: Callable[[], None] | None = None) -> None:
        code, output = run_apart(command, before, directory / "output")
        works[column] = code == 0 and _UNCOMPILED not in output
        if not works[column]:
            told.append(f"{family}, {column}: exit code {code}: {' '.join(output.split())[-300:]}")

    def train(column: str, before: Callable[[], None] | None = None, **sections: Any) -> None:
        recipe = _recipe(family, corpus, directory / column.replace(" ", "-"), sections)
        path = directory / f"{column}.yaml"
        path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        attempt(column, ["train", str(path)], before)

    train("training")
    if works["training"]:
        train("guidance", guidance=_GUIDANCE)
        train("documents apart", data={"attend_across_documents": False})
        train("compile", _capture_only, train={"compile": True})
        attempt("plan", ["plan", str(directory / "training.yaml")])
        attempt("export", ["export", str(directory / "training")])
        attempt("evaluate", ["evaluate", str(directory / "training")])
    return works, told


def run_apart(command: list[str], before: Callable[[], None] | None, output: Path) -> tuple[int, str]:
    """Exit code and output of a command of `pipeline`, in a fork of this process.

    A fork has all libraries already, which are most of what a short command takes.
    """
    child = os.fork()
    if child == 0:
        code = 70
        try:
            signal.alarm(_SECONDS)
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            if before is not None:
                before()
            from pipeline.__main__ import main

            code = main(command)
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), output.read_text(encoding="utf-8", errors="replace")


def render(family: str, works: dict[str, bool]) -> str:
    """The family's line of the table."""
    return f"| {family} | " + " | ".join("yes" if works[column] else "no" for column in COLUMNS) + " |"


def _recipe(family: str, corpus: Path, run: Path, sections: dict[str, Any]) -> dict[str, Any]:
    from pipeline.config.schema import ModelSection
    from pipeline.encoder.families import family_problem, missing_settings

    lacks = {} if family_problem(family) else missing_settings(ModelSection(family=family, **_SIZES))
    sizes = {key: value for key, value in _SIZES.items() if key not in lacks}
    recipe: dict[str, Any] = {
        "run_dir": str(run),
        "corpus": str(corpus),
        "model": {"family": family, **sizes, "options": _OPTIONS.get(family, {})},
        "train": {"num_steps": 3, "global_batch_size": 4, "micro_batch_size": 4, "precision": "fp32"},
        "data": {"num_workers": 0},
        "evaluation": {"every_steps": 3, "max_rows": 8},
        "logging": {"every_steps": 1, "tensorboard": False},
    }
    for name, values in sections.items():
        recipe[name] = recipe.get(name, {}) | values
    return recipe


def _capture_only() -> None:
    """Let torch's compiler capture the blocks and run them as they are captured."""
    from pipeline.encoder import compilation

    compilation.why_not = lambda device, **_settings: None
    compilation.compile_blocks = partial(compilation.compile_blocks, backend="eager")


def _import_all() -> None:
    """What the forks would each import."""
    import deepspeed  # noqa: F401

    import pipeline.evaluation.evaluate
    import pipeline.planning.plan
    import pipeline.training.train  # noqa: F401


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=sorted(MODEL_FOR_MASKED_LM_MAPPING_NAMES))
    parser.add_argument("--out", type=Path, help="write the table here, too")
    arguments = parser.parse_args()
    for name, value in (("OMP_NUM_THREADS", "1"), ("HF_HUB_OFFLINE", "1"), ("DS_ACCELERATOR", "cpu")):
        os.environ.setdefault(name, value)
    lines = [f"| model type | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    print(*lines, sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as work:
        corpus = make_corpus(Path(work))
        _import_all()
        for family in arguments.only:
            directory = Path(work) / family
            directory.mkdir()
            works, told = try_family(family, corpus, directory)
            lines.append(render(family, works))
            print(lines[-1], flush=True)
            print(*told, sep="\n", file=sys.stderr, flush=True)
    if arguments.out is not None:
        arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
