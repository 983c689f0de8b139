"""Features of several layers from one pass over the data.

The first layers of a deep model are those of the shallow ones, so one forward pass has the states
of all.  Each layer gets a store of its own, the same as the cut model's (``backbone.layer``).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor

from armorm.conversations import EncodedPrompt
from armorm.errors import NonFiniteError
from armorm.features.backbone import Backbone
from armorm.features.extraction import (
    BackboneSettings,
    ExtractionWork,
    Rows,
    extract_here,
    plan_work,
    run_extraction,
)
from armorm.features.layers import find_final_norm, find_layers, layer_output
from armorm.features.options import StoreOptions
from armorm.features.processes import Process
from armorm.features.running import BackboneFeatures, CountTokens, ModelRunner, ReadAlso
from armorm.features.shards import InvalidRows
from armorm.features.store_writing import StoreWriter
from armorm.objectives import ObjectiveSet
from armorm.progress import Advance


class LayersRunner(ModelRunner):
    """A runner whose states are those of several layers, side by side.

    Layers are read as they leave the model.  The final norm is applied to the rows that were asked
    for, at the end.

    Args:
        runner: Runner of the model.
        layers: Numbers of the layers, at least 1 and at most the model's.
    """

    def __init__(self, runner: ModelRunner, layers: Sequence[int]) -> None:
        super().__init__(runner.model, runner.max_tokens, share_prompts=False)
        # Compared after the norm: before it, a few huge numbers would hide any difference.
        self._obstacle = runner.sharing_obstacle
        name, parent, _ = find_layers(self.model)
        self._layers = [getattr(parent, name)[layer - 1] for layer in layers]
        self._norm = find_final_norm(self.model)

    @property
    def state_size(self) -> int:
        """Numbers that are read at a token."""
        return self.hidden_size * len(self._layers)

    def run(
        self,
        prompts: Sequence[EncodedPrompt],
        advance: CountTokens | None = None,
        read_also: ReadAlso | None = None,
    ) -> BackboneFeatures:
        """Return the states of all layers, one layer's columns after the other's."""
        raw = super().run(prompts, advance, read_also)
        return replace(
            raw,
            prompts=self._normed(raw.prompts),
            responses=self._normed(raw.responses),
            tokens=tuple(map(self._normed, raw.tokens)),
        )

    def _hidden_states(self, **inputs: Any) -> Float[Tensor, "sequences tokens state"]:
        read: list[Tensor] = []
        handles = [
            layer.register_forward_hook(lambda *call: read.append(layer_output(call[2])))
            for layer in self._layers
        ]
        try:
            super()._hidden_states(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        return torch.cat([states.to(self.device) for states in read], dim=-1)

    @torch.inference_mode()
    def _normed(self, raw: Float[Tensor, "rows state"]) -> Float[Tensor, "rows state"]:
        states = raw.to(self.device, self.model.dtype).reshape(
            len(raw), len(self._layers), self.hidden_size
        )
        normed: Tensor = self._norm(states)
        return normed.float().flatten(1).cpu()


def view_of_layer(backbone: Backbone, layer: int) -> Backbone:
    """Return a backbone with the features of one of its layers, which shares its weights.

    Args:
        backbone: A backbone that was loaded up to this layer, or further.
        layer: Number of the layer.
    """
    view = copy.copy(backbone)
    if layer < backbone.model.config.num_hidden_layers:
        view.runner = LayersRunner(backbone.runner, [layer])
        view.layer = layer
        view.identity = {**backbone.identity, "layer": layer}
    return view


def extract_layers(
    rows: Rows,
    backbone: Backbone,
    stores: Mapping[int, Path],
    options: StoreOptions | None = None,
    *,
    objectives: ObjectiveSet | None = None,
    invalid: InvalidRows = "error",
    show_progress: bool = False,
) -> None:
    """Compute what is missing in the stores of several layers, in one pass over the rows.

    Afterwards :func:`armorm.extract_features` with the view of a layer finds all shards in the
    layer's store and finishes it.

    Args:
        rows: Rows of one kind.
        backbone: The model, loaded up to the deepest of the layers.
        stores: Folder of the store of each layer.
        options, objectives, invalid, show_progress: See :func:`armorm.extract_features`.

    Raises:
        ArmormError: See :func:`armorm.extract_features`.
    """
    options = options or StoreOptions()
    process = Process()
    with ExitStack() as locks:
        writers: dict[int, StoreWriter] = {}
        for layer in sorted(stores):
            locks.enter_context(process.holding(stores[layer]))
            settings = BackboneSettings.of(view_of_layer(backbone, layer))
            work = plan_work(rows, settings, stores[layer], options, objectives, invalid)
            if not work.writer.manifest.complete:
                writers[layer] = work.writer
        if not writers:
            return
        # A shard of the deepest layer is written last, so it stands for those of all others.
        *others, deepest = writers
        reader = copy.copy(backbone)
        reader.runner = LayersRunner(backbone.runner, list(writers))

        def make_shards(
            work: ExtractionWork, shards: Sequence[int], advance: Advance
        ) -> Iterator[Counter[str]]:
            joint = _LayerWriter(work.writer, [writers[layer] for layer in others])
            return extract_here(reader, replace(work, writer=joint), shards, advance)

        run_extraction(
            make_shards,
            rows,
            BackboneSettings.of(view_of_layer(backbone, deepest)),
            stores[deepest],
            options,
            process,
            objectives=objectives,
            invalid=invalid,
            show_progress=show_progress,
        )


class _LayerWriter(StoreWriter):
    """Write access to the stores of several layers at once, that of the deepest last."""

    def __init__(self, deepest: StoreWriter, others: Sequence[StoreWriter]) -> None:
        super().__init__(deepest.path, deepest.manifest)
        self._writers = [*others, deepest]

    def write_shard(self, shard: int, features: BackboneFeatures, index: pa.Table) -> None:
        """Write one shard of every store; see :meth:`StoreWriter.write_shard`."""
        count = len(self._writers)
        parts = (features.prompts.chunk(count, dim=1), features.responses.chunk(count, dim=1))
        try:
            for writer, prompts, responses in zip(self._writers, *parts, strict=True):
                if not writer.is_done(shard):
                    writer.write_shard(shard, BackboneFeatures(prompts, responses), index)
        except NonFiniteError:
            for writer in self._writers:  # another number format must replace them all
                writer.mark_unusable()
            raise
