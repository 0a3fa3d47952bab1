"""The CUDA kernels against the formula in float64.

Without a GPU the kernels are interpreted on small tensors, and compiled for two GPUs in a process of its own:
this module, run as a program, for a process that interprets kernels cannot compile them.
"""

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

HAS_GPU = torch.cuda.is_available()
IS_PROGRAM = __name__ == "__main__"

with pytest.MonkeyPatch.context() as patch:
    if not (HAS_GPU or IS_PROGRAM):
        patch.setenv("TRITON_INTERPRET", "1")  # read where a kernel is defined, also those triton defines
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from pipeline.guidance import row_terms_cpu, row_terms_triton
from pipeline.encoder.attention_scope import inside_window, spans_mask  # noqa: E402
from pipeline.guidance.row_inputs import RowInputs  # noqa: E402
from pipeline.guidance.row_terms import LossForm, row_terms  # noqa: E402
from pipeline.guidance.targets import Documents, Targets  # noqa: E402

DEVICE = torch.device("cuda" if HAS_GPU else "cpu")
LENGTH = 41  # not a multiple of a tile
SQUARED, DROPPED, CROSS_ENTROPY = LossForm(), LossForm(keep=0.9), LossForm(name="cross_entropy")
every_form = pytest.mark.parametrize(
    "form", [SQUARED, DROPPED, CROSS_ENTROPY], ids=["squared", "dropped", "cross entropy"]
)
both_forms = pytest.mark.parametrize("form", [DROPPED, CROSS_ENTROPY], ids=["squared", "cross entropy"])
pytestmark = pytest.mark.filterwarnings("ignore:(divide by zero|overflow):RuntimeWarning")
half_precision = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])


@pytest.fixture(autouse=True, scope="module")
def interpreter() -> Any:
    """Two things the interpreter of triton 3.6 cannot do: products of bfloat16, and loops with numpy 2.4."""
    if HAS_GPU:
        yield
        return
    from triton.runtime import interpreter

    if not isinstance(triton.language.sum, interpreter.InterpretedFunction):
        pytest.skip("triton was imported before this module, and compiles")
    make_dot, patch_tensor = interpreter.InterpreterBuilder.create_dot, interpreter._patch_lang_tensor

    def create_dot(self: Any, a: Any, b: Any, *arguments: Any) -> Any:
        if a.dtype == triton.language.bfloat16:
            a, b = (self.cast_impl(operand, triton.language.float32) for operand in (a, b))
        return make_dot(self, a, b, *arguments)

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)
        patch.setattr(interpreter, "_patch_lang_tensor", patch_lang_tensor)
        yield


@dataclass(frozen=True)
class Case:
    """Arguments of the operator."""

    query: torch.Tensor
    key: torch.Tensor
    scaling: float
    mask: torch.Tensor | None
    targets: Targets
    pattern_of_head: tuple[int, ...]
    form: LossForm
    first_row: int = 0
    row_stride: int = 1
    spans: torch.Tensor | None = None

    def arguments(self) -> RowInputs:
        """As the implementations take them."""
        targets, form = self.targets.to(self.query.device), self.form
        mask, spans = (None if x is None else x.to(self.query.device) for x in (self.mask, self.spans))
        if spans is not None:
            mask = None  # it is what the formula has for them
        return RowInputs(
            self.query, self.key, mask, targets.single, targets.columns, targets.documents.starts,
            targets.documents.ends, spans, self.first_row, list(self.pattern_of_head), self.scaling,
            form.keep, form.name, self.row_stride,
        )  # fmt: skip


