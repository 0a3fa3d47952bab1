"""Tokens per second of training: ours, without and with guidance, and transformers' Trainer with DeepSpeed.

    python -m benchmarks.throughput [--device cpu|cuda] [--preset small|base|large] [--processes 2]

All start from the same weights and train the same rows in the same order with the same masks, settings and
DeepSpeed file, so their losses must agree; the last line tells by how much they do not. The Trainer is run as
transformers' run_mlm example runs it (SDPA attention, a label for every position), under torchrun; ours as
`python -m pipeline train`. Each way is started anew in every round, one after the other, so that changes of
the machine's speed meet all; the time of a step is the median over the run's later half.

    trainer   transformers.Trainer with DeepSpeed
    ours      guidance off
    dense     guidance on, all guided layers count in every step (while the patterns form)
    guided    guidance on, layers sampled (what most of a run costs)

The last line is one JSON object: `tokens_per_second` by way, `vs_trainer`, `vs_trainer_guided`,
`guidance_cost` (guided over ours, time), `loss_difference` (largest relative one), `mfu` of ours: of the data
sheet's peak for bf16, or on CPU of what a large matrix product gets out of all cores.
"""

import argparse
import json
import os
import statistics
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
from benchmarks.matmul_peak import measured_peak_flops_per_second
from benchmarks.output import tell
from pipeline.accounting.device_peaks import peak_of
from pipeline.build import Corpus
from pipeline.config.schema import ModelSection
from pipeline.encoder.model import build_model
from pipeline.runs.run_dir import RunDir, describe_machine, read_json_lines

WAYS = ("trainer", "ours", "dense", "guided")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and what it is trained with."""

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    length: int
    rows: int  # per process and step
    guided_heads: dict[str, int]


PRESETS = {
    "small": Preset(
        layers=8,
        hidden=256,
        heads=8,
        vocabulary=32768,
        length=128,
        rows=32,
        guided_heads={"next": 1, "previous": 1, "first": 2},
    ),
    "base": Preset(
        layers=12,
        hidden=768,
        heads=12,
        vocabulary=50304,
        length=512,
        rows=64,
        guided_heads={"next": 1, "previous": 1, "first": 4},
    ),
    "large": Preset(
        layers=24,
        hidden=1024,
        heads=16,
        vocabulary=50304,
        length=512,
        rows=32,
        guided_heads={"next": 1, "previous": 1, "first": 6},
    ),
}


class Race:
    """Corpus, weights and recipes that all ways share, in a directory of its own."""

    def __init__(self, directory: Path, preset: Preset, arguments: argparse.Namespace) -> None:
        self.directory, self.preset, self.arguments = directory, preset, arguments
        self.corpus, self.checkpoint = directory / "corpus", directory / "initial"
        documents, tokenizer = directory / "documents.jsonl", directory / "tokenizer"
        prepare("sample", documents)
        prepare("tokenizer", documents, "--out", tokenizer, "--vocab-size", preset.vocabulary)
        prepare("shard", documents, "--tokenizer", tokenizer, "--out", self.corpus, "--length", preset.length)
        section = ModelSection(
            num_layers=preset.layers,
            hidden_size=preset.hidden,
            num_heads=preset.heads,
            intermediate_size=4 * preset.hidden,
            dropout=arguments.dropout,
            attention_dropout=arguments.dropout,
        )
        vocabulary = Corpus.open(str(self.corpus)).vocabulary
        build_model(section, vocabulary, preset.length, seed=0).save_pretrained(str(self.checkpoint))

    def run(self, way: str, turn: int) -> dict[str, Any]:
        """Train one way; its losses by step and the seconds of each logged window's steps."""
        recipe = self.directory / f"{way}-{turn}.yaml"
        run = self.directory / f"{way}-{turn}"
        recipe.write_text(yaml.safe_dump(self._settings(way, run)), encoding="utf-8")
        out = self.directory / f"{way}-{turn}.json"
        processes = str(self.arguments.processes)
        if way == "trainer":
            command = ["torch.distributed.run", "--standalone", "--nproc-per-node", processes]
            command += ["-m", "benchmarks.hf_trainer", str(recipe), str(out)]
        else:
            command = ["pipeline", "train", str(recipe), "--processes", processes]
        finished = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if finished.returncode:
            raise SystemExit(f"error: {way} ended with {finished.returncode}:\n{finished.stdout[-3000:]}")
        if way == "trainer":
            found = json.loads(out.read_text(encoding="utf-8"))
            return {**found, "losses": {int(step): loss for step, loss in found["losses"].items()}}
        lines = [line for line in read_json_lines(RunDir(run).metrics_file) if line["kind"] == "train"]
        return {
            "losses": {line["step"]: line["loss"] for line in lines},
            "step_seconds": [line["step_seconds"] for line in lines],
            "flops_per_second": [line["model_flops_per_second"] for line in lines],
        }

    def _settings(self, way: str, run: Path) -> dict[str, Any]:
        preset, arguments = self.preset, self.arguments
        guidance: dict[str, Any] = {}
        if way in ("dense", "guided"):
            guidance = {"heads": preset.guided_heads, "dense": 1.0 if way == "dense" else 0}
        return {
            "run_dir": str(run),
            "corpus": str(self.corpus),
            "model": {"checkpoint": str(self.checkpoint)},
            "guidance": guidance,
            "optimizer": {"learning_rate": 1e-4},
            "schedule": {"kind": "wsd", "warmup": 0, "decay": 0},  # constant
            "train": {
                "num_steps": arguments.steps,
                "global_batch_size": preset.rows * arguments.processes,
                "micro_batch_size": preset.rows,
                "precision": "bf16" if arguments.device == "cuda" else "fp32",
                "deepspeed": arguments.deepspeed,
            },
            "data": {"num_workers": 0 if arguments.device == "cpu" else 4},
            "evaluation": {"every_steps": arguments.steps, "max_rows": preset.rows},
            "checkpoint": {"every_steps": arguments.steps},
            "logging": {"every_steps": arguments.log_every, "tensorboard": False},
        }


