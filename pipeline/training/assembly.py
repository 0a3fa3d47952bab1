"""From a checked recipe to a Trainer: every object of a run, in the order in which they need each other."""

import logging
from functools import partial
from typing import Any

from pipeline.accounting.metrics import WindowSums
from pipeline.build import Corpus, build_batches, build_pretraining_module
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.config.deepspeed_json import zero_stage
from pipeline.encoder.attention import why_not_tapped
from pipeline.encoder.compilation import compile_blocks_if_possible, wants_compilation
from pipeline.engine import PretrainingModule, start_engine
from pipeline.evaluation.attention_snapshot import (
    Snapshot,
    pick_sentence,
    record_attention,
    write_snapshot,
)
from pipeline.evaluation.held_out import evaluate_held_out
from pipeline.guidance.run import RunGuidance
from pipeline.objectives import load_objective
from pipeline.objectives.protocol import Stateful
from pipeline.runs.start import Start
from pipeline.training.checkpointing import Checkpointing
from pipeline.training.current_phase import CurrentPhase
from pipeline.training.learning_rate import learning_rate_at
from pipeline.training.plateau import PlateauWatch
from pipeline.training.profiling import StepProfiler
from pipeline.training.recovery import Recovery
from pipeline.training.row_losses import RowLosses
from pipeline.training.state import seed_process
from pipeline.training.step import StepRunner
from pipeline.training.trainer import Surroundings, Trainer
from pipeline.training.training_log import TrainingLog

logger = logging.getLogger(__name__)


def assemble(
    around: Surroundings, deepspeed_config: dict[str, Any], start: Start, profile_steps: int | None = None
) -> Trainer:
    """Build a run's objects and, if there is one, load its checkpoint. All processes must call this.

    Args:
        around: where.
        deepspeed_config: a resolved one.
        start: where the run begins.
        profile_steps: how many steps are profiled; None for none.
    """
    recipe, run, cluster, _ = around
    corpus = Corpus.open(recipe.corpus)
    module = build_pretraining_module(recipe, corpus)
    batches = build_batches(recipe, corpus.vocabulary, cluster.world_size, cluster.rank)
    _describe(around, module, corpus)
    _compile(around, module, zero_stage(deepspeed_config))
    seed_process(recipe.seed, cluster.rank, 0)
    engine = start_engine(module, recipe, deepspeed_config)

    window, row_losses = WindowSums(cluster.device), RowLosses(batches, cluster.device)
    recovery = Recovery(recipe, run, cluster)
    log = TrainingLog(recipe, run, cluster, window, batches)
    log.regularizers = module.regularizers
    saver = CheckpointSaver(cluster, engine, run.checkpoints, zero_stage(deepspeed_config))
    parts: list[Stateful] = [window, row_losses, recovery.spikes, *module.regularizers, log]
    valid = corpus.batcher(recipe, "valid")
    sentence = pick_sentence(valid.split, corpus.vocabulary.sep_id)

    def evaluate() -> dict[str, Any]:
        rows = recipe.evaluation.max_rows, recipe.micro_batch_size(cluster.world_size)
        metrics = load_objective(recipe.objective.kind).metrics
        return evaluate_held_out(engine, module, metrics, valid, rows, cluster)

    def keep_snapshot(step: int) -> None:
        if why_not_tapped(module.model) is not None:
            return
        probs = record_attention(engine, module, sentence)
        cluster.on_main(lambda: write_snapshot(run.attention, Snapshot(step, probs)))

    def add_event(kind: str, **details: object) -> None:
        if cluster.is_main:
            run.add_event(kind, **details)

    trainer = Trainer(
        around=around,
        stepper=StepRunner(engine, module, partial(learning_rate_at, recipe), window, row_losses, cluster),
        batches=batches,
        phase=CurrentPhase(batches, engine, add_event),
        recovery=recovery,
        log=log,
        checkpoints=Checkpointing(recipe.checkpoint, run, cluster, saver),
        evaluate=evaluate,
        keep_snapshot=keep_snapshot,
        regularizers=module.regularizers,
        parts=parts,
        plateau=_plateau_watch(around, module, corpus),
        step=start.step,
    )
    if start.source is not None:
        trainer.restore(start.source)
    log.open(start.step)
    if profile_steps is not None:
        trainer.profiler = StepProfiler(profile_steps, run, cluster)
    return trainer


def _describe(around: Surroundings, module: PretrainingModule, corpus: Corpus) -> None:
    recipe, run, cluster, _ = around
    networks = ", ".join(
        f"{model.config.model_type} of {model.num_parameters()} parameters"
        for model in module.networks.values()
    )
    logger.info(
        "%s: %s, %d rows of %d tokens per step, %d process(es), %s, %s, %s",
        run.path,
        networks,
        recipe.train.global_batch_size,
        corpus.manifest.sequence_length,
        cluster.world_size,
        cluster.device.type,
        recipe.train.precision,
        recipe.train.deepspeed,
    )


def _compile(around: Surroundings, module: PretrainingModule, stage: int) -> None:
    recipe, cluster = around.recipe, around.cluster
    if wants_compilation(recipe, stage, on_cuda=cluster.device.type == "cuda"):
        around.watch.at("trying to compile")
        for network in module.networks.values():
            compile_blocks_if_possible(network, cluster, recomputes=recipe.train.activation_checkpointing)


def _plateau_watch(around: Surroundings, module: PretrainingModule, corpus: Corpus) -> PlateauWatch | None:
    """On the main process, for the network that is evaluated."""
    guidance = next((one for one in module.regularizers if one.name == "guidance"), None)
    if around.cluster.is_main and isinstance(guidance, RunGuidance):
        return PlateauWatch(around.recipe, corpus, around.run, guidance)
    return None
