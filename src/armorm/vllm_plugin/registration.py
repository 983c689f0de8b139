"""Registration of the plugin's architectures in vLLM."""

from __future__ import annotations

from typing import Any

from vllm import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

from armorm.vllm_plugin import REWARD_SUFFIX, STATES_SUFFIX
from armorm.vllm_plugin.admission import admit_by_boundary
from armorm.vllm_plugin.bodies import families
from armorm.vllm_plugin.configuring import complete_config, keep_cache_off_the_boundary


class GatedModelConfig(VerifyAndUpdateConfig):  # type: ignore[misc]
    """Hooks that vLLM calls on a configuration with one of the plugin's architectures."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        """Complete the model's configuration."""
        complete_config(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: Any) -> None:
        """Keep the prefix cache off the boundary."""
        keep_cache_off_the_boundary(vllm_config)


def register_architectures() -> None:
    """Add the architectures for every family of decoders, and the check of incoming requests."""
    for family in families():
        for suffix in (REWARD_SUFFIX, STATES_SUFFIX):
            name = f"{family}{suffix}"
            # By name, so that nothing heavy is imported before vLLM has chosen its device.
            ModelRegistry.register_model(name, f"armorm.vllm_plugin.models:{name}")
            MODELS_CONFIG_MAP[name] = GatedModelConfig
    admit_by_boundary()
