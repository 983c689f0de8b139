"""Completion of vLLM's configuration before a gated reward model is built."""

from __future__ import annotations

import logging
from typing import Any

from armorm.conversations import ConversationEncoder
from armorm.vllm_plugin import REWARD_SUFFIX

logger = logging.getLogger(__name__)

SCHEDULER = "armorm.vllm_plugin.scheduling.make_scheduler"


def complete_config(model_config: Any) -> None:
    """Add the boundary that the released layout does not hold, and remove misleading labels.

    Raises:
        TemplateError: Neither the folder nor its chat template says where a prompt ends.
    """
    config = model_config.hf_config
    if not model_config.architecture.endswith(REWARD_SUFFIX):
        return
    # /classify answers with the label of the largest number, which means nothing among rewards,
    # coefficients and a score.
    config.id2label = {}
    if not getattr(config, "boundary_pattern", None):
        encoder = _encoder_of(model_config)
        for key, value in encoder.rule.as_config().items():
            setattr(config, key, value)
        config.bos_token_id = encoder.tokenizer.bos_token_id


def keep_cache_off_the_boundary(vllm_config: Any) -> None:
    """Use the scheduler that shares prefixes up to the boundary, or turn prefix caching off."""
    scheduler = vllm_config.scheduler_config
    if scheduler.scheduler_cls is None:
        scheduler.scheduler_cls = SCHEDULER
    elif scheduler.scheduler_cls != SCHEDULER:
        vllm_config.cache_config.enable_prefix_caching = False
        logger.warning(
            "Prefix caching is off: scheduler_cls %s does not know the prompt boundary.",
            scheduler.scheduler_cls,
        )


def _encoder_of(model_config: Any) -> ConversationEncoder:
    from transformers import AutoTokenizer

    return ConversationEncoder(
        AutoTokenizer.from_pretrained(
            model_config.tokenizer, revision=model_config.tokenizer_revision
        )
    )
