"""Every architecture of GGUF that is read: `general.architecture` -> what it is."""

from collections.abc import Mapping

from shoal.checkpoint.gguf_bert import BERT_ARCHITECTURES
from shoal.checkpoint.gguf_config import GgufArchitecture
from shoal.checkpoint.gguf_gpt import GPT_ARCHITECTURES
from shoal.checkpoint.gguf_llama import LLAMA_ARCHITECTURES

GGUF_ARCHITECTURES: Mapping[str, GgufArchitecture] = {
    **LLAMA_ARCHITECTURES,
    **GPT_ARCHITECTURES,
    **BERT_ARCHITECTURES,
}
