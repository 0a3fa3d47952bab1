"""Why sampling layers from the start delays the patterns, and which estimators do not.

    python -m benchmarks.onset CORPUS [--steps 400] [--variants dense,sampled,...] [--out DIR]

Trains the demo's encoder on a prepared corpus once per variant, on the same rows, masks and initialization,
with squared errors as published, and reports when the patterns formed (nine in ten patterns of layers with
half of their attention on target), the loss on held-out rows at the end, and how the gradient looked in the
first hundred steps: its norm before clipping, the share of it that clipping left, and the noise of the
guidance gradient, |g - dense| / |dense|, on the position embeddings (which all layers share) and on the query
and key matrices.

The loop is plain PyTorch (AdamW, one process), so that gradients of objective and guidance can be had
apart. Prints a table and, as its last line, one JSON object; with --out also a figure.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pipeline.build import Corpus, build_pretraining_module
from pipeline.config.load import find_recipe, parse_recipe, raise_problems, read_settings
from pipeline.data.batches import Batch
from pipeline.data.order import rows_of_step
from pipeline.engine import PretrainingModule, parameter_groups
from pipeline.errors import UserError
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.guidance.formation import have_formed
from pipeline.guidance.guide import GuidanceTerms
from pipeline.guidance.run import RunGuidance
from pipeline.guidance.schedule import GuidedStep
from pipeline.guidance.targets import Targets
from pipeline.objectives import load_objective
from pipeline.processes.cluster import Cluster
from pipeline.runs.run_dir import describe_machine
from pipeline.training.learning_rate import learning_rate_at

Gradients = list[torch.Tensor]
_CLIP = 1.0
EVERY_STEPS = 25  # between evaluations
_HELD_OUT_TOKENS = 16_384
_ALONE = Cluster(0, 0, 1, torch.device("cpu"))
_NOISE_STEPS = range(20, 101, 20)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the guidance gradient is estimated.

    Attributes:
        about: for the table.
        settings: recipe settings beside the demo's.
        sticky: the drawn layers stay for so many steps.
        factor: on the guidance weight.
        faster: factor on the learning rate of position embeddings, queries and keys.
        clip: "joint" clips the sum of both gradients, "separate" each, "none" neither.
        control_variate: last seen gradients of the layers stand in for those not looked at (SAGA).
    """

    about: str
    settings: dict[str, Any] = field(default_factory=dict)
    sticky: int = 1
    factor: float = 1.0
    faster: float = 1.0
    clip: str = "joint"
    control_variate: bool = False


_SQUARED = ("guidance.error=squared", "guidance.weight=7.0")  # as published
_SAMPLED: dict[str, Any] = {"guidance.dense": 0, "guidance.layers_per_step": 2}
VARIANTS = {
    "unguided": Variant(about="no guidance", settings={"guidance.weight": 0.0}),
    "dense": Variant(about="all layers, all rows", settings={"guidance.layers_per_step": None}),
    "default": Variant(about="all layers until formed, then 2 of 6"),
    "sampled": Variant(about="2 of 6 layers per step from the start", settings=_SAMPLED),
    "one": Variant(about="1 of 6 layers", settings={**_SAMPLED, "guidance.layers_per_step": 1}),
    "four": Variant(about="4 of 6 layers", settings={**_SAMPLED, "guidance.layers_per_step": 4}),
    "faster": Variant(
        about="2 of 6, learning rate of positions, queries and keys x sqrt(3)",
        settings=_SAMPLED,
        faster=math.sqrt(3.0),
    ),
    "unscaled": Variant(about="the same, not rescaled to be unbiased", settings=_SAMPLED, factor=2 / 6),
    "stronger": Variant(about="sampled, weight x 3", settings=_SAMPLED, factor=3.0),
    "sticky": Variant(about="sampled, drawn anew every 25 steps", settings=_SAMPLED, sticky=25),
    "unclipped": Variant(about="sampled, no clipping", settings=_SAMPLED, clip="none"),
    "separate": Variant(about="sampled, both gradients clipped apart", settings=_SAMPLED, clip="separate"),
    "control": Variant(about="sampled, control variate", settings=_SAMPLED, control_variate=True),
    "rows": Variant(
        about="all layers, 1 of 8 rows",
        settings={"guidance.dense": 0, "guidance.layers_per_step": None, "guidance.row_stride": 8},
    ),
}


