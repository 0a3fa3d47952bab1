"""Whether padding changes what a model makes of the tokens before it."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

_NUM_PADDING = 3
_TOLERANCE = 1e-3  # of the largest hidden state


@torch.no_grad()
def depends_on_padding(model: PreTrainedModel, token_ids: Sequence[int], pad_id: int) -> bool:
    """Compare the hidden states of a short text alone and with padding behind it.

    They differ in models that mix all positions whatever the attention mask says (FNet), or that pool
    neighbouring positions (Funnel).

    Args:
        model: of any family, in evaluation mode, with or without a head.
        token_ids: of the text.
        pad_id: any token; the attention mask is 0 there.
    """
    length = len(token_ids)
    alone = torch.tensor([token_ids], device=model.device)
    padded = torch.nn.functional.pad(alone, (0, _NUM_PADDING), value=pad_id)
    is_real = (torch.arange(length + _NUM_PADDING, device=model.device) < length).long()[None]
    states = [
        model.base_model(input_ids=ids, attention_mask=is_real[:, : ids.shape[1]]).last_hidden_state[
            :, :length
        ]
        for ids in (alone, padded)
    ]
    if states[0].shape != states[1].shape:
        return True
    if not bool(states[0].isfinite().all()):  # of a training that diverged, which its scores tell
        return False
    difference = (states[0] - states[1]).abs().max()
    return not bool(difference <= _TOLERANCE * states[0].abs().max().clamp(min=1.0))
