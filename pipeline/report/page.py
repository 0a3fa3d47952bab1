"""The `report` command: RUN/report/report.html and its figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
import yaml

from data_prep.files import write_atomically
from pipeline.data.batches import rows_evaluated
from pipeline.encoder.attention import why_not_tapped
from pipeline.errors import CheckpointError
from pipeline.evaluation.baseline import held_out_baseline
from pipeline.report import figures
from pipeline.report.attention_maps import attend_to_sentence
from pipeline.report.metric_figures import draw_metrics
from pipeline.runs.run_dir import read_json_lines
from pipeline.weights import TrainedRun, load_trained_run


def write_report(path: str, corpora: Sequence[str] = ()) -> Path:
    """Draw the figures of a run and the page that shows them; returns the page.

    `corpora` is where the user says that the run's corpora are.
    """
    trained = load_trained_run(path, torch.device("cpu"), corpora=corpora)
    lines = read_json_lines(trained.run.metrics_file)
    train = [line for line in lines if line["kind"] == "train"]
    valid = [line for line in lines if line["kind"] == "valid"]
    if not train or not valid:
        raise CheckpointError(
            f"{trained.run.metrics_file} has no training or no held-out lines yet; train further"
        )
    directory = trained.run.report
    directory.mkdir(exist_ok=True)
    page = directory / "report.html"
    write_atomically(page, _render(trained, train, valid, _draw_all(trained, train, valid, directory)))
    print(f"wrote {page}")
    return page


def _draw_all(
    trained: TrainedRun, train: figures.Lines, valid: figures.Lines, directory: Path
) -> list[dict[str, str]]:
    """Draw every figure that this run has something for; returns file names and captions."""
    allocation = trained.allocation
    names = allocation.names
    baseline = held_out_baseline(trained.recipe, trained.corpus, trained.recipe.evaluation.max_rows)
    drawn = []

    def caption(name: str, text: str) -> Path:
        drawn.append({"file": name, "caption": text})
        return directory / name

    loss, *others = [metric for metric in trained.objective.metrics if metric.name in valid[-1]]
    text = "Loss" + (", and what knowing only token frequencies gives." if "loss" in baseline else ".")
    draw_metrics(caption("loss.png", text), [loss], train, valid, baseline)
    if others:
        draw_metrics(caption("metrics.png", "The objective's other metrics."), others, train, valid, baseline)
    if names:
        text = "Held-out attention mass on target, by layer and step."
        figures.draw_guidance_mass(caption("guidance_mass.png", text), valid, names, len(allocation.layers))
    if any(line.get("guidance_weight") for line in train):
        text = "Guidance error while training; a gap where no layer was guided."
        figures.draw_guidance_error(caption("guidance_error.png", text), train, names)
    if why_not_tapped(trained.module.model) is None:
        sentence = attend_to_sentence(trained)
        shown = " in this held-out text: " + " ".join(sentence.tokens)
        if names:
            text = "How guided heads form: attention (rows look at columns)" + shown
            figures.draw_forming(caption("forming.png", text), sentence, allocation)
        text = "Attention now" + shown
        figures.draw_attention_maps(caption("attention_maps.png", text), sentence, allocation)
    figures.draw_rates(caption("rates.png", "Learning rate and guidance weight."), train)
    text = "Throughput over all processes, and what the time of a step goes into."
    figures.draw_throughput(caption("throughput.png", text), train)
    return drawn


def _render(
    trained: TrainedRun, train: figures.Lines, valid: figures.Lines, drawn: list[dict[str, str]]
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    last: dict[str, Any] = {**train[-1], **{f"held_out_{key}": value for key, value in valid[-1].items()}}
    summary = {
        "step": f"{trained.step} of {trained.recipe.train.num_steps}",
        "held-out loss": _number(last["held_out_loss"]),
        **{
            f"held-out {metric.name.replace('_', ' ')}": _number(last[f"held_out_{metric.name}"])
            for metric in trained.objective.metrics[1:]
            if f"held_out_{metric.name}" in last
        },
        "held-out rows used": _rows_used(trained),
        "tokens trained": f"{last['tokens']:,}",
        f"passes over {_trained_corpus(trained, last)}": f"{last['epoch']:.2f}",
        "tokens per second": f"{last['tokens_per_second']:,.0f}",
        **_efficiency(last),
    }
    return environment.get_template("report.html.j2").render(
        run=str(trained.run.path),
        summary=summary,
        figures=drawn,
        events=trained.run.read_events(),
        recipe=yaml.safe_dump(trained.run.read_recipe().model_dump(), sort_keys=False),
    )


def _trained_corpus(trained: TrainedRun, last: dict[str, Any]) -> str:
    """What the last line's epochs are of."""
    recipe = trained.recipe
    return recipe.phases[last["phase"]].corpus if recipe.curriculum else "the corpus"


def _efficiency(last: dict[str, Any]) -> dict[str, str]:
    """What the last training line says of it; lines of older runs do not."""
    told = {}
    if "model_flops_per_second" in last:
        told["model TFLOP/s"] = f"{last['model_flops_per_second'] / 1e12:,.3f}"
        told["peak memory of a process"] = f"{last['peak_memory_bytes'] / 2**30:.2f} GiB"
    if last.get("mfu") is not None:
        told["model FLOPs utilization"] = f"{100 * last['mfu']:.1f} %"
    return told


def _rows_used(trained: TrainedRun) -> str:
    total = sum(shard.rows for shard in trained.corpus.manifest.shards_of("valid"))
    return f"{rows_evaluated(total, trained.recipe.evaluation.max_rows):,} of {total:,}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4f}"
