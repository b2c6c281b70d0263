"""Requests that a story answers, made from the story by simple rules.

Their subjects are such as "a little girl named Lily", "a bird who was afraid to fly", "Tom and a
kite", "a frog in the rain", "sharing". Everything a subject names occurs in the story, so a network
that reads the request first learns to write about it. The idea is that of TinyStories-Instruct
(Eldan and Li, 2023), where the features came first; here rules extract them from finished stories.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

_TEMPLATES = (
    *("Tell me a story about {}.",) * 6,
    "Tell me a story about {}",
    "tell me a story about {}",
    "Please tell me a short story about {}.",
    "Tell me a short story about {}.",
    "Write a story about {}.",
    "Write a short story about {}.",
    "Can you tell me a story about {}?",
    "Could you write a story about {}?",
    "I want to hear a story about {}.",
    "A story about {}, please.",
    "Make up a story about {}.",
)
_WORDS_TEMPLATES = (
    "Tell me a story with the words {}.",
    "Write a story that uses the words {}.",
    "Write a short story with these words: {}.",
)
_WITHOUT_SUBJECT = (
    "Tell me a story.",
    "Tell me a story!",
    "Please tell me a story.",
    "Write a story.",
)

_NAMED = re.compile(
    r"\b([Aa]n? (?:[a-z]+ ){0,3}?[a-z]+) (?:named|called|whose name was) ([A-Z][a-z]+)\b"
)
_HERO = re.compile(
    r"(?:\b[Tt]here (?:was|lived)|^One day,|^Once,|^Once upon a time,|, there was)"
    r" (an? (?:(?:very )?[a-z]+ ){0,2}?[a-z]{3,})"
    r"(?=[.,]| (?:who|that|was|went|saw|in|with|lived|had)\b)"
)
_PAIR = re.compile(r"^([A-Z][a-z]+) and ([A-Z][a-z]+)\b")
_BY_NAME = re.compile(
    r"^(?:One day, |Once upon a time, )?([A-Z][a-z]+) "
    r"(?:was|had|has|wanted|loved|liked|likes|went|saw)\b"
)
_THING = re.compile(
    r"\b[Aa]n? ((?:[a-z]+ ){0,2}?[a-z]{3,})"
    r"(?=[.,!?]| (?:in|on|at|and|with|to|that|who|was|is|from)\b)"
)
_DEED = re.compile(
    r"(?:^|[.!?\"]\s+|, but |, and )(?P<who>He|She|It|They|[A-Z][a-z]+|[Tt]he (?:[a-z]+ )?[a-z]+) "
    r"(?P<deed>(?:wanted|loved|liked|wished|tried|hoped|decided|forgot|could not|couldn't|was able|"
    r"was (?:afraid|scared|lost|sad|hungry|angry|lonely|jealous|stuck|proud|bored|tired)|"
    r"did not (?:want|like)|didn't (?:want|like)|lost|found|lived|had|made|broke|went|could|hid|"
    r"ate|took|met|learned|helped)(?: [a-z]+){1,5}?)"
    r"(?=[.,!?]| (?:and|but|so|because|when|until|with)\b)"
)
_UNFINISHED_DEED = re.compile(
    r"(?:\b(?:it|them|that|this|to|the|an?|was|his|her|big|little|small|very|filled|fun|good|not)"
    r"|lot of \w+)$"
)
_PLACE = re.compile(
    r"\b(in|at|on) the (park|forest|woods|garden|rain|snow|kitchen|sea|ocean|lake|pond|jungle|zoo|"
    r"beach|school|store|farm|river|field|yard|house|sky|mud|dark|bath|car|tree|city|town|mountain|"
    r"hill|desert|market|library|attic|cave|boat|train)\b"
)
_RELATIVE = re.compile(
    r"\b(his|her|their) (mom|mommy|mother|mum|dad|daddy|father|grandma|grandmother|grandpa|"
    r"grandfather|brother|sister|friend|friends|dog|cat|teddy|doll|family|baby)\b"
)
_LESSONS = (  # words of a moral -> its subject
    (r"\bshar(?:e|ed|ing)\b", "sharing"),
    (r"\bhelp(?:ed|ing)? (?:others|each other|people|someone|those)\b", "helping others"),
    (r"\b(?:be|being) kind\b", "being kind"),
    (r"\b(?:be|being) (?:more )?careful\b", "being careful"),
    (r"\b(?:be|being) brave\b", "being brave"),
    (r"\b(?:be|being) honest\b|\btell(?:ing)? the truth\b", "telling the truth"),
    (r"\b(?:be|being) patient\b", "being patient"),
    (r"\blisten(?:ed|ing)? to (?:his|her|their|your) (?:mo|pa|da)", "listening"),
    (r"\bwork(?:ed|ing)? together\b", "working together"),
    (r"\b(?:say|said|saying) (?:she was |he was |they were )?sorry\b", "saying sorry"),
    (r"\b(?:never give|give|giving) up\b", "not giving up"),
    (r"\bbest friends?\b|\bnew friends?\b", "friendship"),
)
_NOT_A_NAME = re.compile(  # words at the start of a sentence that are no names
    r"(?:He|She|It|They|There|The|Everyone|Mom|Mommy|Mum|Mama|Mother|Dad|Daddy|Papa|Father|Grandma|"
    r"Grandpa|Mr|Mrs|Miss|Dr|Doctor|King|Queen|Prince|Princess|Captain|Big|Little)$"
)
_NOT_A_HERO = {"time", "day", "lot", "bit", "while", "thing"}

_KINDS = {
    "she": ("girl", "woman", "lady", "princess", "mommy", "queen", "sister", "daughter"),
    "he": ("boy", "man", "prince", "king", "brother", "son", "farmer", "sailor"),
}


@dataclass(slots=True)
class Features:
    """What a request for a story may mention; empty where the rules find nothing."""

    hero: str = ""  # with its article: `a little girl`
    name: str = ""
    pair: tuple[str, str] | None = None
    deeds: list[str] = field(default_factory=list)  # `who wanted to fly`
    things: list[str] = field(default_factory=list)  # nouns, the most characteristic first
    phrases: list[str] = field(default_factory=list)  # the same as written: `a big red kite`
    place: str = ""  # `in the forest`
    relative: str = ""  # `her grandmother`
    lesson: str = ""  # `sharing`


def word_rarity(texts: list[str]) -> dict[str, float]:
    """Word -> log of one over the share of texts that contain it."""
    num_texts = Counter(word for text in texts for word in set(re.findall(r"[a-z]+", text)))
    return {word: math.log(len(texts) / count) for word, count in num_texts.items()}


def extract_features(text: str, rarity: dict[str, float]) -> Features:
    """What the rules find in a story; `rarity` as of `word_rarity`."""
    features = Features()
    if named := _NAMED.search(text):
        features.hero, features.name = _lower_first(named[1]), named[2]
    elif hero := _HERO.search(text[:250]):
        if hero[1].split()[-1] not in _NOT_A_HERO:
            features.hero = hero[1]
    elif (by_name := _BY_NAME.search(text)) and not _NOT_A_NAME.match(by_name[1]):
        features.name = by_name[1]
    if pair := _PAIR.search(text):
        features.pair = (pair[1], pair[2])
    counts = Counter(re.findall(r"[a-z]+", text))
    phrases: dict[str, str] = {}
    for phrase in _THING.findall(text):
        word = phrase.split()[-1]
        # repeated here, rare elsewhere: not `time`, not `day`
        is_characteristic = counts[word] >= 2 and rarity.get(word, 0.0) >= 1.5
        if is_characteristic and " of " not in phrase:
            phrases.setdefault(word, phrase)
    hero_word = features.hero.split()[-1] if features.hero else ""
    words = [word for word in phrases if word != hero_word]
    words.sort(key=lambda word: (-counts[word] * rarity.get(word, 0.0), word))
    features.things = words[:3]
    features.phrases = [with_article(phrases[word]) for word in features.things]
    features.deeds = _deeds(text, features)
    if place := _most_common(
        f"{preposition} the {noun}" for preposition, noun in _PLACE.findall(text)
    ):
        features.place = place
    if relative := _most_common((f"{whose} {who}" for whose, who in _RELATIVE.findall(text)), 2):
        features.relative = relative
    ending = text[len(text) // 2 :]
    features.lesson = next((name for rule, name in _LESSONS if re.search(rule, ending)), "")
    return features


def request_for(features: Features, rng: random.Random) -> str:
    """One request for a story with these features."""
    things = features.things
    if len(things) >= 2 and rng.random() < 0.06:
        words = rng.sample(things, min(len(things), rng.choice((2, 3))))
        listed = " and ".join((", ".join(words[:-1]), words[-1]))
        return rng.choice(_WORDS_TEMPLATES).format(listed)
    subject = subject_of(features, rng)
    if not subject or rng.random() < 0.04:
        return rng.choice(_WITHOUT_SUBJECT)
    return request_about(subject, rng)


def request_about(subject: str, rng: random.Random) -> str:
    """A request for a story about a subject."""
    return rng.choice(_TEMPLATES).format(subject)


def names_by_kind(stories: list[Features]) -> dict[str, list[str]]:
    """Kind of hero (`name_kind`) -> all names that heroes of this kind have."""
    names: dict[str, set[str]] = defaultdict(set)
    for features in stories:
        if features.hero and features.name and not _NOT_A_NAME.match(features.name):
            names[name_kind(features)].add(features.name)
    return {kind: sorted(of_kind) for kind, of_kind in names.items()}


def name_kind(features: Features) -> str:
    """Which names suit the hero: "she", "he", or "other" for animals and things."""
    noun = features.hero.split()[-1]
    for kind, nouns in _KINDS.items():
        if noun in nouns:
            return kind
    return "other"


def with_article(phrase: str) -> str:
    """`a kite`, `an old kite`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def subject_of(features: Features, rng: random.Random) -> str:
    """Names some of the features: `a bird who was afraid to fly`. Empty where there are none."""
    who = _who(features, rng)
    thing = _thing(features, rng)
    is_single = features.pair is None and features.relative[:5] != "their"
    relative = features.relative if is_single else ""
    stands_alone = features.name or features.pair or " " in who[2:]
    weighted = [(3, who if stands_alone else ""), (2, thing)]
    if who:
        weighted += [(3, f"{who} and {thing}")] * bool(thing)
        weighted += [(2, f"{who} and {relative}")] * bool(relative)
        weighted += [(2, f"{who} {features.place}")] * bool(features.place)
        if features.deeds and features.hero and who != features.name:
            weighted.append((5, f"{who} who {rng.choice(features.deeds)}"))
    weighted.append((2, features.lesson))
    weighted = [(weight, subject) for weight, subject in weighted if subject]
    if not weighted:
        return ""
    weights = [weight for weight, _ in weighted]
    return rng.choices([subject for _, subject in weighted], weights)[0]


