"""The tokenizer style "fields": words are split alike after a space and after a quotation mark, and
such twins share a row of the embedding."""

import torch
from tokenizers import Tokenizer

from shoal.train.config import ModelShape, TokenizerChoice
from shoal.train.network import Llama, with_twins
from shoal.train.tokenizer import train_tokenizer, twins
from shoal.train.twin_embedding import TwinEmbedding, plain_weights
from tests.train.builders import TINY

_TEXTS = [
    "play Porter Wagoner by the river",
    "add Wagoner Street to my Porter list",
    "please book a table at Streetlight for 7 people",
    '{"intent":"PlayMusic","slots":{"artist":"Porter Wagoner"}}',
    '{"intent":"AddToPlaylist","slots":{"entity_name":"Wagoner Street"}}',
]


def fields_tokenizer() -> Tokenizer:
    return train_tokenizer(_TEXTS * 3, TokenizerChoice(vocab_size=420, style="fields"))


def test_a_value_is_the_same_tokens_in_request_and_answer_but_for_the_first_space() -> None:
    tokenizer = fields_tokenizer()
    pairs = twins(tokenizer)
    for value in ("Porter Wagoner", "Wagonette Streetport", "river 42 list", "Zoë"):
        asked = tokenizer.encode(f"play {value}", add_special_tokens=False).ids
        answer = tokenizer.encode(f'{{"artist":"{value}"}}', add_special_tokens=False).ids
        quoted = tokenizer.encode(value, add_special_tokens=False).ids
        in_request = asked[-len(quoted) :]
        assert in_request[1:] == quoted[1:]
        assert pairs[in_request[0]] == quoted[0]
        assert any(answer[i : i + len(quoted)] == quoted for i in range(len(answer)))


def test_any_text_survives_the_fields_tokenizer() -> None:
    tokenizer = fields_tokenizer()
    for text in (*_TEXTS, "  two  spaces\n\tand a tab ", "naïve Übung 東京 🐟", '":"," {"}}'):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_vocabulary_keeps_its_size() -> None:
    assert fields_tokenizer().get_vocab_size() == 420


def test_the_loss_over_shared_rows_is_the_loss_over_tokens() -> None:
    twins_of = {7: 2, 9: 3, 8: 5}
    network = Llama(ModelShape(hidden_size=64, num_heads=1, num_kv_heads=1), 12, twins=twins_of)
    network.initialize(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    ids = torch.arange(12)[None]
    targets = torch.tensor([[7, 2, 0, 9, 3, 8, 5, 11, 10, -1, 1, 4]])
    losses = network.losses(ids, targets)
    expected = torch.nn.functional.cross_entropy(
        network(ids)[targets >= 0], targets[targets >= 0], reduction="none"
    )
    torch.testing.assert_close(losses, expected)
    plain = Llama(network.shape, 12)
    plain.load_state_dict(plain_weights(network))
    torch.testing.assert_close(plain.losses(ids, targets), expected)


def test_a_plain_embedding_gets_its_twins_back_and_the_same_logits() -> None:
    pairs = {7: 2, 9: 3, 8: 5}
    shared = Llama(TINY, 12, twins=pairs)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in shared.parameters():
            weight.normal_(std=0.3)
    weights = shared.state_dict()
    embedding = shared.model.embed_tokens.weight.detach().clone()
    plain = Llama(TINY, 12)
    plain.load_state_dict(
        {name: weight for name, weight in weights.items() if "embed_tokens" not in name}
        | {"model.embed_tokens.weight": embedding}
    )
    again = with_twins(plain, pairs)
    assert isinstance(again.model.embed_tokens, TwinEmbedding)
    ids = torch.tensor([[1, 7, 2, 9, 3, 8, 5, 0]])
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(ids), shared.eval()(ids), atol=1e-5, rtol=1e-5)
    assert with_twins(plain, {}) is plain
