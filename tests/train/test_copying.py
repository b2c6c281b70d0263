"""Words are cut alike after a blank and after a quotation mark; the wired circuit copies them."""

import torch

from shoal.train.config import ModelShape, TokenizerChoice
from shoal.train.copying import wire_copying
from shoal.train.lora import merged_weights
from shoal.train.network import Llama
from shoal.train.tokenizer import train_tokenizer, twins

_TEXTS = [
    "play Porter Wagoner by the river",
    "add Wagoner Street to my Porter list",
    "please book a table at Streetlight for 7 people",
    '{"intent":"PlayMusic","slots":{"artist":"Porter Wagoner"}}',
    '{"intent":"AddToPlaylist","slots":{"entity_name":"Wagoner Street"}}',
]


def fields_tokenizer():
    return train_tokenizer(_TEXTS * 3, TokenizerChoice(vocab_size=420, style="fields"))


def test_a_value_is_the_same_tokens_in_request_and_answer_but_for_the_first_blank():
    tokenizer = fields_tokenizer()
    pairs = twins(tokenizer)
    for value in ("Porter Wagoner", "Wagonette Streetport", "river 42 list", "Zoë"):
        asked = tokenizer.encode(f"play {value}", add_special_tokens=False).ids
        answer = tokenizer.encode(f'{{"artist":"{value}"}}', add_special_tokens=False).ids
        quoted = tokenizer.encode(value, add_special_tokens=False).ids
        said = asked[-len(quoted) :]
        assert said[1:] == quoted[1:]
        assert pairs[said[0]] == quoted[0]
        assert any(answer[i : i + len(quoted)] == quoted for i in range(len(answer)))


def test_any_text_survives_the_fields_tokenizer():
    tokenizer = fields_tokenizer()
    for text in (*_TEXTS, "  two  blanks\n\tand a tab ", "naïve Übung 東京 🐟", '":"," {"}}'):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_the_vocabulary_keeps_its_size():
    assert fields_tokenizer().get_vocab_size() == 420


def test_a_wired_network_repeats_what_followed_the_newest_token():
    network = Llama(ModelShape(num_layers=2), 500)
    network.initialize(1)
    wire_copying(network, seed=2)
    network.eval()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():
        logits = network(torch.cat((ids, ids))[None])[0]
    guesses = logits[40:79].argmax(dim=-1)  # in the second reading everything stood before
    assert (guesses == ids[1:]).float().mean() > 0.9


def test_a_wired_network_knows_a_word_after_a_blank_as_the_same_word():
    twins_of = {spaced: spaced - 250 for spaced in range(250, 500)}
    network = Llama(ModelShape(num_layers=2), 500, twins=twins_of)
    network.initialize(1)
    wire_copying(network, seed=2)
    network.eval()
    bare = torch.randperm(250, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():  # said with blanks, then repeated without
        logits = network(torch.cat((bare + 250, bare))[None])[0, :, :250]
    guesses = logits[40:79].argmax(dim=-1)
    assert (guesses == bare[1:]).float().mean() > 0.9


def test_the_loss_over_words_is_the_loss_over_tokens():
    twins_of = {7: 2, 9: 3, 8: 5}
    network = Llama(ModelShape(hidden_size=64, num_heads=1, num_kv_heads=1), 12, twins=twins_of)
    network.initialize(1)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(4)))
    ids = torch.arange(12)[None]
    targets = torch.tensor([[7, 2, 0, 9, 3, 8, 5, 11, 10, -1, 1, 4]])
    found = network.losses(ids, targets)
    expected = torch.nn.functional.cross_entropy(
        network(ids)[targets >= 0], targets[targets >= 0], reduction="none"
    )
    torch.testing.assert_close(found, expected)
    plain = Llama(network.shape, 12)
    plain.load_state_dict(merged_weights(network))
    torch.testing.assert_close(plain.losses(ids, targets), expected)


def test_an_unwired_network_does_not():
    network = Llama(ModelShape(num_layers=2), 500)
    network.initialize(1)
    network.eval()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():
        logits = network(torch.cat((ids, ids))[None])[0]
    assert (logits[40:79].argmax(dim=-1) == ids[1:]).float().mean() < 0.1
