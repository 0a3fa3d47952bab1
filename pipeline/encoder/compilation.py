"""torch.compile of the encoder blocks, in place, before the engine is made.

Every block is compiled for itself, with static shapes. Blocks that are alike share their graphs, so the time
it takes does not grow with depth. What a graph is made for: training or evaluation, with or without a mask,
looked at by guidance (for each row stride and each list of heads) or not, and the kinds of layers of the
family. Nothing of it depends on the step, so after the first steps of each kind nothing is compiled any more.

Whether a machine can compile (it takes a C++ compiler, on CUDA Triton too) is found out on every process
before training, with a block of two layers. If one process cannot, none does.
"""

import logging
import warnings

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pipeline.config.schema import Recipe
from pipeline.processes.cluster import Cluster

logger = logging.getLogger(__name__)

LAST_ZERO_STAGE = 2  # at stage 3 hooks gather the weights of every module inside a block
# torch 2.11 computes a compiled block again with other tensors than at first, where a tap has looked at it.
_FIRST_TO_RECOMPUTE = (2, 13)
CAN_RECOMPUTE = tuple(map(int, torch.__version__.split(".")[:2])) >= _FIRST_TO_RECOMPUTE
_MOST_GRAPHS = 256  # of all kinds above together; torch's 8 are soon used up, and then it compiles no more


def wants_compilation(recipe: Recipe, zero_stage: int, on_cuda: bool) -> bool:
    """Whether the recipe's blocks are to be compiled: `auto` means where it pays and can be done."""
    if recipe.train.compile == "auto":
        return on_cuda and zero_stage <= LAST_ZERO_STAGE
    return recipe.train.compile


def compile_blocks_if_possible(model: PreTrainedModel, cluster: Cluster, *, recomputes: bool = False) -> bool:
    """Compile the blocks, unless some process cannot, which is then told. All processes must call this.

    Args:
        model: its blocks are compiled.
        cluster: all processes.
        recomputes: the blocks will be computed again in the backward pass.

    Returns:
        Whether they are compiled.
    """
    reasons = cluster.gather(why_not(cluster.device, recomputes=recomputes))
    found = [f"process {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None]
    if found:
        if cluster.is_main:
            logger.warning(
                "torch.compile does not work here, so the blocks run uncompiled, on all processes (%s); "
                "write train.compile: false to do without this message",
                found[0],
            )
        return False
    if not blocks_of(model):
        if cluster.is_main:
            logger.warning(
                "%s has no blocks of its own for each layer that torch.compile could take one by one, so it "
                "runs uncompiled; write train.compile: false to do without this message",
                type(model).__name__,
            )
        return False
    compile_blocks(model)
    return True


def why_not(device: torch.device, *, recomputes: bool = False) -> str | None:
    """Try to compile a small block, forward and backward; None, or why it does not work."""
    from torch._inductor.utils import fresh_cache  # slow to import

    if recomputes and not CAN_RECOMPUTE:
        first = ".".join(map(str, _FIRST_TO_RECOMPUTE))
        return (
            f"torch {torch.__version__} fails where activations are computed again, from {first} on it works"
        )
    # A kernel kept from another time would say nothing about this machine; and the block is in float32, whose
    # speed inductor has an opinion on.
    with fresh_cache(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                block = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16)).to(device)
            compiled = torch.compile(block, dynamic=False)
            compiled(torch.ones(4, 16, device=device)).square().sum().backward()
        except Exception as error:  # of many kinds: from compilers, Triton and torch
            return f"{type(error).__name__}: {_first_line(error)}"
    return None


def compile_blocks(model: PreTrainedModel, backend: str = "inductor") -> list[nn.Module]:
    """Compile each block of an encoder in place; nothing happens before a block is first called.

    Returns:
        The blocks.
    """
    torch._dynamo.config.recompile_limit = _MOST_GRAPHS
    torch._dynamo.config.accumulated_recompile_limit = _MOST_GRAPHS
    # What a layer's tap keeps is kept in the forward pass only, when activations are computed again.
    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True
    blocks = blocks_of(model)
    for block in blocks:
        block.compile(backend=backend, dynamic=False)
    return blocks


def blocks_of(model: PreTrainedModel) -> list[nn.Module]:
    """One block for each layer, in order; none where the family's layers are not such, or share weights."""
    blocks: list[nn.Module] = [
        module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)
    ]
    return blocks if len(blocks) == model.config.num_hidden_layers else []


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), "without a message")