class Study:
    """One variant's model and training."""

    def __init__(self, variant: Variant, corpus_dir: str, overrides: Sequence[str]) -> None:
        settings = read_settings(find_recipe("demo"), [f"corpus={corpus_dir}", *_SQUARED, *overrides])
        for key, value in variant.settings.items():
            section, name = key.split(".")
            settings[section] = {**settings[section], name: value}
        recipe, problems = parse_recipe(settings)
        raise_problems("demo", problems)
        assert recipe is not None  # parse_recipe returns None only with problems
        self.variant, self.recipe = variant, recipe
        corpus = Corpus.open(recipe.corpus)
        self.module: PretrainingModule = build_pretraining_module(recipe, corpus)
        (guidance,) = self.module.regularizers
        assert isinstance(guidance, RunGuidance)
        self.guidance = guidance
        self.batcher, self.valid = corpus.batcher(recipe, "train"), corpus.batcher(recipe, "valid")
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self.names = [n for n, p in self.module.named_parameters() if p.requires_grad]
        groups = self._parameter_groups()
        betas = (recipe.optimizer.betas[0], recipe.optimizer.betas[1])
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=recipe.optimizer.eps)
        self.seen: dict[int, Gradients] = {}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """As in a run, with those of `faster` apart."""
        fast = {
            id(parameter)
            for name, parameter in self.module.named_parameters()
            if any(chosen(name) for chosen in _PARTS.values())
        }
        groups = parameter_groups(self.module, self.recipe.optimizer.weight_decay)
        return [
            {**group, "params": [p for p in group["params"] if (id(p) in fast) == is_fast], "factor": factor}
            for group in groups
            for is_fast, factor in ((False, 1.0), (True, self.variant.faster))
        ]

    def batch_of(self, step: int) -> tuple[Batch, Targets]:
        """The rows of a step, and what their queries should look at."""
        rows, epochs = rows_of_step(
            step, self.recipe.train.global_batch_size, self.batcher.split.num_rows, self.recipe.seed
        )
        batch = self.batcher.batch(rows, epochs)
        return batch, self.guidance.guide.targets(batch.input_ids, batch.documents)

    def score(self, batch: Batch, guided: GuidedStep, targets: Targets) -> tuple[torch.Tensor, GuidanceTerms]:
        """The objective, a mean over the predicted tokens, and the terms of the layers looked at."""
        guide = self.guidance.guide
        guide.watch(guided, targets, self.module.training)
        (term,) = self.module.objective(batch, None).terms.values()
        assert term.per is not None
        return term.sum / batch.counts[term.per], guide.collect(batch.lengths.device)

    def guided_step(self, step: int) -> GuidedStep:
        """What the variant looks at."""
        drawn_at = step - step % self.variant.sticky
        return replace(self.guidance.at(drawn_at), weight=self.guidance.at(step).weight)

    def train_step(self, step: int) -> dict[str, float]:
        """One step; returns objective, gradient norm before clipping, share left by it, mean mass."""
        batch, targets = self.batch_of(step)
        guided = self.guided_step(step)
        objective, terms = self.score(batch, guided, targets)
        valid = targets.count_valid()
        guidance = None
        if self.variant.clip == "separate" or self.variant.control_variate:
            guidance = self.guidance_gradient(guided, terms, valid)
            total = objective
        else:
            total = objective + self.variant.factor * self.guidance.loss(guided, terms.errors, valid)
        gradients, norm, kept = self._clip(self.gradient(total), guidance)
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.recipe, step) * group["factor"]
        self.optimizer.step()
        if self.guidance.formation.is_due(step):
            self.guidance.formation.add(terms)
        self.guidance.after_step(step, _ALONE)
        return {"loss": objective.item(), "norm": norm, "kept": kept}

    def noise(self, step: int) -> dict[str, float]:
        """Relative distance of the step's estimated guidance gradient from the dense one, before clipping."""
        if not self.guided_step(step).layers or self.variant.control_variate:
            return {}
        batch, targets = self.batch_of(step)
        found: list[Gradients] = []
        everything = GuidedStep.looking_at(self.guidance.schedule.layers).layers
        estimated = self.guided_step(step)
        for guided in (estimated, replace(estimated, layers=everything, row_stride=1)):
            _, terms = self.score(batch, guided, targets)
            found.append(self.gradient(self.guidance.loss(guided, terms.errors, targets.count_valid())))
        return {
            part: _distance([g for g, n in zip(found[0], self.names) if chosen(n)],
                            [g for g, n in zip(found[1], self.names) if chosen(n)])
            for part, chosen in _PARTS.items()
        }  # fmt: skip

    def guidance_gradient(
        self, guided: GuidedStep, terms: GuidanceTerms, valid: torch.Tensor
    ) -> Gradients | None:
        if not guided.layers:
            return None
        if not self.variant.control_variate:
            return self.gradient(
                self.variant.factor * self.guidance.loss(guided, terms.errors, valid), keep_graph=True
            )
        estimate = [torch.zeros_like(p) for p in self.parameters]
        for remembered in self.seen.values():
            _add(estimate, remembered, 1.0)
        for place, layer in enumerate(guided.layers):
            alone = replace(guided, layers=(replace(layer, probability=1.0),))
            total = self.guidance.loss(alone, terms.errors[place : place + 1], valid)
            now = self.gradient(total, keep_graph=True)
            _add(estimate, now, 1.0 / layer.probability)
            if layer.layer in self.seen:
                _add(estimate, self.seen[layer.layer], -1.0 / layer.probability)
            self.seen[layer.layer] = now
        return estimate

    def gradient(self, loss: torch.Tensor, keep_graph: bool = False) -> Gradients:
        found = torch.autograd.grad(loss, self.parameters, retain_graph=keep_graph, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters)]

    def _clip(self, own: Gradients, guidance: Gradients | None) -> tuple[Gradients, float, float]:
        """The gradient to apply, the norm before clipping and the share of it that was left."""
        if guidance is not None and self.variant.clip == "separate":
            own, guidance = _scaled(own, share_left(own)), _scaled(guidance, share_left(guidance))
        both = own if guidance is None else [a + b for a, b in zip(own, guidance)]
        norm = norm_of(both)
        left = share_left(both) if self.variant.clip == "joint" else 1.0
        return _scaled(both, left), norm, left


