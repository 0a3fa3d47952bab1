"""What a pull that is too strong does to training, and by which way.

    python -m benchmarks.pull CORPUS [--steps 400] [--variants default,strong,...] [--out DIR]

Trains the demo's encoder as benchmarks.onset does (plain PyTorch, one process, one seed) with the default
weight, 16 times as much, and 16 times as much with one suspected harm taken away: objective and guidance
clipped apart, nothing clipped, no guidance gradient on the embeddings. Every 25 steps it looks at

    share        of the squared gradient norm that is guidance's, before clipping
    left         what clipping leaves of the gradient
    positions    share of position embeddings in the variance of token and position embeddings together
    mass         attention on target, mean of the patterns
    loss         held-out, nats per predicted token

Prints a table and, as its last line, one JSON object; with --out also a figure.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.onset import (
    EVERY_STEPS,
    Gradients,
    Study,
    Variant,
    held_out,
    norm_of,
    read_arguments,
    share_left,
)
from benchmarks.output import tell
from pipeline.errors import UserError
from pipeline.guidance.guide import GuidanceTerms
from pipeline.guidance.schedule import GuidedStep
from pipeline.runs.run_dir import describe_machine

_STRONG = 16.0


@dataclass(frozen=True, kw_only=True)
class PullVariant(Variant):
    """Also: whether guidance may move the embeddings."""

    moves_embeddings: bool = True


_DEFAULT = {"guidance.error": "cross_entropy", "guidance.weight": 0.1}


def _strong(about: str, **changes: Any) -> PullVariant:
    return PullVariant(about=about, settings=_DEFAULT, factor=_STRONG, **changes)


VARIANTS = {
    "unguided": PullVariant(about="no guidance", settings={"guidance.weight": 0.0}),
    "default": PullVariant(about="default weight", settings=_DEFAULT),
    "strong": _strong("16 times the weight"),
    "apart": _strong("16 times, both gradients clipped apart", clip="separate"),
    "unclipped": _strong("16 times, nothing clipped", clip="none"),
    "embeddings": _strong(
        "16 times, clipped apart, not on the embeddings", clip="separate", moves_embeddings=False
    ),
}


class PullStudy(Study):
    """A variant's model and training, with a look at its gradients."""

    variant: PullVariant

    def look(self, step: int) -> dict[str, float]:
        """The gradients of a step that is about to be taken, apart; see the module."""
        batch, targets = self.batch_of(step)
        guided = self.guided_step(step)
        objective, terms = self.score(batch, guided, targets)
        own = self.gradient(objective, keep_graph=True)
        pull = self.guidance_gradient(guided, terms, targets.count_valid())
        both = own if pull is None else [a + b for a, b in zip(own, pull)]
        squares = [0.0 if gradients is None else norm_of(gradients) ** 2 for gradients in (own, pull)]
        return {
            "share": squares[1] / sum(squares),
            "left": {"joint": share_left(both), "separate": share_left(own), "none": 1.0}[self.variant.clip],
            "positions": self._share_of_positions(
                batch.input_ids.scatter(1, batch.columns["positions"], batch.columns["replacements"])
            ),
        }

    def guidance_gradient(
        self, guided: GuidedStep, terms: GuidanceTerms, valid: torch.Tensor
    ) -> Gradients | None:
        """With nothing on the embeddings, if the variant says so."""
        gradients = super().guidance_gradient(guided, terms, valid)
        if gradients is None or self.variant.moves_embeddings:
            return gradients
        return [
            torch.zeros_like(gradient) if ".embeddings." in name else gradient
            for gradient, name in zip(gradients, self.names)
        ]

    @torch.no_grad()
    def _share_of_positions(self, input_ids: torch.Tensor) -> float:
        """Over the tokens of a batch: variance of position embeddings, beside that of token embeddings."""
        weights = {name.rpartition(".embeddings.")[2]: p for name, p in self.module.named_parameters()}
        tokens = weights["word_embeddings.weight"][input_ids].flatten(0, -2)
        positions = weights["position_embeddings.weight"][-input_ids.shape[-1] :]
        of_tokens, of_positions = (
            float((vectors - vectors.mean(0)).square().sum(1).mean()) for vectors in (tokens, positions)
        )
        return of_positions / (of_positions + of_tokens)


def run_variant(name: str, corpus_dir: str, num_steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train a variant and say what was seen."""
    study = PullStudy(VARIANTS[name], corpus_dir, overrides)
    study.module.train()
    looks = []
    for step in tqdm(range(num_steps), desc=name, unit="step", disable=not sys.stderr.isatty()):
        study.train_step(step)
        if (step + 1) % EVERY_STEPS == 0:
            loss, mass = held_out(study)
            flat = [m for by_layer in mass.values() for m in by_layer if m is not None]
            looks.append(
                {"step": step + 1, **study.look(step + 1), "mass": float(np.mean(flat)), "loss": loss}
            )
    return {"about": VARIANTS[name].about, "looks": looks}


def draw(results: dict[str, Any], path: Path) -> None:
    """Each thing looked at over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.6), constrained_layout=True)
    panels = {
        "share": "guidance in the gradient",
        "positions": "positions in the embeddings",
        "mass": "attention on target",
        "loss": "held-out loss (nats)",
    }
    for axes, (key, label) in zip(figure.subplots(1, len(panels)), panels.items()):
        for name, result in results.items():
            steps = [look["step"] for look in result["looks"]]
            axes.plot(steps, [look[key] for look in result["looks"]], label=name)
        axes.set(xlabel="step", ylabel=label)
    figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)


def print_table(results: dict[str, Any]) -> None:
    """The look a quarter into the run, and the last loss."""
    print("| variant | share | left | positions | mass | last loss |\n|---|---|---|---|---|---|")
    for result in results.values():
        looks = result["looks"]
        early, last = looks[(len(looks) - 1) // 4], looks[-1]["loss"]
        figures = [f"{early[key]:.2f}" for key in ("share", "left", "positions", "mass")]
        print(f"| {' | '.join([result['about'], *figures, f'{last:.2f}'])} |")


def main() -> int:
    arguments, names = read_arguments(__doc__, VARIANTS, "pull.json and pull.png")
    try:
        results = {
            name: run_variant(name, arguments.corpus, arguments.steps, arguments.overrides) for name in names
        }
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print_table(results)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        draw(results, arguments.out / "pull.png")
    document = {
        "benchmark": "pull",
        "device": "cpu",
        "steps": arguments.steps,
        "set": arguments.overrides,
        "variants": results,
        "machine": describe_machine(),
    }
    tell(document, None if arguments.out is None else arguments.out / "pull.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