def make_targets(length: int) -> Targets:
    """Of two sequences: one of two documents, one of a document and padding.

    Patterns: next and first; half the keys, with shares, and a third of them with weights up to 1.
    """
    border, end = length // 3, length - length // 4
    starts, ends = torch.zeros((2, 2, length), dtype=torch.int32)
    starts[0, border:] = border
    ends[0, :border], ends[0, border:], ends[1, :end] = border, length, end
    places = torch.arange(length, dtype=torch.int32)
    single = torch.stack([torch.where(places + 1 < ends, places + 1, -1), starts.where(ends > 0, -1)])
    chosen = torch.stack([places % 2 == 0, places % 3 == 1])[:, None] & (ends > 0)
    columns = chosen.float() * torch.stack([torch.ones(length), torch.linspace(0.5, 1.0, length)])[:, None]
    for sequence, document in ((0, slice(border)), (0, slice(border, length)), (1, slice(end))):
        columns[0, sequence, document] /= columns[0, sequence, document].sum().clamp(min=1)
    return Targets(
        single=single,
        columns=columns,
        documents=Documents(starts=starts, ends=ends),
        valid=torch.ones((4, 2, length), dtype=torch.bool),
    )


def make_case(
    form: LossForm, length: int = LENGTH, head_size: int = 8, seed: int = 0, **changes: Any
) -> Case:
    """Random queries and keys as models have them: views of one tensor."""
    torch.manual_seed(seed)
    query, key = torch.randn(2, length, 2, 3, head_size).permute(2, 0, 3, 1, 4).to(DEVICE)
    case = Case(query, key, 0.7, None, make_targets(length), (0, 2, 1), form)
    return replace(case, **changes)


def key_padding(length: int) -> torch.Tensor:
    """True where a key is no padding, (B, 1, 1, N)."""
    return (make_targets(length).documents.ends > 0)[:, None, None]


def make_mask(name: str, length: int = LENGTH) -> torch.Tensor | None:
    keys = key_padding(length)
    places = torch.arange(length)
    near = (places[:, None] - places).abs() <= 3  # rows in the padding may attend to nothing
    minus_infinity = torch.zeros(2, 1, length, length).masked_fill(~(keys & near), -torch.inf)
    return {
        "none": None,
        "keys": keys,
        "window": keys & near,
        "additive": minus_infinity + torch.randn(length, generator=torch.Generator().manual_seed(1)),
        "additive keys": torch.zeros(keys.shape).masked_fill(~keys, torch.finfo(torch.float32).min),
        "additive half": minus_infinity.bfloat16(),
    }[name]


def make_spans(reach: int | None, length: int = LENGTH) -> torch.Tensor:
    """Of the documents of `make_targets`, whole or inside windows."""
    spans = make_targets(length).documents.spans()
    return spans if reach is None else inside_window(spans, reach)


@functools.cache
def target_probs(length: int, pattern_of_head: tuple[int, ...]) -> torch.Tensor:
    """(B, H, N, N), float64, entry by entry."""
    targets = make_targets(length)
    probs = torch.zeros(4, 2, length, length, dtype=torch.float64)
    for sequence in range(2):
        for row in range(length):
            for pattern in range(2):
                if targets.single[pattern, sequence, row] >= 0:
                    probs[pattern, sequence, row, targets.single[pattern, sequence, row]] = 1.0
            start, end = targets.documents.starts[sequence, row], targets.documents.ends[sequence, row]
            probs[2:, sequence, row, start:end] = targets.columns[:, sequence, start:end].double()
    return probs[list(pattern_of_head)].transpose(0, 1)


@dataclass(frozen=True)
class Result:
    """Of the rows that mean something; zero elsewhere."""

    errors: torch.Tensor
    mass: torch.Tensor
    grad_query: torch.Tensor
    grad_key: torch.Tensor


