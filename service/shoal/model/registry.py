"""Class name of a config -> family, and the config read into a spec.

Every key is accounted for: it is used, or refused by name because it would change the results, or
known to be irrelevant here. The names of all others are returned, for one line in the log.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NamedTuple

from shoal.checkpoint.fields import Fields
from shoal.model.architectures import (
    bert,
    bloom,
    cohere,
    cohere2,
    distilbert,
    ernie4_5,
    falcon,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    gpt_neo,
    gpt_neox,
    gptj,
    granite,
    granitemoe,
    hunyuan_v1_dense,
    lfm2,
    llama,
    mistral,
    mixtral,
    modernbert,
    mpt,
    nanochat,
    olmo,
    olmo2,
    olmo3,
    olmoe,
    opt,
    phi,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    roberta,
    smollm3,
    stablelm,
    starcoder2,
)
from shoal.model.architectures.base import Architecture, Neutral, only
from shoal.model.spec import DecoderSpec

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": llama.ARCHITECTURE,
    "MistralForCausalLM": mistral.ARCHITECTURE,
    "Qwen2ForCausalLM": qwen2.ARCHITECTURE,
    "Qwen3ForCausalLM": qwen3.ARCHITECTURE,
    "GPT2LMHeadModel": gpt2.ARCHITECTURE,
    "GPT2Model": gpt2.ARCHITECTURE,
    "PhiForCausalLM": phi.ARCHITECTURE,
    "GPTNeoXForCausalLM": gpt_neox.ARCHITECTURE,
    "GPTNeoForCausalLM": gpt_neo.ARCHITECTURE,
    "GPTJForCausalLM": gptj.ARCHITECTURE,
    "OPTForCausalLM": opt.ARCHITECTURE,
    "BloomForCausalLM": bloom.ARCHITECTURE,
    "FalconForCausalLM": falcon.ARCHITECTURE,
    "MptForCausalLM": mpt.ARCHITECTURE,
    "MPTForCausalLM": mpt.ARCHITECTURE,
    "OlmoForCausalLM": olmo.ARCHITECTURE,
    "Olmo2ForCausalLM": olmo2.ARCHITECTURE,
    "Olmo3ForCausalLM": olmo3.ARCHITECTURE,
    "Starcoder2ForCausalLM": starcoder2.ARCHITECTURE,
    "Phi3ForCausalLM": phi3.ARCHITECTURE,
    "GemmaForCausalLM": gemma.ARCHITECTURE,
    "Gemma2ForCausalLM": gemma2.ARCHITECTURE,
    "Gemma3ForCausalLM": gemma3.ARCHITECTURE,
    "Gemma3TextModel": gemma3.ARCHITECTURE,
    "SmolLM3ForCausalLM": smollm3.ARCHITECTURE,
    "GraniteForCausalLM": granite.ARCHITECTURE,
    "CohereForCausalLM": cohere.ARCHITECTURE,
    "Cohere2ForCausalLM": cohere2.ARCHITECTURE,
    "StableLmForCausalLM": stablelm.ARCHITECTURE,
    "Ernie4_5ForCausalLM": ernie4_5.ARCHITECTURE,
    "HunYuanDenseV1ForCausalLM": hunyuan_v1_dense.ARCHITECTURE,
    "NanoChatForCausalLM": nanochat.ARCHITECTURE,
    "Lfm2ForCausalLM": lfm2.ARCHITECTURE,
    "Qwen2MoeForCausalLM": qwen2_moe.ARCHITECTURE,
    "Qwen3MoeForCausalLM": qwen3_moe.ARCHITECTURE,
    "OlmoeForCausalLM": olmoe.ARCHITECTURE,
    "GraniteMoeForCausalLM": granitemoe.ARCHITECTURE,
    "MixtralForCausalLM": mixtral.ARCHITECTURE,
    "BertModel": bert.ARCHITECTURE,
    "BertForMaskedLM": bert.ARCHITECTURE,
    "BertForPreTraining": bert.ARCHITECTURE,
    "RobertaModel": roberta.ROBERTA,
    "RobertaForMaskedLM": roberta.ROBERTA,
    "XLMRobertaModel": roberta.XLM_ROBERTA,
    "XLMRobertaForMaskedLM": roberta.XLM_ROBERTA,
    "DistilBertModel": distilbert.ARCHITECTURE,
    "DistilBertForMaskedLM": distilbert.ARCHITECTURE,
    "LlamaModel": llama.ARCHITECTURE,
    "MistralModel": mistral.ARCHITECTURE,
    "Qwen2Model": qwen2.ARCHITECTURE,
    "Qwen3Model": qwen3.ARCHITECTURE,
    "ModernBertModel": modernbert.ARCHITECTURE,
    "ModernBertForMaskedLM": modernbert.ARCHITECTURE,
}
"""`architectures` of a config -> family."""
_WITHOUT_HEAD = frozenset({"LlamaModel", "MistralModel", "Qwen2Model", "Qwen3Model"})
"""Decoders of which only the final vectors are wanted. Others of such names (GPT2Model) were
published as text generators, whose head is the embedding."""

_OPTIONAL_KEYS: Mapping[str, Neutral] = {
    "is_encoder_decoder": only(False),
    "per_layer_config": only({}),
    "pruned_heads": only({}),
    "rope_interleaved": only(False),
    "use_bidirectional_attention": only(False),
    **{key: rule for each in ARCHITECTURES.values() for key, rule in each.optional_keys.items()},
}
"""Keys that change the results of some network; a family that does not read one refuses it."""

_WITHOUT_EFFECT = re.compile(
    r"""architectures | auto_map | (_?)name_or_path | transformers_version | prefix
    | (torch_)?dtype | use_bfloat16 | torchscript | chunk_size_feed_forward | is_decoder
    | (bos|cls|eos|eod|pad|sep|decoder_start|forced_bos|forced_eos)_token_id | tokenizer_class
    | (attention|hidden|classifier|qa|seq_classif)_dropout | hidden_dropout_prob
    | attention_probs_dropout_prob | mlp_dropout | pooler_.* | decoder_bias
    | classifier_(activation|bias|pooling) | sparse_pred.* | deterministic_flash_attn
    | reference_compile | repad_logits_with_grad | initializer_cutoff_factor
    | (attn|emb|embd|resid)_pdrop
    | ((resid|residual|embed|embedding)_)?dropout | layerdrop | init_(std|device)
    | embedding_fraction | attn_impl | router_(aux_loss_coef|jitter_noise)
    | gradient_checkpointing | initializer_range | pretraining_tp | tie_encoder_decoder
    | use_cache | use_return_dict | return_dict(_in_generate)? | output_.* | n_ctx
    | cache_implementation
    | finetuning_task | id2label | label2id | num_labels | problem_type | task_specific_params
    | summary_(activation|first_dropout|proj_to_labels|type|use_proj)
    | temperature | top_[kp] | typical_p | repetition_penalty | do_sample | early_stopping
    | (max|min)_length | length_penalty | diversity_penalty | exponential_decay_length_penalty
    | num_beams | num_beam_groups | num_return_sequences | remove_invalid_values
    | (encoder_)?no_repeat_ngram_size | bad_words_ids | (begin_)?suppress_tokens""",
    re.VERBOSE,
)
"""Keys that do not change logits: token ids and generation defaults (the text side reads them),
training, what a Python call returns. transformers ignores them here, too."""


class ModelDescription(NamedTuple):
    """What a config describes."""

    architecture: Architecture
    spec: DecoderSpec
    unused_keys: list[str]
    """Keys of the config that are unknown here and have no effect."""


def read_model(
    config: Mapping[str, Any], config_file: str, max_model_len: int | None = None
) -> ModelDescription:
    """`config_file`: for errors; `max_model_len`: longest sequence that will be served, None for
    the model's own. Raises ModelFolderError that names file, key and value."""
    fields = Fields(config, config_file)
    architecture = _find_architecture(fields)
    model_type = fields.get("model_type")
    is_same = model_type in (None, architecture.model_type)
    rule = f"be {architecture.model_type!r} as `architectures` says"
    fields.require(is_same, "model_type", rule)
    spec = architecture.read(fields, max_model_len)
    if config["architectures"][0] in _WITHOUT_HEAD:
        spec = replace(spec, has_head=False, tied_head=False)
    unused: list[str] = []
    for key, value in fields.unread().items():
        if key in _OPTIONAL_KEYS:
            rule = f"be left out: {architecture.model_type} does not have it"
            fields.require(_OPTIONAL_KEYS[key](value, fields), key, rule)
        elif not _WITHOUT_EFFECT.fullmatch(key.rpartition(".")[2]):
            unused.append(key)
    return ModelDescription(architecture, spec, unused)


def _find_architecture(fields: Fields) -> Architecture:
    names = fields.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    if not isinstance(name, str) or name not in ARCHITECTURES:
        nearest = ", ".join(get_close_matches(str(name)[:80], ARCHITECTURES, n=3, cutoff=0))
        rule = f"begin with one of {len(ARCHITECTURES)} known classes, such as {nearest}"
        fields.require(False, "architectures", rule)
    return ARCHITECTURES[str(name)]