_PARTS: dict[str, Callable[[str], bool]] = {
    "positions": lambda name: "position_embeddings" in name,
    "query_key": lambda name: ".query." in name or ".key." in name,
}


def _add(total: Gradients, part: Gradients, factor: float) -> None:
    for a, b in zip(total, part):
        a.add_(b, alpha=factor)


def norm_of(gradients: Gradients) -> float:
    return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))


def _distance(estimate: Gradients, exact: Gradients) -> float:
    return norm_of([a - b for a, b in zip(estimate, exact)]) / max(norm_of(exact), 1e-30)


def share_left(gradients: Gradients) -> float:
    return min(1.0, _CLIP / max(norm_of(gradients), 1e-30))


def _scaled(gradients: Gradients, factor: float) -> Gradients:
    return [g * factor for g in gradients]


def held_out(study: Study) -> tuple[float, dict[str, list[float]]]:
    """Held-out loss and mass by pattern and layer, on so many rows as make 16,384 tokens."""
    num_rows = _HELD_OUT_TOKENS // study.valid.split.sequence_length
    metrics, rows = load_objective(study.recipe.objective.kind).metrics, (num_rows, min(32, num_rows))
    line = evaluate_held_out(study.module, study.module, metrics, study.valid, rows, _ALONE)
    return line["loss"], line["guidance_mass"]


