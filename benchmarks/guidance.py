"""What guidance costs: step time and memory without it, with ours, and the published way.

    python -m benchmarks.guidance [--device cpu|cuda] [--lengths 128,512] [--rounds 5]

One model and one DeepSpeed engine per way, the same rows, steps taken in turn so that a change in the
machine's speed meets all of them. Memory is the peak over a step: of the CUDA allocator, or of the
process's resident set on CPU, where each way is measured in a process of its own.

    none       no guidance
    sampled    ours, 2 of the layers per step (what most of a run costs)
    all        ours, all layers (while the patterns form)
    published  attention maps of every layer kept (eager attention), dense n x n targets, mean square error
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipeline.config.deepspeed_json import read_template, resolve
from pipeline.config.schema import ModelSection, ObjectiveSection, Recipe, TrainSection
from pipeline.data.batches import MicroBatch
from pipeline.data.corpus import Vocabulary
from pipeline.distributed import LAUNCHER_VARIABLES, Cluster
from pipeline.engine import PretrainingModule, forward, start_engine
from pipeline.guidance.guide import AttentionGuide
from pipeline.guidance.patterns import assign_heads
from pipeline.guidance.schedule import scaled_weight
from pipeline.model import build_model

WAYS = ("none", "sampled", "all", "published")
_HEADS = {"next": 1, "previous": 1, "first": 2}
_LAYERS_PER_STEP = 2
_PRESETS = {  # layers, hidden size, heads, vocabulary, tokens per step
    "small": (8, 256, 8, 8192, 2048),
    "base": (12, 768, 12, 50368, 65536),
}


class PublishedGuidance(nn.Module):
    """The loss as published: every map kept, targets as dense matrices, summed over layers and patterns."""

    def __init__(self, module: PretrainingModule) -> None:
        super().__init__()
        self.objective = module.objective
        self.objective.model.set_attn_implementation("eager")

    def forward(self, batch: MicroBatch, layers: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        model, length = self.objective.model, batch.input_ids.shape[1]
        outputs = model.base_model(batch.input_ids, output_attentions=True)
        index = batch.positions[..., None].expand(-1, -1, outputs.last_hidden_state.shape[-1])
        logits = model.lm_head(outputs.last_hidden_state.gather(1, index)).float()
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), reduction="sum")
        guidance = torch.zeros((), device=loss.device)
        for maps in outputs.attentions:
            for group in assign_heads(_HEADS):
                target = torch.zeros(1, 1, length, length)
                group.pattern.subtract(target, 0)
                target = (-target).repeat(len(maps), group.end_head - group.first_head, 1, 1).to(maps)
                guidance = guidance + (maps[:, group.first_head : group.end_head] - target).square().mean()
        return loss, guidance


def random_batch(rows: int, length: int, vocab_size: int, device: torch.device) -> MicroBatch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, vocab_size, (rows, length), generator=generator)
    positions = torch.rand(rows, length, generator=generator).argsort(1)[:, : round(0.15 * length)]
    return MicroBatch(
        input_ids=ids.scatter(1, positions, 4),
        lengths=torch.full((rows,), length),
        positions=positions,
        labels=ids.gather(1, positions),
        full=True,
    ).to(device)


class Contestant:
    """A model and engine that trains one way."""

    def __init__(self, way: str, preset: str, length: int, cluster: Cluster) -> None:
        layers, hidden, heads, vocab_size, tokens = _PRESETS[preset]
        rows = tokens // length
        on_cuda = cluster.device.type == "cuda"
        section = ModelSection(
            num_layers=layers, hidden_size=hidden, num_heads=heads, intermediate_size=4 * hidden
        )
        train = TrainSection(
            global_batch_size=rows,
            micro_batch_size=rows,
            deepspeed="zero0",
            precision="bf16" if on_cuda else "fp32",
        )
        recipe = Recipe(run_dir="", corpus="", model=section, train=train, objective=ObjectiveSection())
        vocabulary = Vocabulary(
            size=vocab_size, pad_id=1, cls_id=0, sep_id=2, mask_id=4, special_ids=(0, 1, 2, 3, 4)
        )
        self.way, self.num_layers = way, layers
        self.guide = AttentionGuide(assign_heads(_HEADS), cluster.device)
        module: nn.Module = PretrainingModule(build_model(section, vocabulary, length, 0), "mlm", self.guide)
        if way == "published":
            module = PublishedGuidance(module)  # type: ignore[arg-type]
        template, _ = read_template("zero0")
        self.engine = start_engine(module, recipe, resolve(recipe, template, 1, on_cuda))  # type: ignore[arg-type]
        self.batch = random_batch(rows, length, vocab_size, cluster.device)
        self.weight = scaled_weight(7.0, length)
        self.steps = 0

    def step(self) -> float:
        """Take one step; returns its seconds."""
        self._synchronize()
        started = time.perf_counter()
        predicted = self.batch.labels.numel()
        if self.way == "published":
            loss, guidance = self.engine(self.batch, ())
            total = loss / predicted + 100.0 * guidance
        else:
            loss, _, errors, _ = forward(self.engine, self.batch, self._layers())
            total = loss / predicted
            if len(errors):
                valid = self.guide.count_valid(self.batch.lengths).float().to(errors)
                total = total + self.weight * (errors / valid).mean()
        self.engine.backward(total)
        self.engine.step()
        self._synchronize()
        self.steps += 1
        return time.perf_counter() - started

    def _layers(self) -> tuple[int, ...]:
        if self.way == "none":
            return ()
        if self.way == "all":
            return tuple(range(self.num_layers))
        return tuple(sorted((self.steps + i * 3) % self.num_layers for i in range(_LAYERS_PER_STEP)))

    def _synchronize(self) -> None:
        if self.engine.device.type == "cuda":
            torch.cuda.synchronize()


def peak_memory_mib(way: str, preset: str, length: int, cluster: Cluster) -> float:
    """Peak memory of three steps, in this process, which must have done nothing before."""
    on_cuda = cluster.device.type == "cuda"
    contestant = Contestant(way, preset, length, cluster)
    if on_cuda:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        contestant.step()
    if on_cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resident_peak_mib()


def resident_peak_mib() -> float:
    """High-water mark of this program's resident set (getrusage's would begin at the parent's)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def measure_memory(preset: str, length: int) -> dict[str, float]:
    """Peak memory of each way, each in a fresh process."""
    # A process group of its own, not this process's.
    environment = {key: value for key, value in os.environ.items() if key not in LAUNCHER_VARIABLES}
    peaks = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.guidance", "--preset", preset]
        command += ["--lengths", str(length), "--memory-of", way]
        finished = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        peaks[way] = float(finished.stdout.splitlines()[-1])
    return peaks


