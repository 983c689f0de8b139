"""Two responses in one prompt: the layout of pairwise preference models (SLiC-HF).

The layout is that of RLHFlow's pair-preference models, as transformers renders their plain template
(its block tags swallow one line break each).
"""

from __future__ import annotations

from armorm.conversations.messages import Conversation, Message, PreferencePair

LETTERS = ("A", "B")
"""The answers: the first or the second response is better."""


def pairwise_question(prompt: Conversation, first: str, second: str) -> list[Message]:
    r"""Return the user message that asks which response is better.

    Example:
        >>> question = pairwise_question([{"role": "user", "content": "Hi"}], "Hello", "Go away")
        >>> question[0]["content"]
        '[CONTEXT] \n\n<turn> user\n Hi\n [RESPONSE A] Hello [RESPONSE B] Go away \n'
    """
    turns = "".join(f"\n<turn> {message['role']}\n {message['content']}" for message in prompt)
    text = f"[CONTEXT] \n{turns}\n [RESPONSE A] {first} [RESPONSE B] {second} \n"
    return [{"role": "user", "content": text}]


def pairwise_rows(pair: PreferencePair) -> list[dict[str, list[Message]]]:
    """Return the training rows of a pair, one for each order of its responses, in TRL's form.

    Both orders are needed: with one, the model learns a letter.
    """
    return [
        {
            "prompt": pairwise_question(pair.prompt, *responses),
            "completion": [{"role": "assistant", "content": letter}],
        }
        for responses, letter in (
            ((pair.chosen, pair.rejected), LETTERS[0]),
            ((pair.rejected, pair.chosen), LETTERS[1]),
        )
    ]
