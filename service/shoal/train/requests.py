"""What someone may have asked for to get this story: subjects found in a story by simple rules.

"a little girl named Lily", "a bird who was afraid to fly", "Tom and a kite", "a frog in the rain",
"sharing". Everything a subject names is said in the story, so a network that reads the request
first learns to say it too. The idea is that of TinyStories-Instruct (Eldan and Li, 2023), whose
stories come with features to use; here rules find them afterwards.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

_FRAMES = (
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
_WORD_FRAMES = (
    "Tell me a story with the words {}.",
    "Write a story that uses the words {}.",
    "Write a short story with these words: {}.",
)
_SUBJECTLESS = ("Tell me a story.", "Tell me a story!", "Please tell me a story.", "Write a story.")

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
_HALF_DEED = re.compile(
    r"(?:\b(?:it|them|that|this|to|the|an?|was|his|her|big|little|small|very|filled|fun|good|not)"
    r"|lot of \w+)$"
)
_PLACE = re.compile(
    r"\b(in|at|on) the (park|forest|woods|garden|rain|snow|kitchen|sea|ocean|lake|pond|jungle|zoo|"
    r"beach|school|store|farm|river|field|yard|house|sky|mud|dark|bath|car|tree|city|town|mountain|"
    r"hill|desert|market|library|attic|cave|boat|train)\b"
)
_KIN = re.compile(
    r"\b(his|her|their) (mom|mommy|mother|mum|dad|daddy|father|grandma|grandmother|grandpa|"
    r"grandfather|brother|sister|friend|friends|dog|cat|teddy|doll|family|baby)\b"
)
_LESSONS = (  # what a lesson says -> what it is about
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
_NO_NAME = re.compile(  # begins a sentence like a name, and is none
    r"(?:He|She|It|They|There|The|Everyone|Mom|Mommy|Mum|Mama|Mother|Dad|Daddy|Papa|Father|Grandma|"
    r"Grandpa|Mr|Mrs|Miss|Dr|Doctor|King|Queen|Prince|Princess|Captain|Big|Little)$"
)
_NO_HERO = {"time", "day", "lot", "bit", "while", "thing"}

_KINDS = {
    "she": ("girl", "woman", "lady", "princess", "mommy", "queen", "sister", "daughter"),
    "he": ("boy", "man", "prince", "king", "brother", "son", "farmer", "sailor"),
}


@dataclass(slots=True)
class Features:
    """What a story can be asked for by. `hero` has an article: `a little girl`."""

    hero: str = ""
    name: str = ""
    pair: tuple[str, str] | None = None
    deeds: list[str] = field(default_factory=list)  # `who wanted to fly`
    things: list[str] = field(default_factory=list)  # nouns, the most telling first
    phrases: list[str] = field(default_factory=list)  # the same as said: `a big red kite`
    place: str = ""  # `in the forest`
    kin: str = ""  # `her grandmother`
    lesson: str = ""  # `sharing`


def rarity(texts: list[str]) -> dict[str, float]:
    """Word -> log of one over the share of texts that say it."""
    seen = Counter(word for text in texts for word in set(re.findall(r"[a-z]+", text)))
    return {word: math.log(len(texts) / count) for word, count in seen.items()}


def find_features(text: str, rare: dict[str, float]) -> Features:
    """What the rules find in a story."""
    found = Features()
    if named := _NAMED.search(text):
        found.hero, found.name = _lower_first(named[1]), named[2]
    elif hero := _HERO.search(text[:250]):
        if hero[1].split()[-1] not in _NO_HERO:
            found.hero = hero[1]
    elif (by_name := _BY_NAME.search(text)) and not _NO_NAME.match(by_name[1]):
        found.name = by_name[1]
    if pair := _PAIR.search(text):
        found.pair = (pair[1], pair[2])
    said = Counter(re.findall(r"[a-z]+", text))
    phrases: dict[str, str] = {}
    for phrase in _THING.findall(text):
        word = phrase.split()[-1]
        telling = said[word] >= 2 and rare.get(word, 0.0) >= 1.5  # not `time`, not `day`
        if telling and " of " not in phrase:
            phrases.setdefault(word, phrase)
    hero_word = found.hero.split()[-1] if found.hero else ""
    words = [word for word in phrases if word != hero_word]
    words.sort(key=lambda word: (-said[word] * rare.get(word, 0.0), word))
    found.things = words[:3]
    found.phrases = [with_article(phrases[word]) for word in found.things]
    found.deeds = _deeds(text, found)
    if place := _most(f"{way} the {where}" for way, where in _PLACE.findall(text)):
        found.place = place
    if kin := _most((f"{whose} {who}" for whose, who in _KIN.findall(text)), 2):
        found.kin = kin
    ending = text[len(text) // 2 :]
    found.lesson = next((name for rule, name in _LESSONS if re.search(rule, ending)), "")
    return found


def request_for(found: Features, chance: random.Random) -> str:
    """One request for a story with these features."""
    if len(found.things) >= 2 and chance.random() < 0.06:
        words = chance.sample(found.things, min(len(found.things), chance.choice((2, 3))))
        return chance.choice(_WORD_FRAMES).format(" and ".join((", ".join(words[:-1]), words[-1])))
    subject = subject_of(found, chance)
    if not subject or chance.random() < 0.04:
        return chance.choice(_SUBJECTLESS)
    return framed(subject, chance)


def framed(subject: str, chance: random.Random) -> str:
    """A request for a story about a subject."""
    return chance.choice(_FRAMES).format(subject)


def names_by_kind(found: list[Features]) -> dict[str, list[str]]:
    """Every name that a hero of each kind has somewhere."""
    names: dict[str, set[str]] = defaultdict(set)
    for features in found:
        if features.hero and features.name and not _NO_NAME.match(features.name):
            names[name_kind(features)].add(features.name)
    return {kind: sorted(known) for kind, known in names.items()}


def name_kind(found: Features) -> str:
    """Names of girls are no names of boys; animals and things have their own."""
    noun = found.hero.split()[-1]
    for kind, nouns in _KINDS.items():
        if noun in nouns:
            return kind
    return "other"


def with_article(phrase: str) -> str:
    """`a kite`, `an old kite`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def subject_of(found: Features, chance: random.Random) -> str:
    """Names some of the features: `a bird who was afraid to fly`. Empty where there are none."""
    who = _who(found, chance)
    thing = _thing(found, chance)
    kin = found.kin if found.pair is None and found.kin[:5] != "their" else ""
    ways = [(3, who if found.name or found.pair or " " in who[2:] else ""), (2, thing)]
    if who:
        ways += [(3, f"{who} and {thing}")] * bool(thing)
        ways += [(2, f"{who} and {kin}")] * bool(kin)
        ways += [(2, f"{who} {found.place}")] * bool(found.place)
        if found.deeds and found.hero and who != found.name:
            ways.append((5, f"{who} who {chance.choice(found.deeds)}"))
    ways.append((2, found.lesson))
    ways = [(weight, subject) for weight, subject in ways if subject]
    if not ways:
        return ""
    return chance.choices([way[1] for way in ways], [way[0] for way in ways])[0]