def run_dense(case: Case, probs: torch.Tensor, row_weights: torch.Tensor) -> tuple[Result, torch.Tensor]:
    """By the formula, and which looked-at rows mean something, (B, H, R).

    A row does not if it may attend to nothing or, for cross-entropy, to no target.
    """
    query, key = (x.detach().cpu().double().requires_grad_() for x in (case.query, case.key))
    scores = query @ key.transpose(-1, -2) * case.scaling
    if case.mask is not None:
        allowed = case.mask
        scores = scores.masked_fill(~allowed, -1e30) if allowed.dtype == torch.bool else scores + allowed
    allowed = scores > -1e29
    attention = torch.softmax(scores.clamp(min=-1e30), -1)
    on_target = probs > 0
    means_something = allowed.any(-1)
    if case.form.name == "squared":
        errors = (attention - probs).square().sum(-1) + attention.square().sum(-1) * (1 / case.form.keep - 1)
    else:
        means_something = (allowed & on_target).any(-1)
        log_attention = torch.log_softmax(scores.clamp(min=-1e30), -1)
        errors = -log_attention.masked_fill(~on_target, -1e30).logsumexp(-1)
    rows = slice(case.first_row, None, case.row_stride)
    means_something = means_something[:, :, rows]
    errors = errors[:, :, rows].masked_fill(~means_something, 0.0)
    mass = (attention * on_target).sum(-1)[:, :, rows].masked_fill(~means_something, 0.0)
    (errors * row_weights).sum().backward()
    return Result(errors.detach(), mass.detach(), query.grad, key.grad), means_something