def _who(features: Features, rng: random.Random) -> str:
    if features.pair is not None and (not features.name or rng.random() < 0.5):
        pair = f"{features.pair[0]} and {features.pair[1]}"
        return rng.choice((pair, pair, "two friends"))
    if not features.hero:
        return features.name
    words = features.hero.split()
    hero = features.hero if rng.random() < 0.6 else with_article(words[-1])
    if features.name:
        return rng.choice((f"{hero} named {features.name}",) * 4 + (features.name, hero))
    return hero


def _thing(features: Features, rng: random.Random) -> str:
    if not features.things:
        return ""
    index = rng.randrange(len(features.things))
    return features.phrases[index] if rng.random() < 0.5 else with_article(features.things[index])


def _deeds(text: str, features: Features) -> list[str]:
    """What the hero does, as it follows `who`; not what a name alone already tells."""
    noun = features.hero.split()[-1] if features.hero else ""
    deeds = []
    for match in _DEED.finditer(text):
        who, deed = match["who"], " ".join(match["deed"].split())
        is_hero = who in ("He", "She", "It", features.name)
        is_hero = is_hero or bool(noun and who.lower().endswith(noun))
        if is_hero and not _UNFINISHED_DEED.search(deed):
            deeds.append(deed)
    return list(dict.fromkeys(deeds))[:4]


def _most_common(phrases: Iterable[str], at_least: int = 1) -> str:
    counted = Counter(phrases).most_common(1)
    return counted[0][0] if counted and counted[0][1] >= at_least else ""


def _lower_first(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]
