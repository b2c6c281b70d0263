"""RoBERTa and XLM-RoBERTa: BERT whose positions begin at the row behind the padding token's id."""

from shoal.checkpoint.fields import Fields
from shoal.model.architectures.base import Architecture, TensorSource
from shoal.model.architectures.bert import encoder_tensors, read_encoder, refuse_decoder
from shoal.model.spec import DecoderSpec

_PAD_TOKEN_ID = 1


def read(config: Fields, max_model_len: int | None) -> DecoderSpec:
    refuse_decoder(config)
    pad_token_id = config.count("pad_token_id", _PAD_TOKEN_ID)
    rule = f"be {_PAD_TOKEN_ID}: positions of published models begin behind it"
    config.require(pad_token_id == _PAD_TOKEN_ID, "pad_token_id", rule)
    rows = config.size("max_position_embeddings", 512)
    config.require(rows > first_row(), "max_position_embeddings", f"be above {first_row()}")
    return read_encoder(
        config,
        max_position_embeddings=rows - first_row(),
        eps=config.number("layer_norm_eps", 1e-12),
        num_token_types=config.size("type_vocab_size", 2),
    )


def first_row() -> int:
    """Of the position table, that a text's first token has."""
    return _PAD_TOKEN_ID + 1


def _architecture(model_type: str) -> Architecture:
    return Architecture(
        model_type=model_type,
        read=read,
        tensors={
            **encoder_tensors("roberta."),
            "roberta.embeddings.position_embeddings.weight": TensorSource(
                ("position_embedding",), first_row=first_row()
            ),
        },
        prefix="roberta.",
        optional_keys={},
        unused=("pooler.", "lm_head."),
    )


ROBERTA = _architecture("roberta")
XLM_ROBERTA = _architecture("xlm-roberta")
