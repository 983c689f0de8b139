"""What is judged: conversations, rated responses, preference pairs, and how they are rendered."""

from armorm.conversations.messages import (
    Conversation,
    Message,
    PreferencePair,
    RatedResponse,
    located_in,
    prompt_key,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.conversations.rendering import (
    ConversationEncoder,
    EncodedPrompt,
    OverlongError,
    OverlongPolicy,
    last_occurrence,
    unpad,
)

__all__ = [
    "Conversation",
    "ConversationEncoder",
    "EncodedPrompt",
    "Message",
    "OverlongError",
    "OverlongPolicy",
    "PreferencePair",
    "RatedResponse",
    "last_occurrence",
    "located_in",
    "prompt_key",
    "unpad",
    "validate_conversation",
    "validate_prompt",
    "validate_response",
]
