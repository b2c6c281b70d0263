"""The grammar of a row that comes to a runner, and what its sequence is likely to say first."""

from shoal.protocol.params import SamplingParams
from shoal.protocol.step import NewRow
from shoal.sampling.expecting import Expecting
from shoal.sampling.grammars import Grammars
from shoal.sampling.processors.grammar import Grammar


def build(
    new: NewRow, num_token_ids: int, grammars: Grammars | None, *, rejects: bool
) -> Grammar | None:
    """None where any text may come. Forced tokens are sampled one by one where something is
    reported of each token. `rejects`: are tokens drawn before the grammar is asked?"""
    text = new.sampling.grammar
    if text is None:
        return None
    assert grammars is not None, "the engine asked whether the model has grammars"
    memory = grammars.memory(text, new.shares_with)
    return Grammar(
        grammars.matcher(new.sampling.copy_text, memory),
        new.stop.end_token_ids,
        num_token_ids,
        takes=new.output.logprobs is None and new.output.trace is None,
        rejects=rejects,
        ambiguous_ids=grammars.ambiguous_ids,
        free_text=grammars.compiled(text).free_text,
        memory=memory if grammars.learns else None,
    )


def expected_at_start(
    sampling: SamplingParams,
    shares_with: str | None,
    num_token_ids: int,
    grammars: Grammars,
    most: int,
) -> list[int]:
    """What a sequence is likely to say first, at most so many tokens."""
    assert sampling.grammar is not None, "without a grammar nothing is expected"
    if not grammars.learns:
        return []
    memory = grammars.memory(sampling.grammar, shares_with)
    expecting = Expecting(memory, num_token_ids)
    return expecting.expected(grammars.matcher(sampling.copy_text, memory), most)