def run_kernels(case: Case, row_weights: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Errors, mass and gradients, as the kernels give them."""
    arguments = case.arguments()
    errors, mass, kept, peak = row_terms_triton.forward(arguments)
    gradients = row_terms_triton.backward(row_weights.to(DEVICE), errors, kept, peak, arguments)
    return errors.cpu(), mass.cpu(), *(gradient.cpu() for gradient in gradients)


def relative_difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm().clamp(min=1e-20)).item()


def check(case: Case, tolerance: float = 1e-5, grad_tolerance: float | None = None) -> Result:
    """Compare with the formula."""
    length = case.query.shape[2]
    num_rows = len(range(case.first_row, length, case.row_stride))
    row_weights = torch.randn(2, 3, num_rows)
    dense, means_something = run_dense(case, target_probs(length, case.pattern_of_head), row_weights)

    errors, mass, grad_query, grad_key = run_kernels(case, row_weights * means_something)

    assert all(torch.isfinite(values).all() for values in (errors, mass, grad_query, grad_key))
    assert grad_query.dtype == case.query.dtype
    assert grad_key.dtype == case.key.dtype
    found = Result(errors * means_something, mass * means_something, grad_query, grad_key)
    for name, bound in (
        ("errors", tolerance),
        ("mass", tolerance),
        ("grad_query", grad_tolerance or tolerance),
        ("grad_key", grad_tolerance or tolerance),
    ):
        assert relative_difference(getattr(found, name), getattr(dense, name)) <= bound, name
    return found


@pytest.mark.parametrize(
    ("mask", "form"),
    [
        ("keys", DROPPED),
        ("keys", CROSS_ENTROPY),
        ("window", DROPPED),
        ("window", CROSS_ENTROPY),
        ("additive", DROPPED),
        ("additive", CROSS_ENTROPY),
        ("additive keys", CROSS_ENTROPY),
        ("additive half", SQUARED),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_every_mask(mask: str, form: LossForm) -> None:
    check(make_case(form, mask=make_mask(mask)))


@both_forms
@pytest.mark.parametrize(("first_row", "row_stride"), [(0, 1), (2, 3)])
@pytest.mark.parametrize("reach", [None, 3], ids=["documents", "windows in documents"])
def test_spans_stand_for_a_mask(form: LossForm, first_row: int, row_stride: int, reach: int | None) -> None:
    """Compared with the formula under the mask that they stand for."""
    spans = make_spans(reach)
    check(
        make_case(form, spans=spans, mask=spans_mask(spans), first_row=first_row, row_stride=row_stride),
    )


@both_forms
@pytest.mark.parametrize("patterns", [(0, 1, 0), (3, 0, 3)], ids=["single", "no shares"])
def test_every_shape_of_target(form: LossForm, patterns: tuple[int, ...]) -> None:
    check(make_case(form, pattern_of_head=patterns))


@pytest.mark.parametrize("patterns", [(0, 1, 1), (2, 3, 2)], ids=["no columns", "no single"])
def test_a_kind_of_target_may_be_missing(patterns: tuple[int, ...]) -> None:
    """Nothing is read of a tensor without entries."""
    case = make_case(SQUARED, length=16, pattern_of_head=patterns)
    targets = case.targets
    if patterns[0] < 2:
        arguments = replace(case, targets=replace(targets, columns=targets.columns[:0])).arguments()
    else:
        shifted = tuple(pattern - 2 for pattern in patterns)
        arguments = replace(
            case, targets=replace(targets, single=targets.single[:0]), pattern_of_head=shifted
        ).arguments()

    found, expected = row_terms_triton.forward(arguments), row_terms_triton.forward(case.arguments())

    for some, all_kinds in zip(found, expected):
        assert torch.equal(some, all_kinds)


@both_forms
@pytest.mark.parametrize(("first_row", "row_stride"), [(2, 3), (30, 16)])
def test_some_rows(form: LossForm, first_row: int, row_stride: int) -> None:
    case = make_case(form, mask=make_mask("window"), first_row=first_row, row_stride=row_stride)

    found = check(case)

    rows = torch.arange(first_row, LENGTH, row_stride)
    not_looked_at = torch.ones(LENGTH, dtype=torch.bool).index_fill(0, rows, False)
    assert found.grad_query[:, :, not_looked_at].count_nonzero() == 0


def test_no_rows() -> None:
    case = make_case(SQUARED, length=4, first_row=4)

    errors, mass, grad_query, grad_key = run_kernels(case, torch.zeros(2, 3, 0))

    assert errors.shape == mass.shape == (2, 3, 0)
    assert grad_query.count_nonzero() == grad_key.count_nonzero() == 0


@both_forms
@pytest.mark.parametrize("length", [1, 2, 32, 70])
def test_lengths(form: LossForm, length: int) -> None:
    check(make_case(form, length=length, mask=make_mask("keys", length)))


@pytest.mark.parametrize(
    ("head_size", "form"),
    [(1, SQUARED), (32, CROSS_ENTROPY), (48, SQUARED), (80, CROSS_ENTROPY), (128, SQUARED)],
)
def test_head_sizes(head_size: int, form: LossForm) -> None:
    check(make_case(form, length=33, head_size=head_size, scaling=head_size**-0.5))


def test_strides_of_any_kind() -> None:
    """Also entries that are not neighbours, and no two strides alike."""
    query = torch.randn(8, 3, LENGTH + 3, 2, 5).permute(3, 1, 2, 4, 0)[:, :, 2:-1, 1]
    key = torch.randn(3, 16, 2, LENGTH).permute(2, 0, 3, 1)[..., ::2]
    mask = (torch.rand(LENGTH, LENGTH + 1, 2) < 0.7).permute(2, 1, 0)[:, None, 1:]
    targets = make_targets(LENGTH)
    strided = replace(
        targets,
        single=targets.single.transpose(1, 2).contiguous().transpose(1, 2),
        columns=targets.columns.transpose(0, 2).contiguous().transpose(0, 2),
    )
    check(make_case(SQUARED, query=query.to(DEVICE), key=key.to(DEVICE), mask=mask, targets=strided))


@half_precision
@both_forms
def test_half_precision(form: LossForm, dtype: torch.dtype) -> None:
    case = make_case(form, length=70, mask=make_mask("window", 70))
    case = replace(case, query=case.query.to(dtype), key=case.key.to(dtype))

    # Only the gradients are ever rounded to half precision.
    check(case, grad_tolerance=1e-2)


@both_forms
@pytest.mark.parametrize("large", ["query", "key"])
def test_small_gradients_in_half_precision(form: LossForm, large: str) -> None:
    """Those of a large batch, 1e-7 a row, although 6e-8 is the smallest number above zero."""
    case = make_case(form, scaling=1.0)
    size = {"query": 1 / 512, "key": 1 / 512} | {large: 512.0}
    case = replace(case, query=(case.query * size["query"]).half(), key=(case.key * size["key"]).half())
    row_weights = 1e-7 * torch.randn(2, 3, LENGTH)
    dense, means_something = run_dense(case, target_probs(LENGTH, case.pattern_of_head), row_weights)

    _, _, grad_query, grad_key = run_kernels(case, row_weights * means_something)

    found, expected = (grad_key, dense.grad_key) if large == "query" else (grad_query, dense.grad_query)
    assert relative_difference(found, expected) <= 1e-2


def test_rows_without_gradient() -> None:
    """All of a pair, and some of another."""
    case = make_case(SQUARED, length=16)
    row_weights = torch.randn(2, 3, 16)
    row_weights[0] = 0.0
    row_weights[1, :, ::2] = 0.0
    dense, _ = run_dense(case, target_probs(16, case.pattern_of_head), row_weights)

    _, _, grad_query, grad_key = run_kernels(case, row_weights)

    assert grad_query[0].count_nonzero() == grad_key[0].count_nonzero() == 0
    assert relative_difference(grad_query, dense.grad_query) <= 1e-5
    assert relative_difference(grad_key, dense.grad_key) <= 1e-5


@every_form
@pytest.mark.parametrize("strength", [12.0, 200.0])
@pytest.mark.parametrize("offset", [0, 1], ids=["on target", "off target"])
def test_saturated_rows(form: LossForm, strength: float, offset: int) -> None:
    """Almost all attention on one key: the little there is elsewhere is known to all its digits."""
    length = 16
    target = make_targets(length).single[1]
    looked_at = (target + offset) % length
    query = strength * torch.nn.functional.one_hot(looked_at.long(), length)[:, None].expand(-1, 3, -1, -1)
    key = torch.eye(length).expand(2, 3, -1, -1)
    case = make_case(form, length, scaling=1.0, pattern_of_head=(1, 1, 1))
    case = replace(case, query=query.float().to(DEVICE), key=key.to(DEVICE))
    has_target = (target >= 0)[:, None].expand(-1, 3, -1)
    dense, _ = run_dense(case, target_probs(length, (1, 1, 1)), has_target)

    errors, mass, grad_query, grad_key = run_kernels(case, has_target.float())

    close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-37)
    close(errors[has_target].double(), dense.errors[has_target])
    close(mass[has_target].double(), dense.mass[has_target])
    close(grad_query.double(), dense.grad_query)
    close(grad_key.double(), dense.grad_key)


@both_forms
def test_huge_scores(form: LossForm) -> None:
    case = make_case(form, mask=make_mask("keys"))
    case = replace(case, query=case.query * 3000)
    scores = case.query @ case.key.transpose(-1, -2) * case.scaling
    assert scores.abs().max() > 1e4

    # A score of 1e4 has itself an error of 1e-3 in float32, and unsaturated rows have it with it.
    check(case, tolerance=1e-4, grad_tolerance=1e-3)


@both_forms
@pytest.mark.parametrize("kind", ["bool", "additive"])
def test_rows_that_may_attend_to_nothing(form: LossForm, kind: str) -> None:
    """Their attention is uniform over the keys there are, as the CPU implementation has it."""
    length = 20
    nothing = torch.zeros(1, 1, 1, length, dtype=torch.bool)
    mask = nothing if kind == "bool" else torch.zeros(nothing.shape).masked_fill(~nothing, -torch.inf)
    probs = target_probs(length, (0, 2, 1))
    has_target = (probs > 0).any(-1)

    errors, mass, grad_query, grad_key = run_kernels(make_case(form, length, mask=mask), has_target.float())

    expected_mass = (probs > 0).double().mean(-1)
    square = (1 / length - probs).square().sum(-1) + (1 / form.keep - 1) / length
    expected = -expected_mass.log() if form.name == "cross_entropy" else square
    assert relative_difference(errors[has_target], expected[has_target]) <= 1e-5
    assert relative_difference(mass, expected_mass) <= 1e-5
    assert torch.isfinite(grad_query).all()
    assert torch.isfinite(grad_key).all()


@both_forms
def test_what_all_scores_of_a_row_have_in_common(form: LossForm) -> None:
    """Scores of 4096 and a few eighths, which float32 holds, though not with the log of a sum added."""
    case = make_case(form, mask=torch.full((1, 1, 1, LENGTH), 4096.0), scaling=1.0)
    query, key = (x[..., :1].clamp(-4, 4).mul(4).round().div(4) for x in (case.query, case.key))
    case = replace(case, query=query, key=key)

    check(case, grad_tolerance=1e-3)


@both_forms
def test_keeps_what_the_cpu_implementation_keeps(form: LossForm) -> None:
    case = make_case(form, mask=make_mask("additive"), pattern_of_head=(3, 0, 1))
    may_attend = (case.mask > -torch.inf).any(-1).expand(2, 3, LENGTH)

    _, _, kept, peak = (values.cpu() for values in row_terms_triton.forward(case.arguments()))
    on_cpu = replace(case, query=case.query.cpu(), key=case.key.cpu())
    _, _, expected, expected_peak = row_terms_cpu.forward(on_cpu.arguments())

    num_kept = 3 if form.name == "squared" else 2
    for values, others in zip(kept[:num_kept], expected):
        torch.testing.assert_close(values[may_attend], others[may_attend], rtol=1e-5, atol=1e-6)
    if form.name == "squared":
        assert torch.equal(peak[may_attend], expected_peak[may_attend])


def test_no_error_below_zero() -> None:
    """Where attention is as it should be, and the formula subtracts what it has added."""
    case = make_case(SQUARED, pattern_of_head=(0, 1, 2))
    case = replace(case, query=case.query[:, :, :1].expand(-1, -1, LENGTH, -1))
    attention = torch.softmax(case.query @ case.key.transpose(-1, -2) * case.scaling, -1)
    whole = Documents(starts=torch.zeros(2, LENGTH).int(), ends=torch.full((2, LENGTH), LENGTH).int())
    targets = replace(
        case.targets,
        single=case.targets.single[:0],
        columns=attention[:, :, 0].transpose(0, 1).cpu(),
        documents=whole,
    )

    errors, _, _, _ = row_terms_triton.forward(replace(case, targets=targets).arguments())

    assert 0 <= errors.min() <= errors.max() <= 1e-6


def test_the_first_of_equal_scores_is_the_peak() -> None:
    """In whichever tile the others are; of whole numbers, so that they are equal however they are summed."""
    case = make_case(SQUARED, mask=None)
    case = replace(case, query=case.query.round(), key=case.key[:, :, :1].round().expand(-1, -1, LENGTH, -1))

    _, _, _, peak = row_terms_triton.forward(case.arguments())

    assert peak.count_nonzero() == 0


def check_operator(form: LossForm, dtype: torch.dtype, length: int) -> None:
    """The public function and autograd, on every second row, against the formula."""
    case = make_case(form, length=length, head_size=64, scaling=0.125, mask=make_mask("window", length))
    query, key = (x.to(dtype).requires_grad_() for x in (case.query, case.key))
    case = replace(case, query=query, key=key, first_row=1, row_stride=2)
    row_weights = torch.randn(2, 3, length // 2)
    dense, means_something = run_dense(case, target_probs(length, case.pattern_of_head), row_weights)

    mask, targets = case.mask.to(DEVICE), case.targets.to(DEVICE)
    errors, mass = row_terms(query, key, case.scaling, mask, targets, case.pattern_of_head, form, 1, 2)
    (errors * (row_weights * means_something).to(DEVICE)).sum().backward()

    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert relative_difference(errors.detach().cpu() * means_something, dense.errors) <= 1e-5
    assert relative_difference(mass.cpu() * means_something, dense.mass) <= 1e-5
    assert relative_difference(query.grad.cpu(), dense.grad_query) <= tolerance
    assert relative_difference(key.grad.cpu(), dense.grad_key) <= tolerance


@both_forms
def test_operator(form: LossForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.guidance.row_terms._implementation", lambda _query: row_terms_triton)

    check_operator(form, torch.float32, length=34)


@pytest.mark.slow
@pytest.mark.skipif(HAS_GPU, reason="the other tests compile them")
def test_kernels_compile(tmp_path: Path) -> None:
    """For the real thing, without one: types the interpreter forgives, and what the kernels take of a GPU."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    compilation = subprocess.run(
        [sys.executable, "-m", __name__],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert compilation.returncode == 0, compilation.stderr

    kernels = [Kernel(**json.loads(line)) for line in compilation.stdout.splitlines()]
    assert len(kernels) == 3 * len(COMPILED)
    for kernel in kernels:
        assert kernel.shared_memory <= 64 * 1024, kernel
        assert kernel.stack <= 32, kernel  # a spilled number or two at most


@dataclass(frozen=True)
class Kernel:
    """A compiled kernel; memory in bytes, the stack (of spilled registers) per thread."""

    name: str
    settings: str
    shared_memory: int
    registers: int
    stack: int


# Compute capability, type, form, mask, head size: everything once, with everything it may interact with.
COMPILED = (
    (80, torch.bfloat16, DROPPED, "window", 64),
    (80, torch.float16, CROSS_ENTROPY, "additive", 128),
    (80, torch.float32, SQUARED, "additive keys", 64),
    (90, torch.bfloat16, CROSS_ENTROPY, "keys", 64),
    (90, torch.float16, SQUARED, "none", 80),
    (90, torch.float32, CROSS_ENTROPY, "window", 128),
    (90, torch.bfloat16, SQUARED, "spans", 64),
)


def compile_kernels() -> None:
    """Call the implementation with launching replaced by compiling, and print a `Kernel` per line."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    class NoDriver:
        """Says what is asked before a launch."""

        def __init__(self, capability: int) -> None:
            self.capability = capability

        def get_current_target(self) -> Any:
            return GPUTarget("cuda", self.capability, 32)

        def get_current_device(self) -> int:
            return self.capability  # compiled kernels are remembered by device

        def get_current_stream(self, device: int) -> int:
            return 0

    for capability, dtype, form, mask, head_size in COMPILED:
        driver.set_active(NoDriver(capability))
        settings = f"sm_{capability} {dtype} {form.name} {mask} D={head_size}"
        JITFunction.__getitem__ = lambda kernel, grid, settings=settings: functools.partial(
            compile_only, kernel, settings
        )
        by_spans = mask == "spans"
        allowed = {"spans": make_spans(None, 64)} if by_spans else {"mask": make_mask(mask, 64)}
        case = make_case(form, length=64, head_size=head_size, **allowed)
        run_kernels(replace(case, query=case.query.to(dtype), key=case.key.to(dtype)), torch.ones(2, 3, 64))


def compile_only(kernel: Any, settings: str, *arguments: Any, **options: Any) -> None:
    compiled = kernel.warmup(*arguments, grid=(1,), **options)
    registers, stack = resource_usage(compiled.asm["cubin"])
    print(json.dumps(vars(Kernel(kernel.__name__, settings, compiled.metadata.shared, registers, stack))))


def resource_usage(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack per thread."""
    program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage.stdout).groups()
    return int(registers), int(stack)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@every_form
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"]
)
def test_operator_on_a_gpu(form: LossForm, dtype: torch.dtype) -> None:
    check_operator(form, dtype, length=300)


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device")
@every_form
def test_no_matrix_of_scores_on_a_gpu(form: LossForm) -> None:
    length = 2048
    case = make_case(form, length=length, head_size=64, scaling=0.125)
    query, key = (x.bfloat16().requires_grad_() for x in (case.query, case.key))
    targets = case.targets.to(DEVICE)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()

    errors, _ = row_terms(query, key, case.scaling, None, targets, case.pattern_of_head, form)
    errors.sum().backward()

    # The gradients alone are 3 MiB; one matrix of scores would be 16, all six 96.
    assert torch.cuda.max_memory_allocated() - before < 12 << 20


if IS_PROGRAM:
    compile_kernels()
