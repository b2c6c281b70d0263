"""Judges that say how likely each intent is for a request; a committee of them teaches a network.

A linear classifier and a small network over words and pieces of words, and, where there is a
trained model of this package, that and a network over phrases that begins with its embedding. They
err in different places, so their mean is better than each (Hansen and Salamon 1990, "Neural network
ensembles"), and sure as often as it is right.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_union
from sklearn.svm import LinearSVC
from torch import Tensor

from shoal.train.base import load_base, reads_twice
from shoal.train.optimizers import fast_bf16
from shoal.train.phrases import PhraseJudge
from shoal.train.pieces import Variant, chat, read_twice
from shoal.train.tokenizer import ASSISTANT

Odds = NDArray[np.float32]  # (texts, intents) natural logarithms of probabilities

# Turns the linear judge's margins into odds that are right about as often as they say.
_MARGIN_SCALE = 8.0
_TOPICS, _TOPIC_SCALE = 400, 5.0
_AT_ONCE = 8192  # texts whose scores are in memory together
_BATCH_TOKENS = 8192

OUTSIDE = "oos"  # the intent of requests that none of the others covers
# nats; who is told that nothing fits has lost more than who hears a neighbour of what was meant
_OUTSIDE_DOUBT = 0.4


class Committee:
    """A `WordJudge` of labelled requests, and with `base` a `PhraseJudge` and a `ModelJudge` too.

    That a request is outside of all intents only the model can say, for nobody else has seen such.
    It is believed the more, the less the others find an intent that fits.
    """

    def __init__(
        self, texts: list[str], intents: list[str], base: Path | None = None, task: str = ""
    ) -> None:
        self.names = sorted(set(intents))
        self._words = WordJudge(texts, intents)
        self._model: ModelJudge | None = None
        if base is not None:
            self.names.append(OUTSIDE)
            self._model = ModelJudge(base, task, self.names)
            self._phrases = PhraseJudge(
                texts, intents, self._model.tokenizer, self._model.embedding
            )

    def odds(self, texts: list[str]) -> Odds:
        """(texts, names)"""
        by_words = self._words.odds(texts)
        if self._model is None:
            return by_words
        others = [by_words, self._phrases.odds(texts)]
        by_model = self._model.odds(texts)
        inside = mean_odds([*others, _odds_of(by_model[:, :-1])])
        # the share that the others leave for anything but their best guess
        surest = np.exp(mean_odds(others).max(axis=1, keepdims=True))
        outside = by_model[:, -1:] + np.log1p(-np.minimum(surest, 0.999)) - _OUTSIDE_DOUBT
        inside += np.log1p(-np.exp(np.minimum(by_model[:, -1:], -1e-6)))
        found: Odds = _odds_of(np.concatenate([inside, outside], axis=1))
        return found


class WordJudge:
    """Words, pairs of words and pieces of words; case is ignored. A linear classifier, and a
    network with one hidden layer over the topics that a truncated SVD finds in the same features.
    """

    def __init__(self, texts: list[str], intents: list[str]) -> None:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        self._features: FeatureUnion = make_union(words, pieces)
        found = self._features.fit_transform(_lower(texts))
        self._linear = LinearSVC(C=0.5).fit(found, intents)
        size = min(_TOPICS, min(found.shape) - 1)
        self._topics = TruncatedSVD(size, n_iter=2, random_state=0)
        near = self._topics.fit_transform(found) * _TOPIC_SCALE
        self._network = MLPClassifier((512,), alpha=1e-3, max_iter=12, random_state=0)
        with warnings.catch_warnings():  # it is stopped early on purpose
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._network.fit(near, intents)

    def odds(self, texts: list[str]) -> Odds:
        parts = []
        for start in range(0, len(texts), _AT_ONCE):
            features = self._features.transform(_lower(texts[start : start + _AT_ONCE]))
            margins = np.asarray(self._linear.decision_function(features))
            if margins.ndim == 1:  # of two intents only the second's is told
                margins = np.stack([-margins, margins], axis=1)
            near = self._topics.transform(features) * _TOPIC_SCALE
            parts.append(mean_odds([_odds_of(margins * _MARGIN_SCALE), self._second(near)]))
        found: Odds = np.concatenate(parts)
        return found

    def _second(self, near: NDArray[np.float64]) -> Odds:
        found: Odds = np.maximum(self._network.predict_log_proba(near), -30.0).astype(np.float32)
        return found


class ModelJudge:
    """A model folder that this package trained on requests; `task` is its system text."""

    def __init__(self, folder: Path, task: str, intents: Iterable[str]) -> None:
        self._network, self.tokenizer = load_base(folder)
        self._network.eval()
        self._task, self._twice = task, reads_twice(folder)
        firsts = [self.tokenizer.encode(name, add_special_tokens=False).ids[0] for name in intents]
        self._firsts = torch.tensor(firsts)

    @property
    def embedding(self) -> Tensor:
        """(vocabulary, hidden)"""
        return self._network.output_weight

    @torch.no_grad()
    def odds(self, texts: list[str]) -> Odds:
        prompts = [self._prompt(text) for text in texts]
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        found = np.empty((len(texts), len(self._firsts)), np.float32)
        device = next(self._network.parameters()).device
        rows: list[int] = []
        for place in order:
            if rows and len(prompts[place]) * (len(rows) + 1) > _BATCH_TOKENS:
                found[rows] = self._batch([prompts[row] for row in rows], device)
                rows = []
            rows.append(place)
        if rows:
            found[rows] = self._batch([prompts[row] for row in rows], device)
        return found

    def _prompt(self, text: str) -> list[int]:
        messages = [{"role": "system", "content": self._task}, {"role": "user", "content": text}]
        variant: Variant = chat(messages)
        if self._twice:
            variant = read_twice(variant)
        said = "".join(piece.text for piece in variant) + ASSISTANT + '{"intent":"'
        ids: list[int] = self.tokenizer.encode(said, add_special_tokens=False).ids
        return ids

    def _batch(self, prompts: list[list[int]], device: torch.device) -> Odds:
        longest = max(map(len, prompts))
        inputs = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):  # what follows the prompt changes nothing before it
            inputs[row, : len(prompt)] = torch.tensor(prompt)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            hidden = self._network.hidden(inputs.to(device))[torch.arange(len(prompts)), last]
        logits = hidden.float() @ self._network.output_weight[self._firsts].T
        found: Odds = torch.log_softmax(logits, dim=-1).cpu().numpy()
        return found


def mean_odds(many: list[Odds]) -> Odds:
    """The geometric mean of probabilities, normalized."""
    return _odds_of(np.mean(many, axis=0))


def _odds_of(scores: NDArray[np.floating]) -> Odds:
    scores = scores - scores.max(axis=1, keepdims=True)
    odds = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    found: Odds = odds.astype(np.float32)
    return found


def _lower(texts: list[str]) -> list[str]:
    return [text.lower() for text in texts]
