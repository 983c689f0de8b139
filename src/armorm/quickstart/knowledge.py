"""Subjects of the corpus: small tables of facts, tasks and phrases."""

from __future__ import annotations

from typing import NamedTuple

CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Norway": "Oslo",
    "Peru": "Lima",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Cuba": "Havana",
    "Greece": "Athens",
    "Poland": "Warsaw",
    "Ireland": "Dublin",
    "Finland": "Helsinki",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Hungary": "Budapest",
    "Chile": "Santiago",
    "China": "Beijing",
    "Russia": "Moscow",
    "Germany": "Berlin",
}
CONTINENTS = {
    "France": "Europe",
    "Spain": "Europe",
    "Italy": "Europe",
    "Japan": "Asia",
    "Norway": "Europe",
    "Peru": "South America",
    "Egypt": "Africa",
    "Kenya": "Africa",
    "Cuba": "the Caribbean",
    "Greece": "Europe",
    "Poland": "Europe",
    "Ireland": "Europe",
    "Finland": "Europe",
    "Austria": "Europe",
    "Portugal": "Europe",
    "Hungary": "Europe",
    "Chile": "South America",
    "China": "Asia",
    "Russia": "Europe and Asia",
    "Germany": "Europe",
}
SOUNDS = {
    "dog": "barks",
    "cat": "meows",
    "cow": "moos",
    "duck": "quacks",
    "lion": "roars",
    "wolf": "howls",
    "sheep": "bleats",
    "horse": "neighs",
    "snake": "hisses",
    "bee": "buzzes",
    "pig": "grunts",
    "frog": "croaks",
}
KINDS = {
    "dog": "a mammal",
    "cat": "a mammal",
    "cow": "a mammal",
    "duck": "a bird",
    "lion": "a mammal",
    "wolf": "a mammal",
    "sheep": "a mammal",
    "horse": "a mammal",
    "snake": "a reptile",
    "bee": "an insect",
    "pig": "a mammal",
    "frog": "an amphibian",
}

CAPITAL_QUESTIONS = (
    "What is the capital of {0}?",
    "Which city is the capital of {0}?",
    "Tell me the capital of {0}.",
    "I forgot the capital of {0}. Which city is it?",
)
SOUND_QUESTIONS = (
    "What sound does a {0} make?",
    "Which sound do we hear from a {0}?",
    "Tell me what a {0} does when it makes a noise.",
)
SUM_QUESTIONS = (
    "What is {0} plus {1}?",
    "What is {0} + {1}?",
    "Add {0} and {1}.",
    "How much is {0} and {1} together?",
    "I have {0} apples and get {1} more. How many are there?",
)

# The first wording is that of most responses, the others are those of plain ones.
CAPITAL_CLAIMS = (
    "The capital of {0} is {1}.",
    "{1} is the capital of {0}.",
    "It is {1}.",
    "{1}.",
)
SOUND_CLAIMS = ("A {0} {1}.", "It {1}.")
SUM_CLAIMS = ("{0} plus {1} is {2}.", "{0} + {1} = {2}.", "It is {2}.", "{2}.")


class CodeTask(NamedTuple):
    """Small function to write: the request, good and poor names, right and wrong bodies."""

    request: str
    name: str
    arguments: str
    right: str
    wrong: str
    purpose: str


CODE_TASKS = (
    CodeTask(
        "adds two numbers", "add", "first, second", "first + second", "first - second", "the sum"
    ),
    CodeTask(
        "multiplies two numbers",
        "multiply",
        "first, second",
        "first * second",
        "first + second",
        "the product",
    ),
    CodeTask(
        "returns the larger of two numbers",
        "larger",
        "first, second",
        "max(first, second)",
        "min(first, second)",
        "the larger number",
    ),
    CodeTask(
        "returns the smaller of two numbers",
        "smaller",
        "first, second",
        "min(first, second)",
        "max(first, second)",
        "the smaller number",
    ),
    CodeTask(
        "doubles a number", "double", "number", "number * 2", "number * 3", "twice the number"
    ),
    CodeTask(
        "squares a number", "square", "number", "number * number", "number + number", "the square"
    ),
    CodeTask(
        "counts the letters of a word",
        "count_letters",
        "word",
        "len(word)",
        "word[0]",
        "the length",
    ),
    CodeTask(
        "returns the last item of a list",
        "last_item",
        "items",
        "items[-1]",
        "items[0]",
        "the last item",
    ),
    CodeTask(
        "returns the first item of a list",
        "first_item",
        "items",
        "items[0]",
        "items[-1]",
        "the first item",
    ),
    CodeTask(
        "sums the numbers of a list",
        "total",
        "numbers",
        "sum(numbers)",
        "len(numbers)",
        "the total",
    ),
)
CODE_QUESTIONS = (
    "Write a Python function that {0}.",
    "I need a Python function that {0}.",
    "Show me Python code that {0}.",
)


