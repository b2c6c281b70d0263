"""Tokenizer and batches: text survives, targets are the next tokens, order is repeatable."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shoal.train.config import TokenizerChoice
from shoal.train.network import Llama
from shoal.train.packing import IGNORED, epoch_batches, pad, tokenize_documents
from shoal.train.pieces import Document, plain, request_and_answer
from shoal.train.tokenizer import CONTROL_TOKENS, train_tokenizer
from tests.train.builders import TINY, make_documents, make_stories, make_tokenizer

TOKENIZERS = {
    style: train_tokenizer(make_stories(), TokenizerChoice(320, style))  # type: ignore[arg-type]
    for style in ("prose", "fields")
}


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_every_text_survives_encoding(text: str) -> None:
    for tokenizer in TOKENIZERS.values():
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if not any(token in text for token in CONTROL_TOKENS):
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_control_tokens_have_the_first_ids() -> None:
    tokenizer = make_tokenizer()
    assert [tokenizer.token_to_id(token) for token in CONTROL_TOKENS] == [0, 1, 2, 3, 4]


def test_targets_are_the_next_tokens_and_prompts_are_outside_the_loss() -> None:
    tokenizer = make_tokenizer()
    document = Document([request_and_answer("Tell me.", "Tom ran.")], 1.0)
    (row,) = tokenize_documents([document], tokenizer, 64)[0].variants[0]
    batch = pad([row, row._replace(ids=row.ids[:4], loss_mask=row.loss_mask[:4])])
    assert batch.inputs[0, 0] == 0
    assert (batch.targets[0, :-1] == batch.inputs[0, 1:]).all()
    assert (batch.targets[1, 3:] == IGNORED).all()
    written = batch.targets[0][batch.loss_mask[0]]
    assert tokenizer.decode(written.tolist(), skip_special_tokens=False) == "Tom ran.<|end|>"


def test_long_documents_are_cut_without_losing_a_target() -> None:
    tokenizer = make_tokenizer()
    document = Document([plain(" ".join(make_stories()))], 1.0)
    (whole,) = tokenize_documents([document], tokenizer, 100_000)[0].variants[0]
    rows = tokenize_documents([document], tokenizer, 32)[0].variants[0]
    assert max(len(row.ids) for row in rows) == 33
    assert np.concatenate([row.ids[1:] for row in rows]).tolist() == whole.ids[1:].tolist()


def test_an_epoch_reads_each_document_as_often_as_asked_within_the_budget() -> None:
    tokenizer = make_tokenizer()
    documents = [
        Document(document.variants, repeat)
        for document, repeat in zip(make_documents(), [0.0, 1.0, 2.0] * 16, strict=True)
    ]
    packed = tokenize_documents(documents, tokenizer, 64)
    batches = epoch_batches(packed, 400, seed=1, epoch=0)
    assert sum(len(batch) for batch in batches) == 16 + 32
    assert all(pad(batch).inputs.size <= 400 for batch in batches)


def test_same_seed_and_epoch_give_the_same_batches_and_others_do_not() -> None:
    packed = tokenize_documents(make_documents(), make_tokenizer(), 64)

    def ids(seed: int, epoch: int) -> list[list[int]]:
        return [
            row.ids.tolist() for batch in epoch_batches(packed, 400, seed, epoch) for row in batch
        ]

    assert ids(1, 0) == ids(1, 0)
    assert ids(1, 0) != ids(1, 1)
    assert ids(1, 0) != ids(2, 0)


def test_padding_changes_no_loss() -> None:
    network = Llama(TINY, 320)
    network.initialize(seed=1)
    with torch.no_grad():
        network.model.embed_tokens.weight.mul_(10)
    packed = tokenize_documents(make_documents()[:2], make_tokenizer(), 64)
    short, long = packed[0].variants[0][0], packed[1].variants[1][0]

    def losses(*rows: object) -> torch.Tensor:
        batch = pad(list(rows))  # type: ignore[arg-type]
        return network.losses(torch.from_numpy(batch.inputs), torch.from_numpy(batch.targets))

    alone = torch.cat((losses(short), losses(long)))
    assert losses(short, long).tolist() == pytest.approx(alone.tolist(), abs=1e-5)
