"""Teachers: classifiers that say how likely each intent is for a request, and their ensemble.

A linear classifier and a small network over words and character n-grams; where a trained pilotfish
is at hand also that model and a convolutional network that starts from its embedding. They err in
different places, so their mean is more accurate than each, and better calibrated (Hansen and
Salamon 1990, "Neural network ensembles").
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
from shoal.train.pieces import Variant, chat, read_twice
from shoal.train.tokenizer import ASSISTANT

from .answers import OUT_OF_SCOPE
from .phrase_teacher import PhraseTeacher

LogProbs = NDArray[np.float32]  # [texts, intents] natural logarithms of probabilities

# Factor on the linear classifier's margins that makes its probabilities about as high as it is
# often right.
_MARGIN_SCALE = 8.0
_TOPICS, _TOPIC_SCALE = 400, 5.0
_CHUNK = 8192  # texts whose scores are in memory at a time
_BATCH_TOKENS = 8192

# In nats, against calling a request out of scope: to refuse a request that was in scope is worse
# than to take it for a similar one.
_OUT_OF_SCOPE_PENALTY = 0.4


class Ensemble:
    """A `WordTeacher` of labelled requests; with `base` also a `PhraseTeacher` and a
    `ModelTeacher`.

    Only the model can tell that a request is out of scope, for the others have seen none. It is
    believed the more, the less sure the others are of any intent.
    """

    def __init__(
        self, texts: list[str], intents: list[str], base: Path | None = None, task: str = ""
    ) -> None:
        self.names = sorted(set(intents))
        self._words = WordTeacher(texts, intents)
        self._model: ModelTeacher | None = None
        if base is not None:
            self.names.append(OUT_OF_SCOPE)
            self._model = ModelTeacher(base, task, self.names)
            self._phrases = PhraseTeacher(
                texts, intents, self._model.tokenizer, self._model.embedding
            )

    def log_probs(self, texts: list[str]) -> LogProbs:
        """[texts, names]"""
        by_words = self._words.log_probs(texts)
        if self._model is None:
            return by_words
        without_model = [by_words, self._phrases.log_probs(texts)]
        by_model = self._model.log_probs(texts)
        in_scope = mean_log_probs([*without_model, _normalized(by_model[:, :-1])])
        # log(1 - p) of the others' best intent: what they leave for anything else
        best = np.exp(mean_log_probs(without_model).max(axis=1, keepdims=True))
        left_over = np.log1p(-np.minimum(best, 0.999))
        out_of_scope = by_model[:, -1:] + left_over - _OUT_OF_SCOPE_PENALTY
        in_scope += np.log1p(-np.exp(np.minimum(by_model[:, -1:], -1e-6)))
        return _normalized(np.concatenate([in_scope, out_of_scope], axis=1))


class WordTeacher:
    """Reads words, pairs of words and character n-grams without case: a linear classifier, and a
    network with one hidden layer over a truncated SVD of the same features."""

    def __init__(self, texts: list[str], intents: list[str]) -> None:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
        characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True)
        self._vectorizer: FeatureUnion = make_union(words, characters)
        features = self._vectorizer.fit_transform(_lower(texts))
        self._linear = LinearSVC(C=0.5).fit(features, intents)
        num_topics = min(_TOPICS, min(features.shape) - 1)
        self._svd = TruncatedSVD(num_topics, n_iter=2, random_state=0)
        topics = self._svd.fit_transform(features) * _TOPIC_SCALE
        self._network = MLPClassifier((512,), alpha=1e-3, max_iter=12, random_state=0)
        with warnings.catch_warnings():  # it is stopped early on purpose
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._network.fit(topics, intents)

    def log_probs(self, texts: list[str]) -> LogProbs:
        """[texts, intents in the order of their names]"""
        parts = []
        for start in range(0, len(texts), _CHUNK):
            features = self._vectorizer.transform(_lower(texts[start : start + _CHUNK]))
            margins = np.asarray(self._linear.decision_function(features))
            if margins.ndim == 1:  # of two intents scikit-learn gives the second's only
                margins = np.stack([-margins, margins], axis=1)
            topics = self._svd.transform(features) * _TOPIC_SCALE
            by_network = np.maximum(self._network.predict_log_proba(topics), -30.0)
            parts.append(
                mean_log_probs(
                    [_normalized(margins * _MARGIN_SCALE), by_network.astype(np.float32)]
                )
            )
        return np.concatenate(parts)


class ModelTeacher:
    """A folder of a trained pilotfish; `task` is the system text of its prompts."""

    def __init__(self, folder: Path, task: str, intents: Iterable[str]) -> None:
        self._network, self.tokenizer = load_base(folder)
        self._network.eval()
        self._task, self._twice = task, reads_twice(folder)
        firsts = [self.tokenizer.encode(name, add_special_tokens=False).ids[0] for name in intents]
        self._firsts = torch.tensor(firsts)

    @property
    def embedding(self) -> Tensor:
        """[vocab_size, hidden_size]"""
        return self._network.output_weight

    @torch.no_grad()
    def log_probs(self, texts: list[str]) -> LogProbs:
        """[texts, intents], from the logits of the first token of each intent."""
        prompts = [self._prompt(text) for text in texts]
        by_length = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        log_probs = np.empty((len(texts), len(self._firsts)), np.float32)
        device = next(self._network.parameters()).device
        rows: list[int] = []
        for index in by_length:
            if rows and len(prompts[index]) * (len(rows) + 1) > _BATCH_TOKENS:
                log_probs[rows] = self._batch([prompts[row] for row in rows], device)
                rows = []
            rows.append(index)
        if rows:
            log_probs[rows] = self._batch([prompts[row] for row in rows], device)
        return log_probs

    def _prompt(self, text: str) -> list[int]:
        messages = [{"role": "system", "content": self._task}, {"role": "user", "content": text}]
        variant: Variant = chat(messages)
        if self._twice:
            variant = read_twice(variant)
        prompt = "".join(segment.text for segment in variant) + ASSISTANT + '{"intent":"'
        ids: list[int] = self.tokenizer.encode(prompt, add_special_tokens=False).ids
        return ids

    def _batch(self, prompts: list[list[int]], device: torch.device) -> LogProbs:
        longest = max(map(len, prompts))
        inputs = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):  # padding after the prompt changes nothing before it
            inputs[row, : len(prompt)] = torch.tensor(prompt)
        last = torch.tensor([len(prompt) - 1 for prompt in prompts])
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device)):
            hidden = self._network.hidden(inputs.to(device))[torch.arange(len(prompts)), last]
        logits = hidden.float() @ self._network.output_weight[self._firsts].T
        log_probs: LogProbs = torch.log_softmax(logits, dim=-1).cpu().numpy()
        return log_probs


def mean_log_probs(teachers: list[LogProbs]) -> LogProbs:
    """The geometric mean of their probabilities, normalized."""
    return _normalized(np.mean(teachers, axis=0))


def _normalized(scores: NDArray[np.floating]) -> LogProbs:
    scores = scores - scores.max(axis=1, keepdims=True)
    log_probs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    result: LogProbs = log_probs.astype(np.float32)
    return result


def _lower(texts: list[str]) -> list[str]:
    return [text.lower() for text in texts]