def measure_time(preset: str, length: int, rounds: int, cluster: Cluster) -> dict[str, list[float]]:
    """Step seconds of each way, taken in turn after two warm-up steps."""
    contestants = {way: Contestant(way, preset, length, cluster) for way in WAYS}
    for contestant in contestants.values():
        contestant.step(), contestant.step()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, contestant in contestants.items():
            seconds[way].append(contestant.step())
    return seconds


def compare(preset: str, length: int, rounds: int, cluster: Cluster) -> dict[str, Any]:
    """One length: prints a table, returns the ratios against no guidance."""
    seconds = measure_time(preset, length, rounds, cluster)
    memory = measure_memory(preset, length)
    print(f"\nlength {length}\n{'way':<12}{'step ms':>10}{'ratio':>8}{'peak MiB':>11}{'ratio':>8}")
    ratios: dict[str, Any] = {}
    for way in WAYS:
        pairs = [mine / base for mine, base in zip(seconds[way], seconds["none"])]
        step_ratio, memory_ratio = statistics.median(pairs), memory[way] / memory["none"]
        milliseconds = 1000 * statistics.median(seconds[way])
        print(f"{way:<12}{milliseconds:>10.1f}{step_ratio:>8.3f}{memory[way]:>11.0f}{memory_ratio:>8.3f}")
        ratios[way] = {"step_ratio": round(step_ratio, 3), "memory_ratio": round(memory_ratio, 3)}
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=_PRESETS, help="default: small on CPU, base on CUDA")
    parser.add_argument("--lengths", default="128,512")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory-of", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    cluster = Cluster.from_environment()
    cluster.start()
    preset = arguments.preset or ("base" if cluster.device.type == "cuda" else "small")
    lengths = [int(length) for length in arguments.lengths.split(",")]
    if arguments.memory_of:
        print(peak_memory_mib(arguments.memory_of, preset, lengths[0], cluster))
        return 0
    by_length = {str(length): compare(preset, length, arguments.rounds, cluster) for length in lengths}
    last = by_length[str(lengths[-1])]
    result = {
        "benchmark": "guidance",
        "device": torch.cuda.get_device_name() if cluster.device.type == "cuda" else "cpu",
        "preset": preset,
        "length": lengths[-1],
        "step_ratio_sampled": last["sampled"]["step_ratio"],
        "memory_ratio_sampled": last["sampled"]["memory_ratio"],
        "step_ratio_all_layers": last["all"]["step_ratio"],
        "step_ratio_dense": last["published"]["step_ratio"],
        "by_length": by_length,
        "versions": {"torch": torch.__version__},
    }
    print(json.dumps(result))
    cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
