"""What `plan` says about the phases of a run: steps, rows, tokens and passes over each corpus."""

from typing import Any

from data_prep.format import Manifest
from pipeline.data.corpus import rows_in_share
from pipeline.data.phases import Phase, rows_taken


def describe_phases(
    phases: list[Phase], manifests: dict[str, Manifest], world_size: int
) -> list[dict[str, Any]]:
    """Each phase in numbers; see build.open_phases for the arguments."""
    return [_describe(phase, manifests[phase.corpus], world_size) for phase in phases]


def count_epochs(phases: list[Phase], manifests: dict[str, Manifest], train_share: float) -> dict[str, float]:
    """Passes over each corpus, or the share of it that is trained on, in the whole run."""
    num_steps = phases[-1].end_step
    return {
        corpus: rows_taken(phases, corpus, num_steps) / rows_in_share(_num_rows(manifest), train_share)
        for corpus, manifest in manifests.items()
    }


def render_phases(plan: dict[str, Any]) -> list[str]:
    """Lines for people about a run that has a curriculum."""
    lines = [f"steps             {plan['steps']:,} in {len(plan['phases'])} phases"]
    for number, phase in enumerate(plan["phases"]):
        lines += [
            f"  phase {number}         steps {phase['first_step']:,} to {phase['end_step']:,} with "
            f"{phase['global_batch_size']:,} rows of {phase['sequence_length']:,} tokens, "
            f"{phase['micro_batch_size']:,} per process and pass",
            f"                  {phase['tokens']:,} tokens of {phase['corpus']}",
        ]
    lines.append(f"tokens            {plan['tokens']:,}")
    for corpus, epochs in plan["epochs_by_corpus"].items():
        lines.append(f"                  {epochs:,.2f} passes over {corpus}")
    return lines


def _describe(phase: Phase, manifest: Manifest, world_size: int) -> dict[str, Any]:
    tokens_per_row = manifest.splits["train"].tokens / _num_rows(manifest)
    rows = (phase.end_step - phase.first_step) * phase.global_batch_size
    return {
        "first_step": phase.first_step,
        "end_step": phase.end_step,
        "corpus": phase.corpus,
        "sequence_length": manifest.sequence_length,
        "global_batch_size": phase.global_batch_size,
        "micro_batch_size": phase.micro_batch_size(world_size),
        "tokens_per_step": round(phase.global_batch_size * tokens_per_row),
        "tokens": round(rows * tokens_per_row),
    }


def _num_rows(manifest: Manifest) -> int:
    return sum(shard.rows for shard in manifest.shards_of("train"))
