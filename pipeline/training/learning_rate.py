"""The learning rate as a function of the step, so that there is no scheduler state to lose."""

import math

from pipeline.config.schema import Recipe


def learning_rate_at(recipe: Recipe, step: int) -> float:
    """Learning rate of a step; steps count from 0.

    Linear warm-up over `schedule.warmup`, then linear or cosine towards `final_ratio` of the peak, which the
    step after the last would have, or constant and linear over the last `schedule.decay` (wsd: warm-up,
    stable, decay).
    """
    schedule, num_steps = recipe.schedule, recipe.train.num_steps
    peak = recipe.optimizer.learning_rate
    warmup = recipe.steps_of(schedule.warmup)
    if step < warmup:
        return peak * (step + 1) / warmup
    start = num_steps - recipe.steps_of(schedule.decay) if schedule.kind == "wsd" else warmup
    progress = min(1.0, max(0.0, (step - start) / max(1, num_steps - start)))
    shape = (1 + math.cos(math.pi * progress)) / 2 if schedule.kind == "cosine" else 1 - progress
    return peak * (schedule.final_ratio + (1 - schedule.final_ratio) * shape)