def _who(found: Features, chance: random.Random) -> str:
    if found.pair is not None and (not found.name or chance.random() < 0.5):
        pair = f"{found.pair[0]} and {found.pair[1]}"
        return chance.choice((pair, pair, "two friends"))
    if not found.hero:
        return found.name
    words = found.hero.split()
    hero = found.hero if chance.random() < 0.6 else with_article(words[-1])
    if found.name:
        return chance.choice((f"{hero} named {found.name}",) * 4 + (found.name, hero))
    return hero


def _thing(found: Features, chance: random.Random) -> str:
    if not found.things:
        return ""
    place = chance.randrange(len(found.things))
    return found.phrases[place] if chance.random() < 0.5 else with_article(found.things[place])


def _deeds(text: str, found: Features) -> list[str]:
    """What the hero does, as it follows `who`; not what a name alone already tells."""
    noun = found.hero.split()[-1] if found.hero else ""
    deeds = []
    for match in _DEED.finditer(text):
        who, deed = match["who"], " ".join(match["deed"].split())
        about = who in ("He", "She", "It", found.name) or (noun and who.lower().endswith(noun))
        if about and not _HALF_DEED.search(deed):
            deeds.append(deed)
    return list(dict.fromkeys(deeds))[:4]


def _most(found: Iterable[str], least: int = 1) -> str:
    counted = Counter(found).most_common(1)
    return counted[0][0] if counted and counted[0][1] >= least else ""


def _lower_first(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]
