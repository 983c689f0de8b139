"""Conversations, rated responses and preference pairs, and their encoding as token ids."""

from armorm.conversations.boundary import BoundaryRule
from armorm.conversations.encoding import (
    ConversationEncoder,
    EncodedPrompt,
    OverlongError,
    OverlongPolicy,
    unpad,
)
from armorm.conversations.messages import (
    Conversation,
    Message,
    PreferencePair,
    RatedResponse,
    located_in,
    prompt_key,
    row_key,
    validate_conversation,
    validate_prompt,
    validate_response,
)

__all__ = [
    "BoundaryRule",
    "Conversation",
    "ConversationEncoder",
    "EncodedPrompt",
    "Message",
    "OverlongError",
    "OverlongPolicy",
    "PreferencePair",
    "RatedResponse",
    "located_in",
    "prompt_key",
    "row_key",
    "unpad",
    "validate_conversation",
    "validate_prompt",
    "validate_response",
]
