"""A training step without memory: what a forward and a backward pass of any module would keep and need.

The step runs on fake tensors, which have a shape, a type and storages of a size, and no values: torch's own
autograd decides what is kept for the backward pass, as it will in the real step. Nothing here knows what the
module computes.

What a kernel takes for itself while it runs is not seen, unless a `Workspace` says so: a row of an attention
on CPU, what a library of matrix products packs its operands into.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import get_gradient_edge

from pipeline.planning.live_bytes import LiveBytes, Workspace, no_workspace
from pipeline.planning.pretended_cuda import pretended_cuda


@dataclass(frozen=True, kw_only=True)
class DryStep:
    """Bytes of a step, beside parameters, their finished gradients and the batch.

    Attributes:
        kept: there between the two passes: what the backward pass needs.
        forward_peak: the most that is there in the forward pass; no less than `kept`.
        backward_peak: the most in the backward pass. A parameter's gradient counts until it is whole, then
            it is handed over to whoever sums up and reduces gradients.
    """

    kept: int
    forward_peak: int
    backward_peak: int


@contextmanager
def without_memory(mode: FakeTensorMode, *, on_cuda: bool) -> Iterator[None]:
    """Tensors made here are fake ones.

    Args:
        mode: of all modules and tensors that are used together.
        on_cuda: they pretend to be on a CUDA device, see pretended_cuda.py, instead of in host memory.
    """
    with ExitStack() as stack:
        stack.enter_context(mode)
        if on_cuda:
            stack.enter_context(pretended_cuda())
        yield


def dry_step(
    module: nn.Module, run_forward: Callable[[], torch.Tensor], workspace: Workspace = no_workspace
) -> DryStep:
    """Run a forward and a backward pass; to be called inside `without_memory`.

    Args:
        module: made inside `without_memory`, in training mode; its gradients are gone afterwards.
        run_forward: gives the loss, (), differentiable with respect to the module's parameters.
        workspace: of operations.
    """
    live = LiveBytes(workspace)
    hooks = [
        parameter.register_post_accumulate_grad_hook(_hand_over)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        with live:
            loss = run_forward()
            kept, forward_peak = live.now, live.begin_peak()
            _go_back(loss)
    finally:
        for hook in hooks:
            hook.remove()
    return DryStep(kept=kept, forward_peak=forward_peak, backward_peak=live.peak)


def _go_back(loss: torch.Tensor) -> None:
    """The backward pass, from the edge of the graph: with a tensor it would be a function of torch.

    During one, no mode for functions is on, but layers that are recomputed must do what they did before.
    """
    torch.autograd.backward((get_gradient_edge(loss),), (torch.ones_like(loss),))


def _hand_over(parameter: torch.Tensor) -> None:
    parameter.grad = None
