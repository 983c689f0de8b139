"""Models whose computation changes at some length: sliding windows and rescaled positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from armorm.conversations import EncodedPrompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def attention_span(model: PreTrainedModel) -> int | None:
    """Return the number of tokens up to which every token attends to all tokens before it.

    ``None`` means that there is no limit.
    """
    config = model.config.get_text_config()
    if not getattr(config, "use_sliding_window", True):
        return None
    spans = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((int(span) for span in spans if span), default=None)


@dataclass(frozen=True, slots=True)
class PositionScaling:
    """Rotary embeddings whose frequencies depend on the length of the whole sequence.

    transformers chooses them by the largest position of a batch, so a token's state depends on
    the tokens *after* it, and on what else is in the batch: a prompt's state would depend on its
    response.  Up to ``limit`` tokens, all lengths have the same frequencies.

    Attributes:
        limit: Number of tokens up to which the original frequencies are used.
        by_length: Whether each length beyond the limit has frequencies of its own (dynamic NTK);
            otherwise all of them have the same ones (LongRoPE).
    """

    limit: int
    by_length: bool

    @classmethod
    def of(cls, model: PreTrainedModel) -> PositionScaling | None:
        """Return the scaling of a model, or ``None`` if its positions depend on no length."""
        config = model.config.get_text_config()
        parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
        # Models with several kinds of layers have parameters for each kind.
        kinds = [one for one in parameters.values() if isinstance(one, dict)] or [parameters]
        found = []
        for kind in kinds:
            name = kind.get("rope_type") or ""
            if "dynamic" in name:
                found.append(cls(int(config.max_position_embeddings), by_length=True))
            elif name == "longrope":
                found.append(cls(int(kind["original_max_position_embeddings"]), by_length=False))
        if not found:
            return None
        return cls(min(one.limit for one in found), any(one.by_length for one in found))

    def forget_lengths(self, model: PreTrainedModel) -> None:
        """Make the next forward pass independent of the lengths of earlier ones.

        The dynamic embedding keeps the frequencies of the longest sequence that it has seen.
        """
        if self.by_length:
            for module in model.modules():
                for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
                    setattr(module, name, 0)


@dataclass(frozen=True, slots=True)
class SeparatedLengths:
    """Conversations regrouped so that those of one group have the same positions.

    Attributes:
        groups: Prompts with those of their conversations that may run together.
        prompt_rows: For each prompt given, the group that its state is read from.
        response_rows: For each response given, its position among all conversations of the groups.
    """

    groups: list[EncodedPrompt]
    prompt_rows: list[int]
    response_rows: list[int]


def separate_lengths(
    prompts: Sequence[EncodedPrompt], scaling: PositionScaling | None
) -> SeparatedLengths:
    """Separate conversations within the limit of the positions from those beyond it.

    A prompt's state is read from a conversation with the positions that the prompt alone has, and
    computed from the prompt alone if there is no such conversation.  So it never depends on the
    responses.
    """
    if scaling is None:
        responses = sum(len(prompt.sequences) for prompt in prompts)
        return SeparatedLengths(list(prompts), list(range(len(prompts))), list(range(responses)))
    groups: list[EncodedPrompt] = []
    prompt_rows: list[int] = []
    response_rows: list[int] = []
    total = 0
    for prompt in prompts:
        ids = list(prompt.prompt_ids)
        within = [i for i, one in enumerate(prompt.sequences) if len(one) <= scaling.limit]
        beyond = [i for i, one in enumerate(prompt.sequences) if len(one) > scaling.limit]
        needs_own = not within and (len(ids) <= scaling.limit or scaling.by_length)
        prompt_rows.append(len(groups))
        rows: dict[int, int] = {}
        if needs_own:
            groups.append(EncodedPrompt((ids,), prompt.boundary))
            total += 1
        for numbers in (within, beyond):
            if numbers:
                sequences = tuple(prompt.sequences[i] for i in numbers)
                groups.append(EncodedPrompt(sequences, prompt.boundary))
                rows |= {number: total + i for i, number in enumerate(numbers)}
                total += len(numbers)
        response_rows += [rows[i] for i in range(len(prompt.sequences))]
    return SeparatedLengths(groups, prompt_rows, response_rows)
