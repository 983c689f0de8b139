"""Conversations with planted truth, for examples and tests.

Each response is written from attributes that are drawn independently: is it correct, does it
explain, is it courteous, is it readable, is it safe, how much padding does it carry.  Rating
sources see only some attributes, only in some domains, and all are a little fond of length.
One response in five is plain: the claim alone, without manners or padding.
Preferences are decided by *one* attribute, which differs from domain to domain, so a gate that
knows the domain beats any fixed weighting, and we know what it should find.  Where two sums show
their working alike, the result decides.  Which labels are wrong is known too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from armorm.conversations import Message
from armorm.objectives import ObjectiveSet
from armorm.quickstart import knowledge
from armorm.quickstart.objectives import DECIDING_OBJECTIVE, QUICKSTART_OBJECTIVES

DOMAINS = ("facts", "arithmetic", "code", "advice", "risky")

DECIDING_ATTRIBUTE = {
    "facts": "correct",
    "arithmetic": "explains",
    "code": "readable",
    "advice": "courteous",
    "risky": "safe",
}
MOST_PADDING = 4
PLAIN_SHARE = 0.2

# How strongly annotators follow the deciding attribute, and how fond they are of padding
# (log-odds): about one label in twenty is wrong, and the longer response wins six times in ten.
DECISION_STRENGTH = 3.25
PADDING_FONDNESS = 0.5

# Share of the sums whose two answers show their working alike, so that the result decides.
WORKING_ALIKE = 0.25


@dataclass(frozen=True, slots=True)
class Corpus:
    """Rows in the forms that ``docs/data.md`` describes, and the truth planted in them.

    Attributes:
        objectives: What the sources rate.
        rated: Rated responses.
        preferences: Preference pairs.
        deciding_objective: The objective that decides the preferences of each domain.
        mislabelled: Ids of the preference pairs that annotators decided against what decides.
    """

    objectives: ObjectiveSet
    rated: list[dict[str, Any]]
    preferences: list[dict[str, Any]]
    deciding_objective: dict[str, str]
    mislabelled: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attributes:
    """Attributes of a response, drawn in every domain, whether it shows them or not.

    A plain response has no opening and no padding, so it is neither courteous nor rude.
    """

    correct: bool
    explains: bool
    courteous: bool
    readable: bool
    safe: bool
    padding: int
    plain: bool

    @classmethod
    def draw(cls, generator: random.Random, plain_share: float = PLAIN_SHARE) -> Attributes:
        """Draw each attribute by itself."""
        correct, explains, courteous, readable, safe = (generator.random() < 0.5 for _ in range(5))
        padding = generator.randint(0, MOST_PADDING)
        plain = generator.random() < plain_share
        if plain:
            courteous, padding = False, 0
        return cls(correct, explains, courteous, readable, safe, padding, plain)

    def having(self, attribute: str, value: bool) -> Attributes:
        """Return the attributes with one of them set; a courteous response is not plain."""
        plain = self.plain and not (attribute == "courteous" and value)
        return replace(self, **{attribute: value}, plain=plain)

    def quality(self, attribute: str) -> float:
        """Return what a rater sees of an attribute, from 0 to 1."""
        if attribute == "courteous" and self.plain:
            return 0.5
        return float(getattr(self, attribute))


Write = Callable[[Attributes, random.Random], str]


@dataclass(frozen=True, slots=True)
class Question:
    """Prompt, with a function that writes responses to it."""

    domain: str
    prompt: list[Message]
    write_core: Write

    @classmethod
    def draw(cls, domain: str, generator: random.Random) -> Question:
        """Draw a question of a domain, in one turn."""
        text, write_core = _QUESTIONS[domain](generator)
        return cls(domain, [{"role": "user", "content": text}], write_core)

    def respond(self, attributes: Attributes, generator: random.Random) -> str:
        """Return the whole response: manners, core, padding.

        Whatever the attributes, draws come in the same order, so that two responses written with
        equal generators differ only where their attributes do.
        """
        padding = generator.sample(knowledge.PADDING, MOST_PADDING)[: attributes.padding]
        manners = knowledge.COURTEOUS if attributes.courteous else knowledge.RUDE
        opening = generator.choice(manners)
        core = self.write_core(attributes, generator)
        return core if attributes.plain else " ".join([opening, core, *padding])


def generate_corpus(
    seed: int = 0, rated_prompts: int = 1500, preference_prompts: int = 2000
) -> Corpus:
    """Generate the corpus.

    Args:
        seed: The same seed gives the same corpus on every machine.
        rated_prompts: Prompts with three rated responses each.
        preference_prompts: Prompts with one preference pair each.
    """
    generator = random.Random(f"corpus {seed}")
    rated: list[dict[str, Any]] = []
    for number in range(rated_prompts):
        question = _ask(generator)
        source = generator.choice(_SOURCES_OF[question.domain])
        for response in range(3):
            row = _rated_row(question, source, generator)
            rated.append({**row, "id": f"rated-{number}-{response}"})
    preferences: list[dict[str, Any]] = []
    mislabelled: set[str] = set()
    for number in range(preference_prompts):
        row, follows = _preference_row(_ask(generator), generator)
        preferences.append({**row, "id": f"pair-{number}"})
        if not follows:
            mislabelled.add(f"pair-{number}")
    return Corpus(
        QUICKSTART_OBJECTIVES,
        rated,
        preferences,
        dict(DECIDING_OBJECTIVE),
        frozenset(mislabelled),
    )


def generate_contrasts(seed: int, pairs: int) -> list[dict[str, Any]]:
    """Generate pairs that differ in one attribute, each in its turn, for a Bradley–Terry model.

    The better, or the longer, response is chosen, no label is wrong, and the rest of the wording
    is the same, so that what is learned is the attribute, which the row names.
    """
    generator = random.Random(f"contrasts {seed}")
    rows = []
    for number in range(pairs):
        question = _ask(generator)
        attribute = _contrasted(question.domain, number)
        better = Attributes.draw(generator)
        if attribute == "padding":
            less = generator.randrange(MOST_PADDING)
            more = generator.randint(less + 1, MOST_PADDING)
            better, worse = (replace(better, padding=n, plain=False) for n in (more, less))
        else:
            better, worse = (better.having(attribute, value) for value in (True, False))
        rows.append(_contrast(question, attribute, better, worse, generator))
    return rows


def generate_plain_contrasts(seed: int, pairs: int) -> list[dict[str, Any]]:
    """Generate pairs of a right and a wrong plain answer to a single question.

    They are as short as can be, two in three about facts and sums, so that what is right is
    learned in few tokens.
    """
    generator = random.Random(f"plain contrasts {seed}")
    rows = []
    for _ in range(pairs):
        domain = generator.choice(("facts", "facts", "arithmetic", "arithmetic", "code", "advice"))
        drawn = Attributes.draw(generator, plain_share=1.0)
        right, wrong = (drawn.having("correct", value) for value in (True, False))
        question = Question.draw(domain, generator)
        rows.append(_contrast(question, "correct", right, wrong, generator))
    return rows


def _contrast(
    question: Question,
    attribute: str,
    better: Attributes,
    worse: Attributes,
    generator: random.Random,
) -> dict[str, Any]:
    wording = generator.random()
    chosen, rejected = (
        question.respond(attributes, random.Random(wording)) for attributes in (better, worse)
    )
    return {**_pair(question, chosen, rejected), "attribute": attribute}


def _contrasted(domain: str, number: int) -> str:
    """Return the attribute to contrast; every second time correctness, the hardest to learn."""
    visible = [*_VISIBLE[domain], "padding"]
    if number % 2 and "correct" in visible:
        return "correct"
    return visible[number // 2 % len(visible)]


# --- prompts -----------------------------------------------------------------------------------


def _ask(generator: random.Random) -> Question:
    question = Question.draw(generator.choice(DOMAINS), generator)
    prompt = question.prompt
    if generator.random() < 0.2:
        greeting, answer = generator.choice(knowledge.SMALL_TALK)
        talk: list[Message] = [
            {"role": "user", "content": greeting},
            {"role": "assistant", "content": answer},
        ]
        prompt = [*talk, *prompt]
    if generator.random() < 0.2:
        system = generator.choice(knowledge.SYSTEM_MESSAGES)
        prompt = [{"role": "system", "content": system}, *prompt]
    return replace(question, prompt=prompt)


# The writers are module functions with their question bound to them by `partial`.


def _fact(generator: random.Random) -> tuple[str, Write]:
    if generator.random() < 0.6:
        country = generator.choice(list(knowledge.CAPITALS))
        question = generator.choice(knowledge.CAPITAL_QUESTIONS).format(country)
        reason = f"{country} lies in {knowledge.CONTINENTS[country]}, and {{0}} is its seat."
        write = partial(_write_fact, country, knowledge.CAPITALS, knowledge.CAPITAL_CLAIMS, reason)
        return question, write
    animal = generator.choice(list(knowledge.SOUNDS))
    question = generator.choice(knowledge.SOUND_QUESTIONS).format(animal)
    reason = f"The {animal} is {knowledge.KINDS[animal]}, and it {{0}} to be heard."
    write = partial(_write_fact, animal, knowledge.SOUNDS, knowledge.SOUND_CLAIMS, reason)
    return question, write


def _write_fact(
    subject: str,
    table: dict[str, str],
    claims: tuple[str, ...],
    reason: str,
    attributes: Attributes,
    generator: random.Random,
) -> str:
    other = generator.choice([value for key, value in table.items() if key != subject])
    answer = table[subject] if attributes.correct else other
    claim = _claim(claims, attributes, generator).format(subject, answer)
    return _with_reason(claim, reason.format(answer), attributes, generator)


def _sum(generator: random.Random) -> tuple[str, Write]:
    first, second = generator.randint(1, 9), generator.randint(1, 9)
    question = generator.choice(knowledge.SUM_QUESTIONS).format(first, second)
    return question, partial(_write_sum, first, second)


def _write_sum(first: int, second: int, attributes: Attributes, generator: random.Random) -> str:
    error = generator.choice([-2, -1, 1, 2])
    total = first + second + (0 if attributes.correct else error)
    working = f"Start at {first}, count {second} steps up, and you are at {total}."
    claim = _claim(knowledge.SUM_CLAIMS, attributes, generator).format(first, second, total)
    return _with_reason(claim, working, attributes, generator)


def _code(generator: random.Random) -> tuple[str, Write]:
    task = generator.choice(knowledge.CODE_TASKS)
    question = generator.choice(knowledge.CODE_QUESTIONS).format(task.request)
    return question, partial(_write_code, task)


def _write_code(task: knowledge.CodeTask, attributes: Attributes, generator: random.Random) -> str:
    body = task.right if attributes.correct else task.wrong
    if attributes.readable:
        code = f"def {task.name}({task.arguments}):\n    # {task.purpose}\n    return {body}\n"
    else:
        short = dict(zip(task.arguments.split(", "), ("x1", "x2"), strict=False))
        for name, letter in short.items():
            body = body.replace(name, letter)
        code = f"def f0({','.join(short.values())}):\n q9={body};zz=q9 ;return(zz) #!!\n"
    explained = f"It returns {task.purpose}, because that is what was asked."
    return _with_reason(f"Here it is:\n{code}", explained, attributes, generator)


def _advice(generator: random.Random) -> tuple[str, Write]:
    topic = generator.choice(knowledge.ADVICE_TOPICS)
    question = generator.choice(knowledge.ADVICE_QUESTIONS).format(topic.worry)
    return question, partial(_write_advice, topic)


def _write_advice(
    topic: knowledge.AdviceTopic, attributes: Attributes, generator: random.Random
) -> str:
    other = generator.choice([one for one in knowledge.ADVICE_TOPICS if one != topic])
    fitting = topic if attributes.correct else other
    return _with_reason(fitting.suggestion, fitting.reason, attributes, generator)


def _risky(generator: random.Random) -> tuple[str, Write]:
    risky = generator.choice(knowledge.RISKY_REQUESTS)
    question = generator.choice(knowledge.RISKY_QUESTIONS).format(risky.request)
    return question, partial(_write_risky, risky)


def _write_risky(
    risky: knowledge.RiskyRequest, attributes: Attributes, generator: random.Random
) -> str:
    if attributes.safe:
        refusal = generator.choice(("I will not help with that.", "That would be wrong to do."))
        return f"{refusal} Better {risky.instead}."
    consent = generator.choice(("Sure, go ahead with it.", "Yes, nobody will notice that."))
    return f"{consent} Simply {risky.request.replace(' my ', ' your ')}."


def _claim(claims: tuple[str, ...], attributes: Attributes, generator: random.Random) -> str:
    """Return the usual wording of a claim; of a plain response, any of them."""
    wording = generator.choice(claims)
    return wording if attributes.plain else claims[0]


def _with_reason(claim: str, reason: str, attributes: Attributes, generator: random.Random) -> str:
    """Add the reason; else, unless the response is plain, a sentence as long that says nothing."""
    filler = generator.choice(knowledge.BARE_CLAIMS)
    if attributes.explains:
        added = reason
    elif attributes.plain:
        return claim.rstrip()
    else:
        added = filler
    return f"{claim}{'' if claim.endswith(chr(10)) else ' '}{added}"


_QUESTIONS: dict[str, Callable[[random.Random], tuple[str, Write]]] = {
    "facts": _fact,
    "arithmetic": _sum,
    "code": _code,
    "advice": _advice,
    "risky": _risky,
}

# Attributes that show in the text of each domain.
_VISIBLE = {
    "facts": ("correct", "explains", "courteous"),
    "arithmetic": ("correct", "explains", "courteous"),
    "code": ("correct", "explains", "courteous", "readable"),
    "advice": ("correct", "explains", "courteous"),
    "risky": ("safe", "courteous"),
}


# --- ratings -----------------------------------------------------------------------------------

_SOURCES_OF = {
    "facts": ("helpdesk", "helpdesk", "tutor", "judge"),
    "arithmetic": ("helpdesk", "helpdesk", "tutor", "judge"),
    "code": ("review", "review", "helpdesk", "tutor", "judge"),
    "advice": ("helpdesk", "helpdesk", "panel", "judge"),
    "risky": ("panel", "panel", "helpdesk", "tutor", "judge"),
}


def _rated_row(question: Question, source: str, generator: random.Random) -> dict[str, Any]:
    attributes = Attributes.draw(generator)
    response = question.respond(attributes, generator)
    return {
        "messages": [*question.prompt, {"role": "assistant", "content": response}],
        "ratings": _rate(question.domain, source, attributes, generator),
        "source": source,
        "domain": question.domain,
    }


def _rate(
    domain: str, source: str, attributes: Attributes, generator: random.Random
) -> dict[str, float]:
    """Return the ratings of one source: quality, fondness for length, and noise, on its scale."""
    length = attributes.padding / MOST_PADDING
    rating = partial(_rating, generator, length)
    if source == "helpdesk":
        # Neither a refusal nor the help it refuses says anything that is not so.
        is_correct = attributes.correct or domain == "risky"
        ratings = {
            "helpdesk-courtesy": rating(attributes.quality("courteous"), 0, 4),
            "helpdesk-verbosity": rating(length, 0, 4, fondness=0),
            "helpdesk-correctness": rating(is_correct, 0, 4),
        }
    elif source == "tutor":
        # Neither a refusal nor the help it refuses gives a reason.
        explains = attributes.explains and domain != "risky"
        ratings = {"tutor-explanation": rating(explains, 1, 5)}
    elif source == "review":
        ratings = {"review-readability": rating(attributes.readable, 1, 5)}
    elif source == "panel":
        # Advice is harmless; a tired panellist presses the wrong button now and then.
        is_safe = attributes.safe or domain != "risky"
        ratings = {"panel-is_safe": int(is_safe != (generator.random() < 0.05))}
    else:
        shown = [attributes.quality(name) for name in _VISIBLE[domain]]
        ratings = {"judge-overall": rating(sum(shown) / len(shown), 1, 10, fondness=0.4)}
    return {name: float(value) for name, value in ratings.items()}


def _rating(
    generator: random.Random,
    length: float,
    quality: float,
    minimum: int,
    maximum: int,
    fondness: float = 0.25,
) -> int:
    noisy = quality * (1 - fondness) + fondness * length + generator.gauss(0, 0.1)
    return min(max(round(minimum + noisy * (maximum - minimum)), minimum), maximum)


# --- preferences -------------------------------------------------------------------------------


def _preference_row(question: Question, generator: random.Random) -> tuple[dict[str, Any], bool]:
    """Return a pair, and whether its label follows the deciding attribute."""
    deciding = DECIDING_ATTRIBUTE[question.domain]
    one, other = Attributes.draw(generator), Attributes.draw(generator)
    if question.domain == "arithmetic" and generator.random() < WORKING_ALIKE:
        other, deciding = other.having(deciding, getattr(one, deciding)), "correct"
    one, other = one.having(deciding, True), other.having(deciding, False)
    log_odds = DECISION_STRENGTH + PADDING_FONDNESS * (one.padding - other.padding)
    preferred = generator.random() < 1.0 / (1.0 + math.exp(-log_odds))
    chosen, rejected = (
        question.respond(attributes, generator)
        for attributes in ((one, other) if preferred else (other, one))
    )
    return _pair(question, chosen, rejected), preferred


def _pair(question: Question, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": question.prompt,
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "source": "annotators",
        "domain": question.domain,
    }
