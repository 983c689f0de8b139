"""What is judged: conversations, rated responses, preference pairs, and how they are rendered."""

from armorm.conversations.encoding import (
    ConversationEncoder,
    EncodedPrompt,
    OverlongError,
    OverlongPolicy,
    last_occurrence,
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
    "row_key",
    "unpad",
    "validate_conversation",
    "validate_prompt",
    "validate_response",
]
