"""Which token has which role in a tokenizer directory.

A role's token is the first of

    1. what tokenizer_config.json names
    2. what special_tokens_map.json names
    3. what tokenizer.json does: the frame that its post-processor puts around a text, its padding, the
       unknown token of its model
    4. a conventional name, if the vocabulary has exactly one of them; this is what a tokenizer class implies
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

from tokenizers import Tokenizer

Role = Literal["bos", "pad", "eos", "unk", "mask", "cls", "sep"]
ROLES: tuple[Role, ...] = get_args(Role)
CONVENTIONAL: dict[Role, tuple[str, ...]] = {
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "unk": ("[UNK]", "<unk>"),
}


def named_tokens(config: Mapping[str, Any]) -> dict[Role, str]:
    """The tokens that tokenizer_config.json or special_tokens_map.json names, as text or as object.

    Raises:
        ValueError: A value is neither; the message says which.
    """
    named: dict[Role, str] = {}
    for role in ROLES:
        value = config.get(f"{role}_token")
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            named[role] = content
        elif value is not None:
            raise ValueError(f'{role}_token is {value!r}; write a token, for example "{role}_token": "[X]"')
    return named


def mark_special(description: dict[str, Any], tokens: Iterable[str]) -> bool:
    """Make these added tokens special, as transformers does with every token that has a role.

    Otherwise they would be found in texts.

    Args:
        description: Content of a tokenizer.json, changed in place.
        tokens: Those with a role.

    Returns:
        Whether something was changed.
    """
    wanted = set(tokens)
    changed = [
        token
        for token in description.get("added_tokens") or []
        if token["content"] in wanted and not token["special"]
    ]
    for token in changed:
        token["special"] = True
    return bool(changed)


def implied_tokens(tokenizer: Tokenizer, description: Mapping[str, Any]) -> dict[Role, str]:
    """The tokens that can be told without their being named.

    Args:
        tokenizer: The opened tokenizer.json.
        description: Its content.
    """
    told: dict[Role, str | None] = {
        **_frame(tokenizer),
        "pad": (description.get("padding") or {}).get("pad_token"),
        "unk": _unknown_token(description["model"]),
    }
    implied: dict[Role, str] = {}
    for role, names in CONVENTIONAL.items():
        present = [name for name in names if tokenizer.token_to_id(name) is not None]
        token = told.get(role)
        if token is not None and tokenizer.token_to_id(token) is not None:
            implied[role] = token
        elif len(present) == 1:
            implied[role] = present[0]
    return implied


def _frame(tokenizer: Tokenizer) -> dict[Role, str | None]:
    """The tokens that a text gets in front and at its end, if it is one each."""
    encoding = tokenizer.encode("a")
    is_special = encoding.special_tokens_mask
    if len(is_special) < 2 or not (is_special[0] and is_special[-1]) or any(is_special[1:-1]):
        return {}
    return {"cls": encoding.tokens[0], "sep": encoding.tokens[-1]}


def _unknown_token(model: Mapping[str, Any]) -> str | None:
    if isinstance(model.get("unk_id"), int):  # Unigram
        return model["vocab"][model["unk_id"]][0]
    return model.get("unk_token")
