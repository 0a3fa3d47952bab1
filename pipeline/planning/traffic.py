"""What the processes of a run send each other in an optimizer step, predicted: arithmetic over sizes.

The *payload* of a collective is its whole tensor: what is reduced, or what all have after a gathering. In a
ring (Patarasuk and Yuan 2009), which NCCL and gloo use for large tensors, each of N processes sends
(N - 1) / N of the payload to gather or to reduce and scatter it, and twice that to reduce it for all.

As DeepSpeed 0.19 does it, with P parameters of w bytes and A forward passes (micro-steps) per step:

    stage  gradients                    weights
    0      all-reduce w P
    1      all-reduce w P               all-gather w P' after the update
    2      A times all-reduce w P       all-gather w P' after the update
    3      A times reduce-scatter w P'  large parameters: 2 A times all-gather w P', for forward and backward;
                                        small ones: once, after the update

P' is P with each group (stages 1 and 2) or each parameter (stage 3) padded, so that it can be divided.
Stages 1 and 2 reduce for all although each process needs only its share: DeepSpeed has one ring for a bucket
rather than N small ones. Small at stage 3 are parameters of up to stage3_param_persistence_threshold values.
There the first steps, and those after an evaluation, gather more until DeepSpeed knows the order of the
layers again.
"""

from dataclasses import dataclass

_ALIGNMENT = 2  # DeepSpeed makes a partition's length a multiple of it


@dataclass(frozen=True)
class Volume:
    """Payloads of an optimizer step in bytes, by collective; without the few numbers that go with them.

    Attributes:
        all_reduce, reduce_scatter, all_gather: payloads.
    """

    all_reduce: int = 0
    reduce_scatter: int = 0
    all_gather: int = 0

    @property
    def payload(self) -> int:
        """All together."""
        return self.all_reduce + self.reduce_scatter + self.all_gather

    def sent(self, num_processes: int) -> float:
        """Bytes that each process sends in rings."""
        passes = 2 * self.all_reduce + self.reduce_scatter + self.all_gather
        return passes * (num_processes - 1) / num_processes


def step_volume(
    groups: tuple[tuple[int, ...], ...],
    value_bytes: int,
    stage: int,
    num_processes: int,
    micro_steps: int,
    persistent: int = 100_000,
) -> Volume:
    """The volume of a step.

    Args:
        groups: values of each parameter, in order, for each group of the optimizer.
        value_bytes: of a value of the model.
        stage: of ZeRO.
        num_processes: N; one sends nothing but its payloads are the same.
        micro_steps: A.
        persistent: stage 3: parameters of so many values at most are small.
    """
    parameters = sum(sum(group) for group in groups)
    if stage == 0:
        return Volume(all_reduce=value_bytes * parameters)
    if stage < 3:
        divided = sum(_padded(sum(group), _ALIGNMENT * num_processes) for group in groups)
        reductions = micro_steps if stage == 2 else 1
        return Volume(all_reduce=reductions * value_bytes * parameters, all_gather=value_bytes * divided)
    sizes = [(values, _padded(values, num_processes)) for group in groups for values in group]
    small = sum(padded for values, padded in sizes if values <= persistent)
    large = sum(padded for values, padded in sizes if values > persistent)
    return Volume(
        reduce_scatter=micro_steps * value_bytes * (small + large),
        all_gather=value_bytes * (2 * micro_steps * large + small),
    )


def _padded(values: int, multiple: int) -> int:
    return -(-values // multiple) * multiple
