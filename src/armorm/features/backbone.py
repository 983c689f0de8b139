"""The frozen language model: conversations in, last hidden states out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from armorm.conversations import ConversationEncoder, EncodedPrompt
from armorm.errors import ArmormError, CheckpointError
from armorm.features.options import BackboneOptions
from armorm.features.processes import Process
from armorm.features.running import BackboneFeatures, ModelRunner
from armorm.files import sha256_of_files, sha256_of_json
from armorm.hub import HEAD_PREFIXES, OTHER_HEADS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Everything a decoder needs, and nothing that could run: no pickled weights, no Python files.
MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]

# On a CPU small batches stay in the cache; a GPU wants as much as fits.
BATCH_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 8192}


class Backbone:
    """A frozen Hugging Face decoder with its tokenizer and chat template.

    Attributes:
        model: The decoder without a language-modelling head, in evaluation mode.
        tokenizer: Its tokenizer; the chat template is pinned to a fixed date.
        encoder: Renders and tokenises conversations and knows the prompt boundary.
        folder: The local folder it was loaded from.
        identity: What a feature depends on: hashes of weights, tokenizer and template, the
            dtype and the boundary pattern.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        folder: Path,
        name: str,
        options: BackboneOptions | None = None,
    ) -> None:
        options = options or BackboneOptions()
        limit = getattr(model.config, "max_position_embeddings", None)
        self.tokenizer = tokenizer
        self.encoder = ConversationEncoder(
            tokenizer,
            max_length=min(filter(None, (options.max_length, limit)), default=None),
            overlong=options.overlong,
        )
        self.tokenizer.chat_template = self.encoder.template
        self.folder = folder
        self.name = name
        self.runner = ModelRunner(
            model.eval().requires_grad_(False),
            options.batch_tokens or BATCH_TOKENS.get(model.device.type, 8192),
            share_prompts=options.share_prompts,
        )
        self.identity = identify(
            name=name,
            revision=getattr(model.config, "_commit_hash", None),
            architecture=model.config.model_type,
            hidden_size=self.hidden_size,
            folder=folder,
            encoder=self.encoder,
            dtype=str(model.dtype),
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        options: BackboneOptions | None = None,
        **fields: Any,
    ) -> Backbone:
        """Load a decoder from a folder or the hub.

        Args:
            name_or_path: A local folder, a hub id, or ``builtin`` for the shipped backbone.
            options: How it is loaded and run.
            **fields: Fields of :class:`~armorm.features.BackboneOptions` that replace those of
                ``options``; any other name is an argument of ``AutoModel.from_pretrained``
                (``device_map``, ``quantization_config`` …).

        Raises:
            CheckpointError: Weights are missing, or only a pickle is there.
            TemplateError: The chat template is missing or cannot be split.
            RecipeError: An option is invalid.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        from armorm.hub.modeling_armorm import ArmoRMConfig, caps_attention

        options = BackboneOptions.of(options, fields)
        folder = resolve_model_folder(name_or_path, options.revision)
        device = options.device or default_device()
        loading: dict[str, Any] = {
            "device_map": device,
            "trust_remote_code": options.trust_remote_code,
            **(options.engine_options if options.engine == "transformers" else {}),
        }
        attention = options.attn_implementation
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=options.trust_remote_code)
            if isinstance(config, ArmoRMConfig):
                config = config.backbone_config
            if attention is None and caps_attention(config):
                attention = "eager"
            if attention is not None:
                loading["attn_implementation"] = attention
            with _without_load_report():
                model, report = AutoModel.from_pretrained(
                    folder,
                    config=config,
                    dtype=resolve_dtype(options.dtype, device),
                    use_safetensors=True,
                    output_loading_info=True,
                    **loading,
                )
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=options.trust_remote_code
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{name_or_path} cannot be loaded: {error}") from error
        _check_complete(str(name_or_path), report)
        if options.compile_model:
            model.compile(dynamic=True)
        return cls(model, tokenizer, folder=folder, name=str(name_or_path), options=options)

    @property
    def model(self) -> PreTrainedModel:
        return self.runner.model

    @model.setter
    def model(self, trained: PreTrainedModel) -> None:
        """The same architecture with other weights."""
        self.runner.model = trained.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.runner.device

    @property
    def hidden_size(self) -> int:
        return self.runner.hidden_size

    @property
    def quantized(self) -> bool:
        return hasattr(self.model.config, "quantization_config")

    def close(self) -> None:
        """Nothing runs besides this object: its memory goes with it."""

    def features(
        self, prompts: Sequence[EncodedPrompt], advance: Callable[[int], None] | None = None
    ) -> BackboneFeatures:
        """Hidden states of encoded prompts and their responses, in float32 on the CPU.

        A prompt is computed once for all its responses where the model's attention allows it
        (see :mod:`armorm.features.running`); no state depends on what else runs beside it.

        Args:
            prompts: What :meth:`ConversationEncoder.encode` returns.
            advance: Called with a number of tokens after each step.

        Raises:
            OutOfMemoryError: a single conversation does not fit into memory.
        """
        return self.runner.run(prompts, advance)


def identify(
    *,
    name: str,
    revision: str | None,
    architecture: str,
    hidden_size: int,
    folder: Path,
    encoder: ConversationEncoder,
    dtype: str,
) -> dict[str, Any]:
    """What the features of a model folder depend on, whichever engine computes them."""
    return {
        "name": name,
        "revision": revision,
        "architecture": architecture,
        "hidden_size": hidden_size,
        "weights_sha256": sha256_of_files(sorted(folder.glob("*.safetensors"))),
        "tokenizer_sha256": _hash_tokenizer(encoder.tokenizer),
        "template_sha256": sha256_of_json(encoder.template),
        "dtype": dtype.removeprefix("torch."),
        "boundary_pattern": list(encoder.boundary_pattern),
    }


def resolve_model_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """The local folder of a model: as given, the shipped backbone, or downloaded from the hub.

    Raises:
        CheckpointError: no such folder, or the hub cannot be reached or has no such model.
    """
    if str(name_or_path) == "builtin":
        from armorm.quickstart import BACKBONE

        return BACKBONE
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(str(name_or_path), revision=revision, allow_patterns=MODEL_FILES)
        )
    except HFValidationError as error:
        raise CheckpointError(f"There is no model folder {str(folder)!r}.") from error
    except Exception as error:  # the hub client raises errors of many libraries
        raise CheckpointError(
            f"{str(name_or_path)!r} is not a local folder and cannot be downloaded: {error}"
        ) from error


def default_device() -> str:
    """A GPU where there is one; each process of a launch has its own."""
    if torch.cuda.is_available():
        return f"cuda:{Process.current().local_rank}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_dtype(dtype: str, device: str) -> torch.dtype | str:
    """``auto`` is float32 on a CPU, bfloat16 elsewhere; ``stored`` is left to transformers."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype == "stored":
        return "auto"
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in known:
        raise ArmormError(f"Unknown dtype {dtype!r}. Use auto, stored, {', '.join(known)}.")
    return known[dtype]


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Keep transformers from warning of the heads we load ourselves: :func:`_check_complete` reads
    the same report, and refuses what is wrong."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check_complete(name: str, report: dict[str, Any]) -> None:
    missing = sorted(report.get("missing_keys", ()))
    mismatched = sorted(str(key) for key in report.get("mismatched_keys", ()))
    unexpected = sorted(
        key
        for key in report.get("unexpected_keys", ())
        if not key.startswith((*HEAD_PREFIXES, *OTHER_HEADS))
    )
    problems = {
        "missing": missing,
        "of the wrong shape": mismatched,
        "that the architecture does not have": unexpected,
    }
    found = [f"tensors {what}: {', '.join(keys[:5])}" for what, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"{name} is not a complete backbone ({'; '.join(found)}). Weights are never made up."
        )


def _hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return sha256_of_json(backend.to_str())
    return sha256_of_json([tokenizer.get_vocab(), tokenizer.special_tokens_map])
