"""Encoders of GGUF: architecture bert, which BERT, RoBERTa and DistilBERT become. Rows of the
position table that no token has are cut off by the converter, so all of them read as BERT."""

from collections.abc import Mapping

from shoal.checkpoint.files import EmbeddingFiles, Pooling
from shoal.checkpoint.gguf_config import (
    LAYER_NORM_EPS,
    Config,
    GgufArchitecture,
    plain_head_dim,
    read_decoder,
    refuse_grouped_heads,
    with_class,
)
from shoal.checkpoint.gguf_keys import GgufKeys
from shoal.checkpoint.gguf_tensors import TensorNames

_POOLING: Mapping[int, Pooling] = {1: "mean", 2: "first", 3: "last"}


def read_embedding(keys: GgufKeys, file: str) -> EmbeddingFiles | None:
    """Of any architecture; None where the file says nothing of it. The format does not say whether
    vectors are normalized: they are, as by llama.cpp. Raises ModelFolderError."""
    kind = keys.count("pooling_type", 0)
    if kind == 0:
        return None
    rule = "be 0 (none), 1 (mean), 2 (first token) or 3 (last token)"
    keys.require(kind in _POOLING, "pooling_type", rule)
    return EmbeddingFiles(_POOLING[kind], normalized=True, where=file)


def _bert(keys: GgufKeys) -> Config:
    plain_head_dim(keys)
    refuse_grouped_heads(keys)
    keys.require(not keys.flag("attention.causal", True), "attention.causal", "be false")
    types = "token_types.weight"
    config = {
        **read_decoder(keys),
        "layer_norm_eps": keys.number(LAYER_NORM_EPS),
        "hidden_act": "gelu",
        "type_vocab_size": keys.tensor(types).shape[0] if keys.has_tensor(types) else 0,
    }
    return with_class("BertModel", "bert", config)


BERT_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    "bert": GgufArchitecture(
        _bert,
        TensorNames(
            {
                "token_embd": "bert.embeddings.word_embeddings",
                "token_types": "bert.embeddings.token_type_embeddings",
                "position_embd": "bert.embeddings.position_embeddings",
                "token_embd_norm": "bert.embeddings.LayerNorm",
            },
            "bert.encoder.layer.{layer}.",
            {
                "attn_q": "attention.self.query",
                "attn_k": "attention.self.key",
                "attn_v": "attention.self.value",
                "attn_output": "attention.output.dense",
                "attn_output_norm": "attention.output.LayerNorm",
                "ffn_up": "intermediate.dense",
                "ffn_down": "output.dense",
                "layer_output_norm": "output.LayerNorm",
            },
        ),
    ),
}
