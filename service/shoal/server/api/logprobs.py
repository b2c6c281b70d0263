"""Log-probabilities of output text as the newer chat APIs show them: bytes are always an array."""

from collections.abc import Sequence
from typing import Any

from shoal.protocol.messages import TokenLogprobs
from shoal.server.api.generation.serialize import float32_value
from shoal.text.tokenizer import Tokenizer


def logprob_entries(
    tokenizer: Tokenizer, logprobs: Sequence[TokenLogprobs]
) -> list[dict[str, Any]]:
    return [
        {
            **_token(tokenizer, entry.token_id, entry.logprob),
            "top_logprobs": [
                _token(tokenizer, token_id, logprob)
                for token_id, logprob in zip(entry.top_ids, entry.top_logprobs, strict=True)
            ],
        }
        for entry in logprobs
    ]


def _token(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    special = token_id in tokenizer.special_ids
    return {
        "token": tokenizer.token_name(token_id),
        "bytes": [] if special else list(tokenizer.bytes_of(token_id)),
        "logprob": float32_value(logprob),
    }
