"""How far `python -m pipeline plan` is from the memory that training takes.

    python -m benchmarks.memory [--only demo] [--out FILE]

Each recipe trains for a few steps, with a checkpoint in the background before the last one, as
`python -m pipeline train` does it; every process says how high its memory went: on CUDA what torch's
allocator gave out, on CPU the resident set as the kernel saw it (VmHWM). Beside it stands what
`plan --json` says.

    demo              the recipe as it is, corpus included: small, so that the libraries are most of it
    roberta-zero2     8 x 256, vocabulary of 32k, bf16, dropout (on CPU, attention's matrices are made)
    modernbert-zero1  8 x 256, rows of 512, activation checkpointing, fp32
    roberta-zero3     8 x 256, vocabulary of 32k, rows of 128, fp32, no dropout, two forward passes a step

The corpora are made of the documentation of the installed libraries. The last line is one JSON object;
`worst_ratio` is that prediction over measurement which is furthest from 1, of the process with the highest
peak.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from benchmarks.loader import prepare
from benchmarks.output import tell
from benchmarks.witness import train_witnessed
from pipeline.runs.run_dir import describe_machine

_STEPS, _SAVE_AT = 3, 1
_MEBIBYTE = 2**20
_SMALL = {"num_layers": 8, "hidden_size": 256, "num_heads": 4}
_GUIDANCE = {"heads": {"next": 1, "previous": 1}, "weight": 0.1}


@dataclass(frozen=True)
class Case:
    """A recipe to predict.

    Attributes:
        vocabulary: entries of the tokenizer.
        length: tokens of a row.
        settings: of the recipe, beside corpus and run directory; None for the demo's.
        steps: to take.
    """

    vocabulary: int
    length: int
    settings: dict[str, Any] | None


CASES = {
    "demo": Case(8192, 64, None),
    "roberta-zero2": Case(
        32768,
        128,
        {
            "model": {**_SMALL, "intermediate_size": 1024},
            "guidance": _GUIDANCE,
            "train": {"deepspeed": "zero2", "global_batch_size": 64, "micro_batch_size": 32},
        },
    ),
    "modernbert-zero1": Case(
        32768,
        512,
        {
            "model": {**_SMALL, "family": "modernbert", "intermediate_size": 512},
            "guidance": _GUIDANCE,
            "train": {
                "deepspeed": "zero1",
                "precision": "fp32",
                "global_batch_size": 16,
                "micro_batch_size": 8,
                "activation_checkpointing": True,
            },
        },
    ),
    "roberta-zero3": Case(
        32768,
        128,
        {
            "model": {**_SMALL, "intermediate_size": 1024, "dropout": 0.0, "attention_dropout": 0.0},
            "train": {
                "deepspeed": "zero3",
                "precision": "fp32",
                "global_batch_size": 64,
                "micro_batch_size": 16,
            },
        },
    ),
}


def make_corpus(directory: Path, vocabulary: int, length: int) -> Path:
    """A corpus below `directory`, made once."""
    documents, tokenizer = directory / "documents.jsonl", directory / f"tokenizer-{vocabulary}"
    corpus = directory / f"rows-of-{length}-{vocabulary}"
    if not documents.exists():
        prepare("sample", documents, "--max-bytes", 12_000_000)
    if not tokenizer.exists():
        prepare("tokenizer", documents, "--out", tokenizer, "--vocab-size", vocabulary)
    if not corpus.exists():
        fraction = ("--valid-fraction", 0.02)
        prepare("shard", documents, "--tokenizer", tokenizer, "--out", corpus, "--length", length, *fraction)
    return corpus


def overrides_of(case: Case, corpus: Path, run_dir: Path) -> list[str]:
    """What makes a short run of a recipe."""
    kept = [f"corpus={corpus}", f"run_dir={run_dir}", f"train.num_steps={_STEPS}", "data.num_workers=0"]
    every = [f"checkpoint.every_steps={_SAVE_AT}", f"evaluation.every_steps={_STEPS}"]
    return [*kept, *every, "evaluation.max_rows=64", "logging.every_steps=1"]


def write_recipe(path: Path, name: str, case: Case) -> Path | str:
    """The recipe's file; the demo is known by name."""
    if case.settings is None:
        return name
    path.write_text(yaml.safe_dump({"run_dir": "", "corpus": "", **case.settings}), encoding="utf-8")
    return path


def read_plan(recipe: Path | str, num_processes: int, overrides: list[str], device: str) -> dict[str, Any]:
    """What `plan` says."""
    command = [sys.executable, "-m", "pipeline", "plan", str(recipe), "--processes", str(num_processes)]
    command += ["--device", device, "--json", *(part for o in overrides for part in ("--set", o))]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(told)


def compare(name: str, case: Case, directory: Path, num_processes: int) -> dict[str, Any]:
    """Predict and train one recipe."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    corpus = make_corpus(directory, case.vocabulary, case.length)
    overrides = overrides_of(case, corpus, directory / f"run-{name}")
    recipe = write_recipe(directory / f"{name}.yaml", name, case)
    plan = read_plan(recipe, num_processes, overrides, device)["memory_bytes_per_process"]
    predicted = plan["on_device" if device == "cuda" else "resident"]
    peaks = [seen.measured_bytes for seen in train_witnessed(recipe, num_processes, overrides)]
    return {
        "predicted_mib": round(predicted / _MEBIBYTE, 1),
        "measured_mib": [round(peak / _MEBIBYTE, 1) for peak in peaks],
        "ratio": round(predicted / max(peaks), 3),
        "plan": plan,
    }


def render(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'recipe':<18}{'predicted MiB':>14}{'measured MiB':>14}{'ratio':>8}  of it"]
    for name, case in found.items():
        parts = {key: value for key, value in case["plan"].items() if type(value) is int}
        largest = sorted(parts, key=lambda key: -parts[key])[1:4]  # the first is the sum
        told = ", ".join(f"{key.replace('_', ' ')} {parts[key] / _MEBIBYTE:.0f}" for key in largest)
        measured, predicted = max(case["measured_mib"]), case["predicted_mib"]
        lines.append(f"{name:<18}{predicted:>14.0f}{measured:>14.0f}{case['ratio']:>8.3f}  {told}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=CASES, action="append", help="this recipe; may be given again")
    parser.add_argument("--processes", type=int, metavar="N", help="default: 2 on CPU, 1 on CUDA")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the JSON to this file")
    arguments = parser.parse_args()
    num_processes = arguments.processes or (1 if torch.cuda.is_available() else 2)
    with tempfile.TemporaryDirectory(prefix="bench-memory-") as directory:
        found = {
            name: compare(name, CASES[name], Path(directory), num_processes)
            for name in tqdm(arguments.only or CASES, disable=not sys.stderr.isatty())
        }
    print(render(found))
    worst = max(found, key=lambda name: abs(found[name]["ratio"] - 1.0))
    result = {
        "benchmark": "memory",
        "measured": "allocator" if torch.cuda.is_available() else "resident set",
        "processes": num_processes,
        "worst_ratio": found[worst]["ratio"],
        "worst": worst,
        "recipes": found,
        **describe_machine(),
    }
    tell(result, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
