"""`run_training`: from a recipe or a user's own file to a Hugging Face folder.

The wiring of this package: corpora, tokenizer, packing, loop, export. Holds no training logic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from shoal.train.config import Recipe, RecipeError, Source, load_recipe
from shoal.train.corpora import Corpus, Document, read_corpus
from shoal.train.export import export_folder
from shoal.train.heldout import bits_per_byte
from shoal.train.loop import Progress, Trainer, Watch
from shoal.train.network import Llama
from shoal.train.packing import tokenize_documents
from shoal.train.tokenizer import train_tokenizer

HELD_OUT_DOCUMENTS = 300  # looked at while training; the whole set at the end


def learned_bytes(documents: list[Document]) -> int:
    return sum(
        len(piece.text.replace("<|endoftext|>", "").encode())
        for document in documents
        for piece in document.variants[0]
        if piece.learned
    )
