"""What a forward pass keeps for the backward pass, predicted: arithmetic over sizes, without tensors.

The forward passes are those of transformers 5, what is kept for the backward pass is what torch's autograd
formulas ask for; a test counts it in real models. Letters: see memory.py.
"""

from pipeline.encoder.linear_cross_entropy import chunk_rows
from pipeline.planning.sizes import Sizes

# The guidance loss works on about four float32 blocks of 2^20 scores.
_GUIDANCE_BLOCK_BYTES = 4 * (1 << 20) * 4


def kept_bytes_of_layer(sizes: Sizes) -> int:
    """What a layer keeps for the backward pass.

    Post-norm (bert, roberta): query, key, value and result of the attention; sum before and result of each of
    two norms; before and after the activation. ModernBERT: query, key and value in one, rotated query and
    key, the attention's result, inputs and results of two norms; the gated feed-forward's four. Dropout keeps
    its mask, on CPU in the model's type. Attention on CPU with dropout is not fused: its probabilities, mask
    and product are kept instead, in float32.
    """
    inner, norms_and_result = (4, 5) if sizes.family == "modernbert" else (2, 5)
    fused = 5 if sizes.family == "modernbert" else 3
    per_token = sizes.value_bytes * (norms_and_result * sizes.hidden + inner * sizes.inner)
    if sizes.spells_attention_out:
        per_token += 4 * 3 * (sizes.hidden + sizes.length * sizes.num_heads)
    else:
        per_token += sizes.value_bytes * fused * sizes.hidden + 4 * sizes.num_heads
    return sizes.tokens * (per_token + _dropout_bytes(sizes))


def activation_bytes(sizes: Sizes) -> int:
    """What embeddings and layers keep for the backward pass; layers that are recomputed, their input."""
    masks = 1 if sizes.on_cuda else sizes.value_bytes
    embeddings = sizes.tokens * sizes.hidden * (2 * sizes.value_bytes + (masks if sizes.dropout else 0))
    if sizes.recomputes:
        return embeddings + sizes.num_layers * sizes.tokens * sizes.hidden * sizes.value_bytes
    return embeddings + sizes.num_layers * kept_bytes_of_layer(sizes) + _mask_bytes(sizes)


def head_kept_bytes(sizes: Sizes) -> int:
    """What the prediction head keeps: gradients of its weight and inputs, and four values per prediction."""
    predicted = sizes.rows * sizes.predictions
    return sizes.value_bytes * (sizes.vocabulary * (sizes.hidden + 1) + 5 * predicted * sizes.hidden)


def head_passing_bytes(sizes: Sizes) -> int:
    """What the output layer needs beside: the logits of a chunk, and its weight's gradient in float32.

    Of one chunk logits and log-probabilities; while a second is made those of the first are still there.
    """
    predicted = sizes.rows * sizes.predictions
    chunk = min(predicted, chunk_rows(sizes.vocabulary, "cuda" if sizes.on_cuda else "cpu"))
    values = chunk * sizes.vocabulary * (12 if chunk < predicted else 8)
    sums = (4 + sizes.value_bytes) * sizes.vocabulary * sizes.hidden if sizes.is_mixed else 0
    return values + sums


def guidance_bytes(sizes: Sizes) -> int:
    """What a micro-batch keeps and needs for guidance while all guided layers are looked at."""
    if sizes.adds_bias:  # one dense mask per layer, kept for the backward pass
        return sizes.guided_layers * sizes.tokens * sizes.num_heads * sizes.length * sizes.value_bytes
    if not sizes.guided_heads:
        return 0
    # Kept: 5 numbers of 4 bytes and a flag per row; query and key, unless the attention keeps them itself.
    kept = sizes.guided_heads * sizes.tokens * 21
    if sizes.spells_attention_out:
        kept += sizes.guided_layers * sizes.tokens * 2 * sizes.hidden * sizes.value_bytes
    head_size = sizes.hidden // sizes.num_heads
    gradients = 2 * sizes.most_guided_heads * sizes.tokens * head_size * 4
    return kept + _GUIDANCE_BLOCK_BYTES + gradients


def _dropout_bytes(sizes: Sizes) -> int:
    """Masks of a layer, per token."""
    masks = 1 if sizes.on_cuda else sizes.value_bytes
    if sizes.family == "modernbert":
        after_attention = sizes.hidden if sizes.attention_dropout else 0
        return masks * (after_attention + (sizes.inner if sizes.dropout else 0))
    return masks * (2 * sizes.hidden if sizes.dropout else 0)


def _mask_bytes(sizes: Sizes) -> int:
    """Attention masks that fused attention keeps: of local layers, and of all where all have one."""
    if sizes.spells_attention_out:
        return 0
    masked = sizes.num_layers if sizes.has_mask else sizes.local_layers
    return masked * sizes.tokens * sizes.length * sizes.value_bytes
