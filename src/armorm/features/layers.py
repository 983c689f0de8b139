"""Layers of a decoder: a model cut after one of them, and the states after several in one pass.

The state of layer L is the output of the first L decoder layers after the model's own final norm,
which is the last hidden state of the model without its later layers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from armorm.errors import RecipeError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def cut_config(config: PretrainedConfig, layer: int | None, name: str) -> int | None:
    """Change the configuration of a decoder to one that ends after a layer.

    Args:
        config: Configuration of the whole model.
        layer: Number of layers to keep; ``None`` keeps all.
        name: Name of the model in messages.

    Returns:
        The number of layers, or ``None`` if the model is kept whole.

    Raises:
        RecipeError: The model has no such layer, or cannot be cut.
    """
    if layer is None:
        return None
    layers = count_layers(config, name)
    check_layer(layer, layers, name)
    if layer == layers:
        return None
    for key, value in list(vars(config).items()):
        # One entry for each layer, such as layer_types; its length is checked against their number.
        if "layer" in key and isinstance(value, list) and len(value) == layers:
            setattr(config, key, value[:layer])
    config.num_hidden_layers = layer
    return layer


def check_layer(layer: int, layers: int, name: str) -> None:
    """Raise RecipeError if a model of so many layers has no such one."""
    if not 1 <= layer <= layers:
        raise RecipeError(
            f"backbone.layer = {layer}: {name} has {layers} layers. Give a layer from 1 to "
            f"{layers}, or leave it out for the last one."
        )


def count_layers(config: PretrainedConfig, name: str) -> int:
    """Return the number of layers of a decoder whose layers can be read one by one.

    Raises:
        RecipeError: The model is no plain decoder, or its layers depend on how many there are.
    """
    reason = None
    layers = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False):
        reason = "it has an encoder and a decoder"
    elif config.get_text_config() is not config:
        reason = "its language model is a part of a model of several kinds of input"
    elif getattr(config, "num_kv_shared_layers", None):
        reason = "its last layers share keys and values, whichever layers these are"
    elif not isinstance(layers, int):
        reason = "its configuration does not say how many layers it has (num_hidden_layers)"
    if reason is not None:
        raise RecipeError(
            f"backbone.layer: {name} ({config.model_type}) cannot be cut after a layer, since "
            f"{reason}. Leave backbone.layer out."
        )
    assert isinstance(layers, int)
    return layers


def is_of_later_layer(model: PreTrainedModel, tensor: str) -> bool:
    """Return true if a tensor's name is one of a layer beyond the model's last."""
    name, _, layers = find_layers(model)
    found = re.search(rf"(?:^|\.){re.escape(name)}\.(\d+)\.", tensor)
    return found is not None and int(found[1]) >= layers


def find_layers(model: PreTrainedModel) -> tuple[str, nn.Module, int]:
    """Return the name of the list of decoder layers, the module it belongs to, and its length."""
    layers = int(model.config.num_hidden_layers)
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == layers:
                return name, module, layers
    raise RecipeError(f"{model.config.model_type}: its {layers} layers are not found in the model.")


def find_final_norm(model: PreTrainedModel) -> nn.Module:
    """Return the norm that a decoder applies after its last layer.

    It is the one module beside the layers that runs after them, found by running two tokens.

    Raises:
        RecipeError: No such norm turns the last layer's output into the last hidden state.
    """
    name, parent, _ = find_layers(model)
    last = getattr(parent, name)[-1]
    ran: list[nn.Module] = []
    outputs: list[Any] = []
    beside = [child for child in parent.children() if child is not getattr(parent, name)]
    handles = [module.register_forward_hook(lambda one, *_: ran.append(one)) for module in beside]
    handles.append(last.register_forward_hook(lambda *call: outputs.append(layer_output(call[2]))))
    handles.append(last.register_forward_hook(lambda *_: ran.clear()))
    try:
        with torch.inference_mode():
            ids = torch.tensor([[0, 1]], device=model.device)
            expected = model(input_ids=ids, use_cache=False).last_hidden_state
            norm = ran[0] if len(ran) == 1 else nn.Identity()
            found = norm(outputs[0])
    finally:
        for handle in handles:
            handle.remove()
    if not torch.allclose(found.float(), expected.float(), rtol=1e-2, atol=1e-4, equal_nan=True):
        raise RecipeError(
            f"{model.config.model_type}: the last hidden state is not that of the last layer after "
            "one norm, so layers cannot be compared. Set backbone.layer by hand and train."
        )
    return norm


def layer_output(output: Any) -> Tensor:
    """Return the hidden states among the outputs of a decoder layer."""
    states: Tensor = output[0] if isinstance(output, tuple) else output
    return states
