"""Words are cut alike after a blank and after a quotation mark; the wired circuit copies them."""

import torch

from shoal.train.config import ModelShape, TokenizerChoice
from shoal.train.copying import wire_copying
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


def test_an_unwired_network_does_not():
    network = Llama(ModelShape(num_layers=2), 500)
    network.initialize(1)
    network.eval()
    ids = torch.randperm(500, generator=torch.Generator().manual_seed(3))[:40]
    with torch.no_grad():
        logits = network(torch.cat((ids, ids))[None])[0]
    assert (logits[40:79].argmax(dim=-1) == ids[1:]).float().mean() < 0.1
