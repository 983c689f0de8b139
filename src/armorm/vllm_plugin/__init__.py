"""The gated reward model inside vLLM: a plugin that vLLM finds by its entry point.

For every decoder that vLLM can run, two architectures are added:

``<Family>ForRewardModelWithGating``
    Named by the ``config.json`` of the released checkpoint and of exports.  Task ``classify``: the
    k rewards, the k gating coefficients and the score, in this order.
``<Family>ForPromptAndResponseStates``
    Any decoder without its head.  Task ``token_embed``: the hidden states at the prompt boundary
    and at the last token.  :class:`armorm.features.vllm_backbone.VllmBackbone` runs on it.

Both read a state in the middle of the conversation, where vLLM's own models read only the last.
Three modules make this possible::

    admission   find the boundary of each incoming request, or refuse the request
    scheduling  take no token at or behind the boundary from the prefix cache
    pooling     keep the state at the boundary until the last chunk is computed
"""

from __future__ import annotations

REWARD_SUFFIX = "ForRewardModelWithGating"
STATES_SUFFIX = "ForPromptAndResponseStates"


def register() -> None:
    """Register the models; vLLM calls this in each of its processes. Safe to call again."""
    from armorm.vllm_plugin.registration import register_architectures

    register_architectures()