def run_variant(name: str, corpus_dir: str, num_steps: int, overrides: Sequence[str]) -> dict[str, Any]:
    """Train a variant and say what was seen."""
    study, started = Study(VARIANTS[name], corpus_dir, overrides), time.monotonic()
    lines, noise, evaluations = [], [], []
    formed: int | None = None
    study.module.train()
    for step in tqdm(range(num_steps), desc=name, unit="step", disable=not sys.stderr.isatty()):
        if step in _NOISE_STEPS:
            noise.append(study.noise(step))
        lines.append(study.train_step(step))
        if (step + 1) % EVERY_STEPS == 0:
            loss, mass = held_out(study)
            evaluations.append({"step": step + 1, "loss": round(loss, 4), "mass": _by_pattern(mass)})
            flat = torch.tensor([m for by_layer in mass.values() for m in by_layer if m is not None])
            if formed is None and have_formed(flat, 0.5):
                formed = step + 1
    early = lines[:100]
    return {
        "about": VARIANTS[name].about,
        "formed_step": formed,
        "held_out_loss": evaluations[-1]["loss"],
        "gradient_norm": round(float(np.mean([line["norm"] for line in early])), 3),
        "left_by_clipping": round(float(np.mean([line["kept"] for line in early])), 3),
        "noise": {part: round(float(np.mean([n[part] for n in noise])), 2) for part in noise[0]},
        "seconds": round(time.monotonic() - started),
        "evaluations": evaluations,
    }


def _by_pattern(mass: dict[str, list[float]]) -> dict[str, float]:
    return {name: round(float(np.mean(by_layer)), 3) for name, by_layer in mass.items()}


def draw(results: dict[str, Any], path: Path) -> None:
    """Mean mass on target and held-out loss over the steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), constrained_layout=True)
    left, right = figure.subplots(1, 2)
    for name, result in results.items():
        steps = [line["step"] for line in result["evaluations"]]
        left.plot(steps, [np.mean(list(line["mass"].values())) for line in result["evaluations"]], label=name)
        right.plot(steps, [line["loss"] for line in result["evaluations"]], label=name)
    left.set(xlabel="step", ylabel="attention on target, mean of the patterns", ylim=(0, 1))
    right.set(xlabel="step", ylabel="held-out loss (nats)")
    left.legend(frameon=False)
    figure.savefig(path, dpi=120)


def print_table(results: dict[str, Any]) -> None:
    print(f"{'variant':<11}{'formed':>7}{'loss':>7}{'norm':>7}{'left':>6}{'noise pos':>10}{'noise qk':>9}")
    for name, result in results.items():
        noise = [result["noise"].get(part, float("nan")) for part in _PARTS]
        print(
            f"{name:<11}{result['formed_step'] or '-':>7}{result['held_out_loss']:>7.2f}"
            f"{result['gradient_norm']:>7.2f}{result['left_by_clipping']:>6.2f}{noise[0]:>10.2f}"
            f"{noise[1]:>9.2f}  {result['about']}"
        )


def read_arguments(
    description: str | None, variants: Mapping[str, Variant], outputs: str
) -> tuple[argparse.Namespace, list[str]]:
    """The command line of a benchmark that trains variants, and the names of those it asks for."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", help="a directory made by 'python -m data_prep shard'")
    parser.add_argument("--steps", type=int, default=400, help="of the recipe's; default 400")
    parser.add_argument("--variants", default=",".join(variants), help="comma-separated; default: all")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help=f"write {outputs} into this directory")
    arguments = parser.parse_args()
    names = arguments.variants.split(",")
    if unknown := [name for name in names if name not in variants]:
        parser.error(f"--variants {','.join(unknown)}: unknown; the variants are {', '.join(variants)}")
    if arguments.steps < EVERY_STEPS:
        parser.error(f"--steps {arguments.steps}: nothing is looked at before step {EVERY_STEPS}")
    return arguments, names


def main() -> int:
    arguments, names = read_arguments(__doc__, VARIANTS, "onset.json and onset.png")
    results = {}
    for name in names:
        try:
            results[name] = run_variant(name, arguments.corpus, arguments.steps, arguments.overrides)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        print(json.dumps({name: {k: v for k, v in results[name].items() if k != "evaluations"}}), flush=True)
    print_table(results)
    document = {
        "benchmark": "onset",
        "device": "cpu",
        "steps": arguments.steps,
        "set": arguments.overrides,
        "formed_step": {name: result["formed_step"] for name, result in results.items()},
        "held_out_loss": {name: result["held_out_loss"] for name, result in results.items()},
        "machine": describe_machine(),
    }
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document | {"variants": results}, indent=1)
        (arguments.out / "onset.json").write_text(text + "\n", encoding="utf-8")
        draw(results, arguments.out / "onset.png")
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
