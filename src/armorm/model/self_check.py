"""Answer to a fixed conversation, saved with a model, so that wrong scores cannot be silent.

A folder can load without an error and still score wrongly: other weights, another tokenizer, a
changed chat template, a doubled BOS token, a config value that this version of a library reads
differently, renamed objectives.  So a saved model records, and loading compares,

- exactly: hashes of the heads with their objectives, of samples of the backbone's stored weights,
  and of the fixed conversation's token ids;
- within what its number format allows: the hidden states that the heads read.  The score itself is
  compared in float32 only.  It is a smooth function of the states and of heads known to be right,
  and a gate can enlarge the rounding of bfloat16 a hundredfold.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from armorm.conversations import EncodedPrompt, Message
from armorm.errors import CheckpointError
from armorm.files import sha256_of_json

PROMPT: tuple[Message, ...] = ({"role": "user", "content": "Name a prime number, and say why."},)
RESPONSE = "7 is prime: only 1 and 7 divide it."

# Allowed length of the difference of two states, divided by the length of the saved one.  Measured
# against float32 on a CPU, on the shipped backbone and on random Llamas of 8 to 32 layers: 0.005 to
# 0.05 in bfloat16, 0.001 to 0.007 in float16.
STATE_TOLERANCE = {"float32": 5e-3, "float16": 5e-2}
LOW_PRECISION_TOLERANCE = 0.2
QUANTIZED_TOLERANCE = 0.5

# Allowed difference of two scores in float32, divided by the sum of the absolute contributions.
SCORE_TOLERANCE = 1e-3

# Numbers of each state that are saved, evenly spaced.
_STATE_SAMPLE = 64


class SelfCheck(BaseModel):
    """Answer of a model to one conversation, with hashes of what the answer depends on."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, frozen=True, allow_inf_nan=False
    )

    prompt: tuple[dict[str, str], ...]
    """Messages of the conversation's prompt."""
    response: str
    """Its response."""
    heads_sha256: str
    """Hash of the heads, the objectives, their scales, and beta."""
    weights_sha256: str
    """Hash of samples of the backbone's stored weights."""
    ids_sha256: str
    """Hash of the token ids and the boundary."""
    states: tuple[tuple[float, ...], tuple[float, ...]]
    """Samples of the two hidden states that the heads read: prompt, response."""
    score: float
    """The score."""
    magnitude: float
    """Sum of the absolute contributions to the score."""
    dtype: str
    """Number format of the backbone."""

    def verify(self, found: SelfCheck, name: str, *, quantized: bool = False) -> None:
        """Compare with the answer of the loaded model to the same conversation.

        Raises:
            CheckpointError: The answer is not the one that was saved.
        """
        if found.ids_sha256 != self.ids_sha256:
            raise _refusal(
                f"{name}: the self-check's token ids are not those the model was saved with. Its "
                "tokenizer, chat template or BOS handling has changed"
            )
        dtypes = {self.dtype, found.dtype}
        allowed = SCORE_TOLERANCE * max(self.magnitude, 1e-6)
        precise = dtypes == {"float32"} and not quantized
        if precise and not abs(found.score - self.score) <= allowed:
            raise _refusal(
                f"{name}: the self-check scores {found.score:.6g}, but the model was saved with "
                f"{self.score:.6g}. Its weights or config have changed"
            )
        tolerance = max(STATE_TOLERANCE.get(dtype, LOW_PRECISION_TOLERANCE) for dtype in dtypes)
        tolerance = QUANTIZED_TOLERANCE if quantized else tolerance
        difference = max(map(_relative_difference, found.states, self.states))
        if not difference <= tolerance:
            raise _refusal(
                f"{name}: the self-check's hidden states differ by {difference:.2g} of their "
                f"length from those the model was saved with ({found.dtype} against {self.dtype}; "
                f"allowed {tolerance:g}). Its weights or config have changed"
            )
        if found.heads_sha256 != self.heads_sha256:
            raise _refusal(
                f"{name}: the heads, objectives, scales or beta are not those the model was saved "
                "with (self-check). One of its files has changed"
            )
        if found.weights_sha256 != self.weights_sha256:
            raise _refusal(
                f"{name}: the weights are not those the model was saved with (self-check). One of "
                "its files has changed"
            )


def sample_state(state: list[float]) -> tuple[float, ...]:
    """Return evenly spaced numbers of a hidden state, rounded to seven digits."""
    step = max(len(state) // _STATE_SAMPLE, 1)
    return tuple(float(f"{number:.6e}") for number in state[::step])


def hash_ids(encoded: EncodedPrompt) -> str:
    """Return a hash of the token ids and the boundary of one conversation."""
    return sha256_of_json([encoded.sequences[0], encoded.boundary])


def _relative_difference(found: tuple[float, ...], saved: tuple[float, ...]) -> float:
    if len(found) != len(saved):
        return math.inf
    return math.dist(found, saved) / max(math.hypot(*saved), 1e-12)


def _refusal(difference: str) -> CheckpointError:
    return CheckpointError(
        f"{difference}, or this version of transformers reads them differently, so every score "
        "would be wrong. Restore the folder or export the model again; to look at it all the same, "
        "load it with verify=False (--no-verify)."
    )
