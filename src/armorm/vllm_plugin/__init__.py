"""The gated reward model inside vLLM: a plugin that vLLM finds by its entry point.

For every decoder that vLLM can run, two architectures are added:

``<Family>ForRewardModelWithGating``
    What the released checkpoint and our exports name in ``config.json``.  Task ``classify``: the
    k rewards, the k gating coefficients and the score, in this order.
``<Family>ForPromptAndResponseStates``
    Any decoder without its head.  Task ``token_embed``: the hidden states at the prompt boundary
    and at the last token.  :class:`armorm.features.vllm_backbone.VllmBackbone` runs on it.

Both read a state in the middle of the conversation, where vLLM's own models read the last only.
Who does what about it::

    admission   a request comes in  ->  its boundary is found, or the request is refused
    scheduling  the prefix cache    ->  nothing is taken from it at or behind the boundary
    pooling     chunks of states    ->  the state at the boundary is kept until the last chunk
"""

from __future__ import annotations

REWARD_SUFFIX = "ForRewardModelWithGating"
STATES_SUFFIX = "ForPromptAndResponseStates"


def register() -> None:
    """Register the models; vLLM calls this in each of its processes. Safe to call again."""
    from armorm.vllm_plugin.registration import register_architectures

    register_architectures()
