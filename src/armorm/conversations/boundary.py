r"""The prompt boundary: the token that closes the last user turn, where the gate reads.

It is the same rule wherever ids are all there is: in :meth:`RewardModel.score_ids`, in exported
folders (whose modelling file has a twin of :meth:`BoundaryRule.find`), and in vLLM. A template is
rendered with unlike user texts and unlike responses; what all of them share around the boundary,
and nothing that merges with a text beside it, becomes the pattern that is searched for.

For Llama-3 and Gemma-2 it is the released rule: the first token of the last
``<|eot_id|><|start_header_id|>assistant<|end_header_id|>\\n\\n`` or
``<end_of_turn>\\n<start_of_turn>model\\n`` of the conversation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from armorm.conversations.messages import Message, with_response
from armorm.conversations.tokens import Tokens
from armorm.errors import InputError, TemplateError, shorten

USER = "armormusermark"
RESPONSE = "armormresponsemark"

# Beginnings of responses that merge with different ends of a header, and ends of user texts that
# merge with different closings.
_RESPONSES = (
    RESPONSE, "a", " a", "  a", "\na", "\n\na", "\n\n\na", "\t a", "<think>\nb\n</think>\n\na",
    "```\na", "> a", "] a", "[a", "| a", ": a", "<a", "(a", "*a", "# a", '"a', "1", "é", "\u3042",
)  # fmt: skip
_ENDINGS = ("", " ", "\n", "\n\n", "]", ">", ":", ".", "\n ", "<", "\u3042")


@dataclass(frozen=True, slots=True)
class BoundaryRule:
    """Rule that finds the prompt boundary in bare token ids.

    Attributes:
        pattern: Ids around the boundary that every conversation has there.
        offset: Position of the boundary in the pattern.
        lead: Number of ids between the pattern and the response.
        answer_end: Id of the control token after each response, where the pattern holds no control
            token and text could spell it: the pattern must then occur once in the last turn. -1 if
            there is none.
        trailing: Ids of a header that the template writes after a response, as if another one
            followed. They are cut off.
    """

    pattern: tuple[int, ...]
    offset: int = 0
    lead: int = 0
    answer_end: int | None = None
    trailing: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Any) -> BoundaryRule:
        """Return the rule that a model's configuration holds."""
        return cls(
            tuple(config.boundary_pattern),
            getattr(config, "boundary_offset", None) or 0,
            getattr(config, "boundary_lead", None) or 0,
            getattr(config, "boundary_answer_end", None),
            tuple(getattr(config, "boundary_trailing", None) or ()),
        )

    def as_config(self) -> dict[str, Any]:
        """Return the keys of ``config.json``, for :meth:`of`."""
        return {
            f"boundary_{name}": list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    def without_trailing(self, ids: Sequence[int]) -> list[int]:
        """Return the ids up to the end of the response's turn."""
        row, width = list(ids), len(self.trailing)
        return row[:-width] if width and tuple(row[-width:]) == self.trailing else row

    def find(self, ids: Sequence[int]) -> int:
        """Return the index of the boundary in the ids of a conversation, without trailing ones.

        Raises:
            InputError: There is none, no response follows it, or a text spells the pattern.
        """
        row = list(ids)
        first, last, lead = 0, len(row), self.lead + 1
        if self.answer_end is not None and self.answer_end >= 0:
            ends = _places(row, self.answer_end)
            last = ends[-1] if ends else -1
            first = ends[-2] + 1 if len(ends) > 1 else 0
            lead = 0  # a prompt that waits for its response has no end of one
        found = self._occurrences(row, first, last)
        if not found or found[-1] + len(self.pattern) + lead > last:
            raise InputError(
                "input_ids",
                row[-8:],
                f"no end of a user turn followed by a response (pattern {list(self.pattern)})",
                "Were they cut, rendered by another model's template, or with "
                "add_generation_prompt?",
            )
        if self.answer_end is not None and len(found) > 1:
            raise InputError(
                "messages",
                row[found[-1] : found[-1] + len(self.pattern)],
                "a text of the last turn spells the template's own markers, so it cannot be told "
                "where the response begins",
                "Remove or rewrite them.",
            )
        return found[-1] + self.offset

    def _occurrences(self, row: list[int], first: int, last: int) -> list[int]:
        """Positions of the pattern that begin at ``first`` or later and end before ``last``."""
        if not self.pattern:
            return []
        wanted, width = list(self.pattern), len(self.pattern)
        starts = (place - self.offset for place in _places(row, wanted[self.offset]))
        return [
            start
            for start in starts
            if first <= start <= last - width and row[start : start + width] == wanted
        ]


def _places(row: list[int], wanted: int) -> list[int]:
    found, place = [], -1
    try:
        while True:
            place = row.index(wanted, place + 1)
            found.append(place)
    except ValueError:
        return found


def check_bos(ids: Sequence[int], bos: int | None) -> None:
    """Refuse ids that begin with two BOS tokens.

    Raises:
        InputError: They do.
    """
    if bos is not None and list(ids[:2]) == [bos, bos]:
        raise InputError(
            "input_ids",
            list(ids[:8]),
            "two BOS tokens",
            "The template writes one: tokenize its text with add_special_tokens=False.",
        )


@dataclass(frozen=True, slots=True)
class Split:
    """Knowledge of a template at the end of a prompt.

    Attributes:
        rule: How the boundary is found in ids.
        from_end: Number of ids from the boundary to the end of a conversation whose response is
            :data:`RESPONSE`.
        appended: Text of the header that the template writes after a response, if it does.
    """

    rule: BoundaryRule
    from_end: int
    appended: str


Render = Callable[..., str]


def probe(render: Render, tokens: Tokens, bos: int | None) -> Split:
    """Learn from marked messages what a template writes around the end of a prompt.

    Args:
        render: From messages, and ``add_generation_prompt``, to text.
        tokens: The tokenizer; what the template writes is reserved in it.
        bos: Id of the BOS token.

    Raises:
        TemplateError: The template cannot be split there.
        InputError: The template refuses a user turn followed by a response.
    """
    prompt: list[Message] = [{"role": "user", "content": USER}]
    bare, whole = render(prompt), render(with_response(prompt, RESPONSE))
    if USER not in bare or RESPONSE not in whole:
        raise TemplateError("The chat template does not write the messages' text.")
    user_end = bare.rindex(USER) + len(USER)
    if not whole.startswith(bare[:user_end]):
        raise TemplateError(
            "The chat template cannot be split: a rendered prompt is not the beginning of "
            f"the rendered conversation ({shorten(bare)} against {shorten(whole)})."
        )
    response_start = whole.rindex(RESPONSE)
    gap, tail = whole[user_end:response_start], whole[response_start + len(RESPONSE) :]
    tokens.reserve(whole[: user_end - len(USER)] + "\0" + gap + "\0" + tail)
    appended = _appended_header(render, tokens, gap, tail)
    whole = whole.removesuffix(appended)
    ids = tokens.encode(whole)
    if bos is not None and ids[:2] == [bos, bos]:
        raise TemplateError("The chat template writes the BOS token twice.")
    offsets = tokens.offsets(whole)
    closing = gap[: shared_length([bare[user_end:], gap])]
    target = user_end + _closing_character(closing, gap, tokens)
    boundary = _token_at(offsets, target)
    families = [
        [_encoded(render, tokens, USER + ending, text, appended) for text in _RESPONSES]
        for ending in _ENDINGS
    ]
    # Tokens that change with the response cannot belong to the prompt: the boundary moves left.
    unstable = max(len(rows[0]) - shared_length(rows) for rows in families)
    from_end = max(len(ids) - boundary, unstable + 1)
    boundary = len(ids) - from_end
    left = [rows[0][: len(rows[0]) - from_end][::-1] for rows in families]
    right = [rows[0][len(rows[0]) - from_end : shared_length(rows)] for rows in families]
    before = sum(start >= user_end for start, _ in offsets[:boundary])
    offset = min(shared_length(left), before)
    pattern = tuple(ids[boundary - offset : boundary + shared_length(right)])
    if boundary < 0 or offsets[boundary][0] < user_end or len(pattern) <= offset:
        raise TemplateError(
            "The chat template cannot be split: nothing stands between the user turn and the "
            f"response ({shorten(whole)})."
        )
    lead = max(0, _token_at(offsets, response_start) - (boundary - offset + len(pattern)))
    controls = {tokens.added[token] for token in tokens.control}
    end = None
    if controls.isdisjoint(pattern):
        end = next((one for one in tokens.encode(tail) if one in controls), -1)
    trailing = tuple(tokens.encode(whole + appended)[len(ids) :])
    return Split(BoundaryRule(pattern, offset, lead, end, trailing), from_end, appended)


def _encoded(render: Render, tokens: Tokens, user: str, response: str, appended: str) -> list[int]:
    prompt: list[Message] = [{"role": "user", "content": user}]
    return tokens.encode(render(with_response(prompt, response)).removesuffix(appended))


def _closing_character(closing: str, gap: str, tokens: Tokens) -> int:
    """Return the position in the gap of a character of the token that closes the user turn.

    It is the first control token of the closing; else the last token of the closing; else, where
    nothing closes the turn, the last token of the response's header.
    """
    present = [closing.index(token) for token in tokens.control if token in closing]
    text = closing.rstrip() or gap.rstrip()
    return min(present, default=max(len(text) - 1, 0))


def _appended_header(render: Render, tokens: Tokens, gap: str, tail: str) -> str:
    """Return the header that the template writes after the response too, if it does."""
    prompt: list[Message] = [{"role": "user", "content": USER}]
    following: Message = {"role": "user", "content": USER[::-1]}
    try:
        text = render([*with_response(prompt, RESPONSE), *with_response([following], "b")])
    except InputError:
        return ""
    before = tokens.units(text.partition(USER)[0])
    between = tokens.units(text.partition(RESPONSE)[2].partition(following["content"])[0])
    opening = shared_length([before[::-1], between[::-1]])
    ending = "".join(between[: len(between) - opening])
    header = tail.removeprefix(ending)
    return header if header.strip() and header != tail and gap.endswith(header) else ""


def _token_at(offsets: Sequence[tuple[int, int]], character: int) -> int:
    """Return the index of the token that holds a character."""
    return next((i for i, (_, end) in enumerate(offsets) if end > character), len(offsets))


def shared_length(rows: Sequence[Sequence[object]]) -> int:
    """Count the ids, or characters, that all rows begin with."""
    columns = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*rows, strict=False))
    return sum(1 for _ in columns)