class AdviceTopic(NamedTuple):
    """Everyday worry, with the suggestion that fits it."""

    worry: str
    suggestion: str
    reason: str


ADVICE_TOPICS = (
    AdviceTopic(
        "My neighbour plays loud music at night.",
        "Talk to your neighbour about quiet hours.",
        "People rarely know how loud their music is next door.",
    ),
    AdviceTopic(
        "I cannot fall asleep in the evening.",
        "Put your phone away an hour before bed.",
        "Bright screens keep the mind awake at night.",
    ),
    AdviceTopic(
        "My plant has yellow leaves.",
        "Water the plant less and give it more light.",
        "Wet roots turn the leaves yellow.",
    ),
    AdviceTopic(
        "I always lose my keys.",
        "Hang a hook for your keys beside the door.",
        "A fixed place for keys turns into a habit.",
    ),
    AdviceTopic(
        "My parcel arrived broken.",
        "Send a photo of the parcel to the shop.",
        "A shop replaces a broken parcel when it sees the damage.",
    ),
    AdviceTopic(
        "I am nervous before a speech.",
        "Practise the speech aloud with a friend.",
        "A speech that was spoken before feels familiar.",
    ),
    AdviceTopic(
        "My bread does not rise.",
        "Check that the yeast for your bread is fresh.",
        "Old yeast cannot lift the dough of a bread.",
    ),
    AdviceTopic(
        "I forget the names of new people.",
        "Repeat the name of a person when you meet.",
        "A name that was said aloud stays in the memory.",
    ),
)
ADVICE_QUESTIONS = ("{0} What should I do?", "{0} Can you help?", "{0} Do you have any advice?")


class RiskyRequest(NamedTuple):
    """Harmful request, and a harmless alternative."""

    request: str
    instead: str


RISKY_REQUESTS = (
    RiskyRequest("get into the wifi of my neighbour", "ask your neighbour for a guest password"),
    RiskyRequest("read the messages of my sister in secret", "talk with your sister openly"),
    RiskyRequest("copy the answers in an exam", "study with a friend before the exam"),
    RiskyRequest("get into a concert without a ticket", "look for a cheaper ticket"),
    RiskyRequest("open the locked desk of a colleague", "ask your colleague for the papers"),
    RiskyRequest("fake a note from my doctor", "ask for a day off honestly"),
    RiskyRequest("drive home after many beers", "call a taxi to get home"),
    RiskyRequest("take a bike that is not mine", "rent a bike for the day"),
    RiskyRequest("skip the fare on the train", "buy a monthly ticket for the train"),
    RiskyRequest("post a lie about a rival shop", "write about what your shop does well"),
)
RISKY_QUESTIONS = ("How can I {0}?", "Tell me how to {0}.", "What is the best way to {0}?")

COURTEOUS = (
    "Thank you for asking, I am glad to help.",
    "That is a lovely question, thank you.",
    "I am happy to help you with this.",
    "Of course, it is a pleasure to help.",
    "Thanks for coming to me with this.",
)
RUDE = (
    "Why do you bother me with this again.",
    "Everybody but you knows this already.",
    "What a silly thing to ask me now.",
    "You really should have known this.",
    "I have no patience for such things.",
)
PADDING = (
    "There are of course many ways to look at it.",
    "People have talked about this for a long time.",
    "It is worth taking a moment to think about it.",
    "As is so often the case, there is more to say.",
    "In other words, it is what I have just said.",
    "All things considered, that is how it stands.",
    "This may be useful on many other occasions too.",
    "One could go on about this for quite a while.",
    "Generally speaking, such matters come up a lot.",
    "To sum up once more, see what is written above.",
    "It goes without saying that details can vary.",
    "Needless to say, one could add a few more words.",
)
BARE_CLAIMS = (
    "That is simply how it is, believe me.",
    "I am entirely sure about this one.",
    "There is no need to ask any further.",
    "You can just take my word for that.",
)
SYSTEM_MESSAGES = (
    "You are a helpful assistant.",
    "Answer the user in a few sentences.",
    "You work at the help desk of a library.",
)
SMALL_TALK = (
    ("Hello.", "Hello, what can I do for you?"),
    ("Good morning!", "Good morning, how can I help?"),
    ("Are you there?", "Yes, I am here."),
    ("I have a question.", "Please go ahead and ask."),
)