def settled(values: list[float]) -> float:
    """Median of the later half."""
    return statistics.median(values[len(values) // 2 :])


def print_table(figures: dict[str, dict[str, float]]) -> None:
    print(f"\n{'way':<10}{'step ms':>10}{'tokens/s':>12}{'against trainer':>17}")
    for way, found in figures.items():
        print(
            f"{way:<10}{1000 * found['step_seconds']:>10.1f}{found['tokens_per_second']:>12,.0f}"
            f"{found['against_trainer']:>17.2f}"
        )


def judge(rounds: list[dict[str, dict[str, Any]]], race: Race) -> dict[str, dict[str, float]]:
    """Step time and rate of each way: medians over the rounds; ratios are taken within a round."""
    tokens = race.preset.rows * race.arguments.processes * race.preset.length
    figures = {}
    for way in rounds[0]:
        seconds = [settled(found[way]["step_seconds"]) for found in rounds]
        ratios = [settled(found["trainer"]["step_seconds"]) / s for found, s in zip(rounds, seconds)]
        figures[way] = {
            "step_seconds": statistics.median(seconds),
            "tokens_per_second": tokens / statistics.median(seconds),
            "against_trainer": statistics.median(ratios),
        }
    return figures


def peak_flops(device_type: str, num_processes: int) -> float:
    """Of all devices together: the data sheet's, or what a large matrix product gets out of a CPU's cores."""
    device = torch.device(device_type)
    if device_type == "cpu":
        return measured_peak_flops_per_second(device)
    peak = peak_of(device, "bf16")
    return num_processes * (measured_peak_flops_per_second(device, torch.bfloat16) if peak is None else peak)


def loss_difference(runs: dict[str, dict[str, Any]]) -> float:
    """Largest relative difference of the logged losses of ours from the Trainer's."""
    theirs, ours = runs["trainer"]["losses"], runs["ours"]["losses"]
    if theirs.keys() != ours.keys():
        raise SystemExit(f"error: the Trainer logged steps {sorted(theirs)}, ours {sorted(ours)}")
    return max(abs(ours[step] / theirs[step] - 1) for step in theirs)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    on_cuda = torch.cuda.is_available()
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if on_cuda else "cpu")
    parser.add_argument("--preset", choices=PRESETS, help="default: small on CPU, base on CUDA")
    parser.add_argument("--processes", type=int, help="default: one per GPU, 2 on CPU")
    parser.add_argument("--deepspeed", default="zero1", help="a file of ds_configs/ (default zero1)")
    parser.add_argument("--dropout", type=float, default=0.0, help="above 0 the losses differ (default 0)")
    parser.add_argument("--steps", type=int, default=30, help="of each run (default 30)")
    parser.add_argument("--log-every", type=int, default=5, help="steps between losses (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each way (default 3)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--keep", type=Path, help="work in this new directory and keep it")
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not on_cuda:
        parser.error("--device cuda: no CUDA device was found")
    arguments.preset = arguments.preset or ("base" if arguments.device == "cuda" else "small")
    arguments.processes = arguments.processes or (
        torch.cuda.device_count() if arguments.device == "cuda" else 2
    )
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.keep or Path(temporary)
        directory.mkdir(exist_ok=True)
        race = Race(directory, PRESETS[arguments.preset], arguments)
        rounds: list[dict[str, dict[str, Any]]] = []
        bar = tqdm(total=arguments.rounds * len(WAYS), unit="run", disable=not sys.stderr.isatty())
        for turn in range(arguments.rounds):
            rounds.append({})
            for way in WAYS:
                rounds[-1][way] = race.run(way, turn)
                bar.update()
        bar.close()
    figures = judge(rounds, race)
    print_table(figures)
    difference = max(loss_difference(runs) for runs in rounds)
    print(f"losses of ours and the Trainer's differ by at most {difference:.1e}, relative")
    flops = statistics.median(settled(found["ours"]["flops_per_second"]) for found in rounds)
    peak = peak_flops(arguments.device, arguments.processes)
    print(f"model FLOPs utilization of ours: {100 * flops / peak:.1f} %")
    tell(
        {
            "benchmark": "throughput",
            "preset": arguments.preset,
            "processes": arguments.processes,
            "deepspeed": arguments.deepspeed,
            "dropout": arguments.dropout,
            "rounds": arguments.rounds,
            "tokens_per_second": {way: round(found["tokens_per_second"]) for way, found in figures.items()},
            "vs_trainer": round(figures["ours"]["against_trainer"], 3),
            "vs_trainer_guided": round(figures["guided"]["against_trainer"], 3),
            "guidance_cost": round(
                figures["ours"]["against_trainer"] / figures["guided"]["against_trainer"], 3
            ),
            "loss_difference": difference,
            "mfu": round(flops / peak, 3),
            **describe_machine(),
        },
        arguments.out,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
