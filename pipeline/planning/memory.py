"""The memory of a training process, predicted.

What the passes over a micro-batch keep and need is what a step without memory says, see dry_step.py. All else
is arithmetic over sizes: what is kept follows DeepSpeed 0.19 (runtime/zero/stage_1_and_2.py and stage3.py). A
step has four moments at which memory can peak:

    forward   all that is kept for the backward pass, beside the values that pass, such as logits
    backward  at its start the same, when the last layers' gradients are made, and DeepSpeed's buckets for
              them; at its end all gradients, in the buckets, and their flat copy that is being reduced
    update    a partition's gradients, flat and in float32, and the optimizer's temporary values

Weights, optimizer states and buffers are there all the time, so the peak is their sum and that of the largest
moment. On CPU the process's own resident set comes on top, measured and not calculated (see
`resident_base`), and what glibc's malloc cannot use again.
"""

from dataclasses import dataclass

from pipeline.planning.dry_step import DryStep
from pipeline.planning.sizes import Sizes

_ENGINE_BUCKET = 500_000_000  # values that the engine reduces at once at stage 0
# glibc's malloc (2.36 was measured) does not find all freed blocks again for new tensors: of what passes in a
# step, about a third more than is in use at its peak stays with the process.
_MALLOC_SHARE = 0.3
# The kernel maps so much around a page of a file that is looked at.
_FAULT_AROUND_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes of a process at its peak, by part.

    Attributes:
        weights: the model's, whole or (stage 3) its partition and what has been gathered.
        optimizer: float32 master weights and two moments.
        buffers: that DeepSpeed keeps all the time.
        gradients: at the moment of the peak, with their buckets and copies.
        activations: kept for the backward pass, without guidance.
        passing: values of a pass that are there at the moment of the peak only, logits above all.
        guidance: what both take more with it, while it has all its layers.
        update: temporary values of the optimizer.
        checkpoint_copy: in host memory, while a checkpoint is written in the background.
        process: resident set of a process that has yet to train; 0 on CUDA.
        malloc: what stays with the process though nothing uses it; 0 on CUDA.
        corpus: mapped pages of the shards, which the kernel takes back when it needs them; 0 on CUDA.
        peak_at: forward, backward or update.
        optimizer_in_host_memory: on CUDA, the optimizer's part is not on the device.
    """

    weights: int
    optimizer: int
    buffers: int
    gradients: int
    activations: int
    passing: int
    guidance: int
    update: int
    checkpoint_copy: int
    process: int
    malloc: int
    corpus: int
    peak_at: str
    optimizer_in_host_memory: bool

    @property
    def host_parts(self) -> tuple[str, ...]:
        """On CUDA: parts that are not on the device."""
        return ("optimizer", "checkpoint_copy") if self.optimizer_in_host_memory else ("checkpoint_copy",)

    def resident(self) -> int:
        """All parts: the peak of the resident set on CPU."""
        return sum(value for value in vars(self).values() if type(value) is int)

    def on_device(self) -> int:
        """The peak of torch's allocator on CUDA."""
        return self.resident() - sum(getattr(self, part) for part in self.host_parts)


def estimate_memory(sizes: Sizes, plain: DryStep, guided: DryStep, base_bytes: int) -> MemoryPlan:
    """Bytes per process.

    Args:
        sizes: of the run.
        plain: the passes over a micro-batch without guidance.
        guided: the same with all guidance that a step can have.
        base_bytes: resident set of a process that has imported everything, see `resident_base`; 0 on CUDA.
    """
    moments = {
        "forward": _at_forward(sizes, plain, guided),
        "backward": max(
            _at_start_of_backward(sizes, plain, guided),
            _at_end_of_backward(sizes),
            key=lambda moment: sum(moment.values()),
        ),
        "update": _at_update(sizes),
    }
    peak_at = max(moments, key=lambda name: sum(moments[name].values()))
    at_peak = moments[peak_at]
    on_cpu = not sizes.on_cuda
    parts = dict.fromkeys(("gradients", "activations", "passing", "guidance", "update"), 0) | at_peak
    return MemoryPlan(
        weights=weight_bytes(sizes),
        optimizer=optimizer_bytes(sizes),
        buffers=buffer_bytes(sizes),
        **parts,
        checkpoint_copy=checkpoint_copy_bytes(sizes),
        process=base_bytes,
        malloc=round(_MALLOC_SHARE * sum(at_peak.values())) if on_cpu else 0,
        corpus=min(sizes.corpus_bytes, sizes.trained_rows * _FAULT_AROUND_BYTES) if on_cpu else 0,
        peak_at=peak_at,
        optimizer_in_host_memory=sizes.offloads and sizes.on_cuda,
    )


def weight_bytes(sizes: Sizes) -> int:
    """The model's weights: at stage 3 a partition, and all that the step has gathered.

    It gathers ahead until a bucket is full, and a parameter larger than that all the same. What is gathered
    together comes as one tensor, from which each parameter is copied.
    """
    if sizes.stage < 3:
        return sizes.value_bytes * sizes.parameters
    gathered = min(sizes.parameters, sizes.prefetched + sizes.largest_parameter)
    together = min(sizes.parameters, sizes.prefetched)
    return sizes.value_bytes * (sizes.share + gathered + together)


