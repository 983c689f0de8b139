"""States of a response cut after each of its tokens, its turn closed each time.

A model is read at the token that closes a turn.  The states at other tokens are unlike those, so a
response that was cut after t tokens is closed before it is read.  Each needs only its closing
tokens computed: they attend to the keys and values of the first t tokens of the whole response.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt
from armorm.features.lengths import PositionScaling, attention_span
from armorm.features.running import BackboneFeatures, ModelRunner, is_out_of_memory
from armorm.features.shared_attention import KeptTrunk, TreeSpans

KEYS_PER_TOKEN = 4
"""Keys that a pass on a GPU may copy for each token of its budget: each cut copies its own."""


def closed_prefixes(prompt: EncodedPrompt, first: int, closing: int) -> EncodedPrompt:
    """Return the conversations that :func:`prefix_features` reads, each with all its tokens.

    Args:
        prompt: A prompt with one response.
        first: Position of the first token of the response.
        closing: Number of tokens at the end that close its turn.
    """
    ids = prompt.sequences[0]
    end = len(ids) - closing
    cut = tuple(ids[:place] + ids[end:] for place in range(first, end + 1))
    return EncodedPrompt(cut, prompt.boundary, prompt.dropped_turns)


def prefix_features(
    runner: ModelRunner, prompt: EncodedPrompt, first: int, closing: int
) -> BackboneFeatures:
    """Return the states of a response cut before its first token, and after each, closed each time.

    A response of n tokens costs its own pass and n times its closing tokens, where the model's
    attention allows it (:mod:`armorm.features.running`); otherwise one pass for each cut.

    Args:
        runner: Runner of the model.
        prompt, first, closing: See :func:`closed_prefixes`.
    """
    length = len(prompt.sequences[0])
    scaling, span = PositionScaling.of(runner.model), attention_span(runner.model)
    fits = (scaling is None or length <= scaling.limit) and (span is None or length <= span)
    if closing and fits and runner.sharing_obstacle is None:
        try:
            return _packed(runner, prompt, first, closing)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return runner.run([closed_prefixes(prompt, first, closing)])


@torch.inference_mode()
def _packed(
    runner: ModelRunner, prompt: EncodedPrompt, first: int, closing: int
) -> BackboneFeatures:
    ids = prompt.sequences[0]
    end = len(ids) - closing
    kept = KeptTrunk()
    whole = TreeSpans((0, end), ((end, len(ids)),), kept)
    read = [prompt.boundary, len(ids) - 1]
    found = runner.run_spans(ids, range(len(ids)), [whole], read)
    states: list[Float[Tensor, "cuts hidden"]] = []
    for cuts in _cuts_by_pass(runner, range(first, end), closing):
        starts = range(0, len(cuts) * closing, closing)
        spans = [
            TreeSpans((start, start), ((start, start + closing),), kept.beginning(cut))
            for start, cut in zip(starts, cuts, strict=True)
        ]
        positions = [cut + i for cut in cuts for i in range(closing)]
        last = [start + closing - 1 for start in starts]
        states.append(runner.run_spans(ids[end:] * len(cuts), positions, spans, last))
    states.append(found[1:])
    rows = torch.cat(states)
    return BackboneFeatures(found[:1], rows, len(ids) + closing * (len(rows) - 1))


def _cuts_by_pass(runner: ModelRunner, cuts: range, closing: int) -> Iterator[range]:
    size = runner.max_tokens // closing
    if runner.device.type == "cuda" and cuts:
        size = min(size, KEYS_PER_TOKEN * runner.max_tokens // cuts[-1])
    size = max(1, size)
    return (cuts[i : i + size] for i in range(0, len(cuts), size))
