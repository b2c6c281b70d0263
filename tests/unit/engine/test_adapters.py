"""Adapters in the engine: blocks of one are never another's, and one that is to go waits for its
sequences."""

import pytest

from shoal.errors import ModelFolderError
from shoal.protocol.messages import AdapterSource, AdapterUnloaded
from shoal.protocol.params import SamplingParams
from tests.fakes.fake_runner import solo_output
from tests.unit.engine.building import Engine, make_submit

PROMPT = list(range(1, 22))
GREEDY = {"temperature": 0.0, "max_tokens": 6}


def source(adapter_id: int, path: str = "a", model: str = "fake") -> AdapterSource:
    return AdapterSource(f"adapter-{adapter_id}", model, path, adapter_id)


def expected(adapter_id: int, prompt: list[int] = PROMPT) -> list[int]:
    return solo_output(prompt, 6, SamplingParams(seed=0, temperature=0.0), adapter_id=adapter_id)


def engine_with(*adapter_ids: int) -> Engine:
    engine = Engine()
    for adapter_id in adapter_ids:
        engine.core.load_adapter(source(adapter_id))
    return engine


def test_cached_blocks_are_not_shared_between_adapters() -> None:
    engine = engine_with(1, 2)
    for seq_id, adapter_id in enumerate((0, 1, 2, 1, 0, 2), 1):
        heard = engine.run(make_submit(seq_id, PROMPT, adapter_id=adapter_id, **GREEDY))
        assert heard.tokens[seq_id] == expected(adapter_id)
        is_first = seq_id <= 3
        assert heard.started[seq_id].num_cached_tokens == (0 if is_first else 20)


def test_a_salt_that_looks_like_another_adapters_is_not_it() -> None:
    engine = engine_with(1, 11)
    salts = ((1, ""), (0, "1 "), (1, "1 "), (11, ""), (0, "1"), (1, "1"), (0, ""))
    for seq_id, (adapter_id, salt) in enumerate(salts, 1):
        submit = make_submit(seq_id, PROMPT, adapter_id=adapter_id, cache_salt=salt, **GREEDY)
        assert engine.run(submit).started[seq_id].num_cached_tokens == 0


def test_rows_of_all_adapters_step_together() -> None:
    engine = Engine(num_blocks=256)
    for adapter_id in (1, 2, 3):
        engine.core.load_adapter(source(adapter_id))
    submits = [make_submit(i, [i % 3, *PROMPT], adapter_id=i % 4, **GREEDY) for i in range(1, 17)]
    heard = engine.run(*submits)
    assert max(frame.batch_size for frame in heard.frames) == 16
    for i in range(1, 17):
        assert heard.tokens[i] == expected(i % 4, [i % 3, *PROMPT])


def test_a_preempted_sequence_keeps_its_adapter() -> None:
    engine = Engine(num_blocks=14)
    engine.core.load_adapter(source(1))
    submits = [
        make_submit(i, [i, *PROMPT], 20, temperature=0.0, adapter_id=i % 2) for i in range(1, 5)
    ]
    heard = engine.run(*submits)
    assert engine.core.stats()[0].num_preemptions > 0
    for i in range(1, 5):
        sampling = SamplingParams(seed=0, temperature=0.0)
        assert heard.tokens[i] == solo_output([i, *PROMPT], 20, sampling, adapter_id=i % 2)


def test_an_adapter_goes_when_its_last_sequence_is_over() -> None:
    engine = engine_with(1, 2)
    engine.add(
        make_submit(1, PROMPT, adapter_id=1, **GREEDY),
        make_submit(2, PROMPT, adapter_id=2, **GREEDY),
    )
    engine.step()
    engine.core.unload_adapter(1)
    assert engine.core.take_unloaded() == []
    assert set(engine.runner.adapters) == {1, 2}
    heard = engine.run(make_submit(3, PROMPT, adapter_id=1, **GREEDY))
    assert heard.tokens[1] == expected(1)
    assert heard.finished[3].error_code == "model_not_found"
    assert engine.core.take_unloaded() == [AdapterUnloaded(1)]
    assert set(engine.runner.adapters) == {2}
    assert engine.core.take_unloaded() == []
    assert engine.run(make_submit(4, PROMPT, adapter_id=2, **GREEDY)).tokens[4] == expected(2)


def test_an_abort_lets_it_go_too_and_a_new_id_finds_no_old_blocks() -> None:
    engine = engine_with(1)
    engine.add(make_submit(1, PROMPT, adapter_id=1, **GREEDY))
    engine.step()
    engine.core.unload_adapter(1)
    engine.core.abort([1])
    assert engine.core.take_unloaded() == [AdapterUnloaded(1)]
    engine.core.load_adapter(source(2))
    heard = engine.run(make_submit(2, PROMPT, adapter_id=2, **GREEDY))
    assert heard.started[2].num_cached_tokens == 0
    assert heard.tokens[2] == expected(2)


def test_what_is_not_loaded_is_refused() -> None:
    engine = Engine(models=("fake", "other"))
    engine.core.load_adapter(source(1))
    for seq_id, (model, adapter_id) in enumerate((("fake", 2), ("other", 1), ("fake", -1)), 1):
        submit = make_submit(seq_id, PROMPT, model=model, adapter_id=adapter_id, **GREEDY)
        assert engine.run(submit).finished[seq_id].error_code == "model_not_found"
    with pytest.raises(ModelFolderError, match="its base model nobody is not served"):
        engine.core.load_adapter(source(3, model="nobody"))
    with pytest.raises(ModelFolderError, match="belongs to another base"):
        engine.core.load_adapter(source(3, path="broken"))
    engine.core.unload_adapter(77)
    assert engine.core.take_unloaded() == [AdapterUnloaded(77)]
