"""What guidance costs: step time and memory without it, with ours, and the published way.

    python -m benchmarks.guidance [--device cpu|cuda] [--preset small|base] [--lengths 128,512,2048]

One model and one DeepSpeed engine per way, the same rows, steps taken in turn so that a change in the
machine's speed meets all of them. Memory is the peak over a few steps, each way in a process of its own: of
the CUDA allocator, or of the process's resident set on CPU.

    none       no guidance
    sampled    ours in the sampled phase, a quarter of the layers per step (what most of a run costs)
    all        ours in the dense phase, all layers (while the patterns form)
    published  attention maps of every layer kept (eager attention), dense n x n targets, mean square error

"whole run" takes every step of a short run with the default schedule; its patterns do not form, so it is
dense for as long as a run can be. "terms alone" is one layer's loss, forward and backward, against the dense
formula under autograd.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from benchmarks.output import tell
from benchmarks.published import PublishedGuidance, published_loss
from pipeline.accounting.resident import resident_peak_bytes
from pipeline.build import build_guidance_schedule
from pipeline.config.deepspeed_json import read_template, resolve
from pipeline.config.schema import GuidanceSection, ModelSection, Recipe, TrainSection
from pipeline.data.batches import Batch
from pipeline.data.corpus import Vocabulary
from pipeline.data.documents import Documents
from pipeline.encoder.attention import install_taps
from pipeline.encoder.model import build_model
from pipeline.engine import PretrainingModule, start_engine, total_loss
from pipeline.guidance.allocation import allocate, head_table
from pipeline.guidance.formation import Formation
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.loss import make_guidance_loss
from pipeline.guidance.patterns import parse_pattern
from pipeline.guidance.row_terms import LossForm, row_terms
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.targets import make_targets
from pipeline.objectives.mlm.module import MaskedLanguageModeling
from pipeline.processes.cluster import LAUNCHER_VARIABLES, Cluster
from pipeline.runs.run_dir import describe_machine

WAYS = ("none", "sampled", "all", "published")
_REFERENCE_LENGTH = 512  # of the figures named in the last line
_PRESETS = {  # layers, hidden size, heads, vocabulary, tokens per step
    "small": (8, 256, 8, 8192, 2048),
    "base": (12, 768, 12, 50368, 65536),
}
_HEADS = {"small": {"next": 1, "previous": 1, "first": 2}, "base": {"next": 1, "previous": 1, "first": 4}}
_GUIDANCE: dict[str, dict[str, Any]] = {
    "none": {"weight": 0.0},
    "published": {"weight": 0.0},
    "sampled": {"dense": 0},
    "all": {"dense": 1.0},
}


def random_batch(rows: int, length: int, vocab_size: int, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (rows, length), generator=generator)
    positions = torch.rand(rows, length, generator=generator).argsort(1)[:, : round(0.15 * length)]
    lengths = torch.full((rows,), length)
    columns = {"input_ids": ids, "positions": positions, "labels": ids.gather(1, positions)}
    return Batch(
        columns={**columns, "replacements": torch.full_like(positions, 4)},
        counts={"predicted": float(positions.numel())},
        lengths=lengths,
        documents=Documents.one_per_row(lengths, length),
        full=True,
    ).to(device)


@dataclass(frozen=True)
class Setup:
    """What all ways have in common."""

    preset: str
    dropout: float
    cluster: Cluster


class Contestant:
    """A model and engine that trains one way."""

    def __init__(self, way: str, setup: Setup, length: int, num_steps: int) -> None:
        layers, hidden, heads, vocab_size, tokens = _PRESETS[setup.preset]
        rows, cluster = tokens // length, setup.cluster
        on_cuda = cluster.device.type == "cuda"
        recipe = Recipe(
            run_dir="",
            corpus="",
            model=ModelSection(
                num_layers=layers,
                hidden_size=hidden,
                num_heads=heads,
                intermediate_size=4 * hidden,
                dropout=setup.dropout,
                attention_dropout=setup.dropout,
            ),
            guidance=GuidanceSection(heads=_HEADS[setup.preset], **_GUIDANCE.get(way, {})),
            train=TrainSection(
                num_steps=num_steps,
                global_batch_size=rows,
                micro_batch_size=rows,
                deepspeed="zero1",
                precision="bf16" if on_cuda else "fp32",
            ),
        )
        vocabulary = Vocabulary(
            size=vocab_size, pad_id=1, cls_id=0, sep_id=2, mask_id=4, special_ids=(0, 1, 2, 3, 4)
        )
        allocation = allocate(head_table(recipe.guidance.heads, None, layers))
        guide = AttentionGuide(allocation)
        schedule = build_guidance_schedule(recipe, allocation, length)
        formation = Formation(schedule, recipe.guidance.formed_mass)
        model = build_model(recipe.model, vocabulary, length, 0)
        loss = make_guidance_loss(allocation, recipe.guidance.normalization)
        guidance = RunGuidance(model, guide, schedule, loss, formation)
        install_taps(model, [[tap] for tap in guide.taps])
        self.way, self.cluster = way, cluster
        self.pretraining = PretrainingModule(MaskedLanguageModeling(model), [guidance])
        module: nn.Module = self.pretraining
        if way == "published":
            module = PublishedGuidance(self.pretraining, _HEADS[setup.preset])
        template, _ = read_template(recipe.train.deepspeed)
        self.engine = start_engine(module, recipe, resolve(recipe, template, 1))  # type: ignore[arg-type]
        self.engine.train()
        self.batch = random_batch(rows, length, vocab_size, torch.device("cpu"))
        self.steps = 0

    def step(self) -> float:
        """Take one step; returns its seconds."""
        synchronize(self.engine.device)
        started = time.perf_counter()
        self.engine.backward(self._published_total() if self.way == "published" else self._total())
        self.engine.step()
        synchronize(self.engine.device)
        self.steps += 1
        return time.perf_counter() - started

    def _total(self) -> torch.Tensor:
        batch = replace(self.batch, columns=dict(self.batch.columns), counts=dict(self.batch.counts))
        self.pretraining.prepare(batch, self.steps)
        scored = self.engine(batch.to(self.engine.device), self.steps, batch.counts)
        for regularizer in self.pretraining.regularizers:
            regularizer.after_step(self.steps, self.cluster)
        return total_loss(scored, batch.counts)

    def _published_total(self) -> torch.Tensor:
        loss, guidance = self.engine(self.batch.to(self.engine.device))
        return loss / self.batch.counts["predicted"] + 100.0 * guidance


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_memory_mib(way: str, setup: Setup, length: int) -> float:
    """Peak memory of three steps, in this process, which must have done nothing before."""
    on_cuda = setup.cluster.device.type == "cuda"
    contestant = Contestant(way, setup, length, 1000)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        contestant.step()
    if on_cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_peak_bytes() / 2**20


def measure_memory(setup: Setup, length: int) -> dict[str, float | None]:
    """Peak memory of each way, each in a fresh process; None where it did not fit."""
    # A process group of its own, not this process's.
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    peaks: dict[str, float | None] = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.guidance", "--memory-of", way]
        command += ["--preset", setup.preset, "--dropout", str(setup.dropout), "--lengths", str(length)]
        finished = subprocess.run(command, env=environment, check=False, stdout=subprocess.PIPE, text=True)
        peaks[way] = float(finished.stdout.splitlines()[-1]) if finished.returncode == 0 else None
    return peaks


def measure_time(setup: Setup, length: int, rounds: int) -> dict[str, list[float]]:
    """Step seconds of each way, taken in turn after two warm-up steps; none for a way that does not fit."""
    contestants = {way: Contestant(way, setup, length, 1000) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in tqdm(range(rounds + 2), desc=f"length {length}", disable=not sys.stderr.isatty()):
        for way, contestant in list(contestants.items()):
            try:
                seconds[way].append(contestant.step())
            except torch.OutOfMemoryError:
                del contestants[way]
                seconds[way] = []
        if turn == 1:
            seconds = {way: [] for way in WAYS}
    return seconds


def measure_whole_run(setup: Setup, num_steps: int) -> float:
    """Seconds of a whole short run with the default schedule over those without guidance."""
    runs = {way: Contestant(way, setup, _REFERENCE_LENGTH, num_steps + 2) for way in ("none", "default")}
    for contestant in runs.values():
        contestant.step(), contestant.step()
        contestant.steps = 0  # a warmed-up run begins
    totals = dict.fromkeys(runs, 0.0)
    for _ in range(num_steps):
        for way, contestant in runs.items():
            totals[way] += contestant.step()
    return totals["default"] / totals["none"]


def measure_terms_alone(setup: Setup, length: int, rounds: int) -> float:
    """Seconds of one layer's loss, forward and backward, over those of the dense formula under autograd."""
    _, hidden, num_heads, _, tokens = _PRESETS[setup.preset]
    heads, rows, device = _HEADS[setup.preset], tokens // length, setup.cluster.device
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    shape = (rows, sum(heads.values()), length, hidden // num_heads)
    query, key = (torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
    documents = Documents.one_per_row(torch.full((rows,), length), length)
    patterns = [parse_pattern(name) for name in heads]
    targets = make_targets(patterns, torch.zeros(rows, length).long(), documents, as_published=True).to(
        device
    )
    pattern_of_head = [place for place, count in enumerate(heads.values()) for _ in range(count)]
    scaling = shape[-1] ** -0.5

    def ours() -> torch.Tensor:
        errors, _ = row_terms(query, key, scaling, None, targets, pattern_of_head, LossForm())
        return errors.mean()

    def dense() -> torch.Tensor:
        return published_loss((query @ key.transpose(-1, -2) * scaling).float().softmax(-1), heads)

    return _time_of(ours, rounds, device) / _time_of(dense, rounds, device)


def _time_of(loss: Callable[[], torch.Tensor], rounds: int, device: torch.device) -> float:
    seconds = []
    for _ in range(rounds + 2):
        synchronize(device)
        started = time.perf_counter()
        loss().backward()
        synchronize(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def compare(setup: Setup, length: int, rounds: int) -> dict[str, Any]:
    """One length: prints a table, returns the ratios against no guidance."""
    seconds = measure_time(setup, length, rounds)
    memory = measure_memory(setup, length)
    alone = measure_terms_alone(setup, length, rounds)
    print(f"\nlength {length}\n{'way':<12}{'step ms':>10}{'ratio':>8}{'peak MiB':>11}{'ratio':>8}")
    result: dict[str, Any] = {"terms_alone_over_dense": round(alone, 3)}
    for way in WAYS:
        peak, base = memory[way], memory["none"]
        if not seconds[way] or peak is None or base is None:
            print(f"{way:<12}  out of memory")
            result[way] = None
            continue
        ratio = statistics.median(mine / none for mine, none in zip(seconds[way], seconds["none"]))
        milliseconds = 1000 * statistics.median(seconds[way])
        print(f"{way:<12}{milliseconds:>10.1f}{ratio:>8.3f}{peak:>11.0f}{peak / base:>8.3f}")
        result[way] = {
            "step_ms": round(milliseconds, 2),
            "step_ratio": round(ratio, 3),
            "peak_mib": round(peak, 1),
            "memory_ratio": round(peak / base, 3),
        }
    print(f"one layer's terms alone take {alone:.2f} of the dense formula's time")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    parser.add_argument("--preset", choices=_PRESETS, help="default: small on CPU, base on CUDA")
    parser.add_argument(
        "--dropout",
        type=float,
        default=0.1,
        help="of the model (default 0.1; on CPU 0 lets attention be fused)",
    )
    parser.add_argument("--lengths", default="128,512,2048", help="tokens per row; 512 must be among them")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each way (default 7)")
    parser.add_argument("--run-steps", type=int, default=40, help="steps of the whole run (default 40)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    cluster = Cluster.from_environment()
    if arguments.device not in (None, cluster.device.type):
        parser.error("--device cuda: no CUDA device was found")
    cluster.start()
    preset = arguments.preset or ("base" if cluster.device.type == "cuda" else "small")
    setup = Setup(preset, arguments.dropout, cluster)
    lengths = [int(length) for length in arguments.lengths.split(",")]
    if arguments.memory_of:
        print(peak_memory_mib(arguments.memory_of, setup, lengths[0]))
        return 0
    if _REFERENCE_LENGTH not in lengths:
        parser.error(f"--lengths {arguments.lengths}: {_REFERENCE_LENGTH} must be among them")
    by_length = {length: compare(setup, length, arguments.rounds) for length in lengths}
    whole = measure_whole_run(setup, arguments.run_steps)
    print(f"\nwhole run with the default schedule, length {_REFERENCE_LENGTH}: {whole:.3f} of no guidance")
    reference = by_length[_REFERENCE_LENGTH]
    result = {
        "benchmark": "guidance",
        "device": torch.cuda.get_device_name() if cluster.device.type == "cuda" else "cpu",
        "preset": preset,
        "dropout": arguments.dropout,
        "length": _REFERENCE_LENGTH,
        "step_ratio_sampled": reference["sampled"]["step_ratio"],
        "memory_ratio_sampled": reference["sampled"]["memory_ratio"],
        "step_ratio_all_layers": reference["all"]["step_ratio"],
        "memory_ratio_all_layers": reference["all"]["memory_ratio"],
        "step_ratio_dense": reference["published"] and reference["published"]["step_ratio"],
        "whole_run_ratio": round(whole, 3),
        "by_length": by_length,
        "machine": describe_machine(),
    }
    tell(result, arguments.out)
    cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
