"""Rewards per token for verl (0.9.1): ``token_level_scores`` in place of one number at the end.

verl's estimators that read single tokens use them: ``gae``, ``reinforce_plus_plus``, ``remax`` and
the optimal token baselines.  ``grpo``, ``gdpo``, ``rloo`` and the others sum them, so that nothing
changes there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from armorm.errors import InputError
from armorm.integrations.token_credits import TokenCredits

TokenLevelScores = Callable[[Sequence[Any], Tensor, Tensor], Tensor]


def verl_token_level_scores(credits: TokenCredits) -> TokenLevelScores:
    """Return a function for the tensor that verl calls ``token_level_scores``.

    Args:
        credits: Reward model and the policy's tokenizer.

    Returns:
        ``scores(prompts, responses, attention_mask, response_mask=None)``: the messages of each
        prompt; right-padded ids of shape (batch, response_length); 1 at real ids, of the same
        shape; and 1 at those that the policy wrote, if others (a tool's) are among them. It answers
        a float32 tensor of that shape, 0 at padding and at ids that the policy did not write; each
        row sums to the score.
    """

    def scores(
        prompts: Sequence[Any],
        responses: Tensor,
        attention_mask: Tensor,
        response_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch length"]:
        if responses.shape != attention_mask.shape:
            raise InputError(
                "attention_mask",
                list(attention_mask.shape),
                f"not of the shape of the responses, {list(responses.shape)}",
                "Give its part at the responses: attention_mask[:, prompt_length:].",
            )
        lengths = attention_mask.sum(dim=1).tolist()
        ids = [row[:length].tolist() for row, length in zip(responses, lengths, strict=True)]
        masks = None
        if response_mask is not None:
            masks = [
                row[:length].tolist() for row, length in zip(response_mask, lengths, strict=True)
            ]
        found = torch.zeros(responses.shape, dtype=torch.float32)
        for row, rewards in zip(found, credits(prompts, ids, masks), strict=True):
            row[: len(rewards)] = rewards.float()
        return found.to(responses.device)

    return scores


def verl_dense_manager(base: type, load: Callable[[Any], TokenCredits]) -> type:
    """Return a reward manager for verl whose rewards are per token.

    verl loads it by ``reward.reward_manager.source: importlib`` from a file of yours::

        from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
        from armorm import RewardModel
        from armorm.integrations import TokenCredits, verl_dense_manager

        ArmoDense = verl_dense_manager(
            RewardManagerBase,
            lambda tokenizer: TokenCredits(RewardModel.from_pretrained("MODEL"), tokenizer),
        )

    verl 0.9.1 asks the manager to assemble the tensor only where rewards are computed after the
    rollout: with ``reward.reward_model.enable: true`` and ``enable_resource_pool: false``.
    Otherwise its agent loop takes one number per response, and there this manager raises an error.

    Args:
        base: verl's ``RewardManagerBase``.
        load: From the policy's tokenizer to the credits; called once by each worker.
    """

    class ArmoDenseManager(base):  # type: ignore[misc]
        def __init__(self, config: Any, tokenizer: Any, compute_score: Any, **others: Any) -> None:
            super().__init__(config, tokenizer, compute_score)
            del others
            model = config.reward.reward_model
            if not model.enable or model.enable_resource_pool:
                raise InputError(
                    "reward.reward_model",
                    {"enable": model.enable, "enable_resource_pool": model.enable_resource_pool},
                    "set so that verl takes one number per response in its agent loop, where "
                    "rewards per token have no place",
                    "Set enable: true and enable_resource_pool: false, or use verl_compute_score.",
                )
            self._credits = load(tokenizer)

        async def run_single(self, data: Any) -> dict[str, Any]:
            """Return the rewards of one response's tokens."""
            item = data[-1:][0]
            ids = item.batch["responses"]
            length = int(item.batch["attention_mask"][-ids.shape[-1] :].sum())
            mask = item.batch["response_mask"][:length].tolist()
            prompt = item.non_tensor_batch["extra_info"]["prompt"]
            prompt = prompt.tolist() if hasattr(prompt, "tolist") else prompt

            def rewards() -> list[float]:
                return self._credits([prompt], [ids[:length].tolist()], [mask])[0].tolist()

            found = await self.loop.run_in_executor(None, rewards)
            return {"reward_score": found, "reward_extra_info": {"score": sum(found)}}

        @classmethod
        def assemble_rm_scores(cls, data: Any, scores: Sequence[Sequence[float]]) -> Tensor:
            """Place the rewards of each response at its tokens."""
            found = torch.zeros_like(data.batch["responses"], dtype=torch.float32)
            for row, rewards in zip(found, scores, strict=True):
                row[: len(rewards)] = torch.tensor(rewards)
            return found

    return ArmoDenseManager