def optimizer_bytes(sizes: Sizes) -> int:
    """Two moments and, but for stage 0 in fp32, master weights, in float32; ZeRO divides them."""
    has_masters = sizes.stage >= 1 or sizes.is_mixed  # ZeRO copies even weights that are float32 already
    return sizes.share * (12 if has_masters else 8)


def buffer_bytes(sizes: Sizes) -> int:
    """Stage 3: a partition's gradients and a bucket; offloading: float32 gradients, weights on their way."""
    kept = 0
    if sizes.stage == 3:
        kept = sizes.value_bytes * (sizes.share + _used(sizes, sizes.bucket))
    if sizes.offloads:
        kept += 0 if sizes.on_cuda else (4 + sizes.value_bytes) * sizes.share
    return kept


def checkpoint_copy_bytes(sizes: Sizes) -> int:
    """The main process's copy of what it writes: the weights and its part of the optimizer states."""
    if not sizes.copies_checkpoint:
        return 0
    written = sizes.parameters if sizes.stage < 3 else sizes.share
    return sizes.value_bytes * written + optimizer_bytes(sizes)


def _at_forward(sizes: Sizes, plain: DryStep, guided: DryStep) -> dict[str, int]:
    """Everything is kept; then, as a rule, the output layer works."""
    return {
        "gradients": _accumulated_bytes(sizes),
        "activations": plain.kept,
        "passing": plain.forward_peak - plain.kept,
        "guidance": guided.forward_peak - plain.forward_peak,
    }


def _at_start_of_backward(sizes: Sizes, plain: DryStep, guided: DryStep) -> dict[str, int]:
    """Everything is kept still while the last layers work; on CUDA buckets are taken at once."""
    return {
        "gradients": _accumulated_bytes(sizes) + (_bucket_bytes(sizes) if sizes.on_cuda else 0),
        "activations": plain.kept,
        "passing": plain.backward_peak - plain.kept,
        "guidance": guided.backward_peak - plain.backward_peak,
    }


def _at_end_of_backward(sizes: Sizes) -> dict[str, int]:
    """All gradients, the flat copy of a bucket, and a partition of them; twice that of the embeddings.

    The embeddings are the largest parameter, and the first to be used: their gradient comes last.
    """
    width, parameters = sizes.value_bytes, sizes.parameters
    embeddings = width * sizes.largest_parameter
    if sizes.stage == 0:
        return {"gradients": width * (parameters + min(parameters, _ENGINE_BUCKET))}
    copy = width * min(parameters, sizes.bucket)
    if sizes.stage == 3:
        return {"gradients": copy + embeddings}
    return {"gradients": _bucket_bytes(sizes) + copy + width * _touched(sizes) + embeddings}


def _at_update(sizes: Sizes) -> dict[str, int]:
    """Gradients of the group that is updated, flat and in float32, and what the optimizer makes of them."""
    width = sizes.value_bytes
    in_float = 4 if sizes.is_mixed else 0
    if sizes.stage == 0:
        largest = sizes.largest_parameter
        gradients = (width + in_float) * sizes.parameters
    else:
        largest = sizes.largest_share
        kept = 0 if sizes.stage == 3 else width * _touched(sizes)
        gradients = kept + (width + in_float) * largest
    return {"gradients": gradients, "update": 4 * sizes.update_values * largest}


def _accumulated_bytes(sizes: Sizes) -> int:
    """Gradients that earlier forward passes of the step have left; stage 3 has a buffer for them."""
    if sizes.micro_steps == 1 or sizes.stage == 3:
        return 0
    return sizes.value_bytes * (_touched(sizes) if sizes.stage == 2 else sizes.parameters)


def _bucket_bytes(sizes: Sizes) -> int:
    """ZeRO's buckets at stages 1 and 2, which are made anew for every backward pass."""
    if sizes.stage not in (1, 2):
        return 0
    return sizes.value_bytes * _used(sizes, sizes.num_buckets * sizes.bucket)


def _used(sizes: Sizes, num_values: int) -> int:
    """Values of a buffer that take memory: on CPU only those that something was written to."""
    return num_values if sizes.on_cuda else min(num_values, sizes.parameters)


def _touched(sizes: Sizes) -> int:
    """Values of the parameters that lie in one partition, wholly or in part, in the worst case.

    ZeRO 1 and 2 keep the whole gradient of a parameter that a border cuts.
    """
    return sum(_touched_of_group(group, sizes.num_shares) for group in sizes.groups)


def _touched_of_group(group: tuple[int, ...], num_shares: int) -> int:
    share = -(-sum(group) // num_shares)
    found = [0] * num_shares
    begin = 0
    for values in group:
        for place in range(begin // share, (begin + values - 1) // share + 1):
            found[place] += values
        begin += values
    return max(found)
