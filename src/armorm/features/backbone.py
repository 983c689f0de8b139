"""The frozen language model in transformers: conversations in, last hidden states out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from armorm.conversations import ConversationEncoder, EncodedPrompt
from armorm.errors import ArmormError, CheckpointError, RecipeError
from armorm.features.closed_prefixes import prefix_features
from armorm.features.gguf import (
    SUFFIX,
    check_gguf,
    dequantization,
    forget_quantization,
    is_gguf,
    obey_progress_setting,
    transformers_source,
)
from armorm.features.layers import count_layers, cut_config, is_of_later_layer
from armorm.features.options import BackboneDtype, BackboneOptions
from armorm.features.processes import Process
from armorm.features.running import BackboneFeatures, ModelRunner, ReadAlso
from armorm.files import replace_folder, sha256_of, sha256_of_files, sha256_of_json
from armorm.hub import HEAD_PREFIXES, OTHER_HEADS
from armorm.hub.weights import check_sizes, read_object, stored_tensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Everything a decoder needs, and no code: no pickled weights, no Python files.
MODEL_FILES = [
    "*.json",
    "*.safetensors",
    "*.jinja",
    "*.model",
    "*.txt",
    "*.tiktoken",
    "profiles/*.yaml",  # of a reward model
]

# On a CPU small batches stay in the cache; a GPU wants as much as fits.
BATCH_TOKENS = {"cpu": 1024, "cuda": 32768, "mps": 8192}


class Backbone:
    """A frozen Hugging Face decoder with its tokenizer and chat template.

    Several threads may use one backbone.

    Example:
        >>> from armorm import Backbone
        >>> backbone = Backbone.from_pretrained("builtin", device="cpu")
        >>> prompt = [{"role": "user", "content": "What is the capital of France?"}]
        >>> encoded = backbone.encoder.encode(prompt, ["Paris.", "Lyon.", "Paris."])
        >>> features = backbone.features([encoded])
        >>> features.prompts.shape, features.responses.shape
        (torch.Size([1, 192]), torch.Size([3, 192]))
        >>> bool((features.responses[0] == features.responses[2]).all())
        True

    Attributes:
        model: The decoder without a language-modelling head, in evaluation mode.
        tokenizer: Its tokenizer; the chat template is pinned to a fixed date.
        encoder: Renders and tokenises conversations and knows the prompt boundary.
        folder: The local folder, or the GGUF file, that it was loaded from.
        name: The name it was loaded by.
        layer: Number of layers of the folder's model that were loaded; ``None`` if it is whole.
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
        self.layer = options.layer
        self.runner = ModelRunner(
            model.eval().requires_grad_(False),
            options.batch_tokens or BATCH_TOKENS.get(model.device.type, 8192),
            share_prompts=options.share_prompts,
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
            name_or_path: A local folder, a hub id, or ``builtin`` for the shipped backbone.  Also a
                GGUF file (``folder/file.gguf``, ``repository:file.gguf``), or a folder or
                repository that holds one: its weights are dequantised.
            options: How it is loaded and run.
            **fields: Fields of :class:`~armorm.features.BackboneOptions` that replace those of
                ``options``; any other name is an argument of ``AutoModel.from_pretrained``
                (``device_map``, ``quantization_config`` …).

        Raises:
            CheckpointError: Weights are missing, or only a pickle is there.
            MissingExtraError: The model is a GGUF file, and ``gguf`` is not installed.
            TemplateError: The chat template is missing or cannot be split.
            RecipeError: An option is invalid, or the model has no such layer.
        """
        from transformers import AutoModel, AutoTokenizer

        from armorm.hub.modeling_armorm import caps_attention

        options = BackboneOptions.of(options, fields)
        folder = resolve_model_folder(name_or_path, options.revision)
        device = check_device(options.device or default_device())
        source, gguf = transformers_source(folder)
        if not gguf:
            check_sizes(folder, read_object(folder / "config.json"), stored_tensors(folder))
        loading: dict[str, Any] = {
            "device_map": device,
            "trust_remote_code": options.trust_remote_code,
            **(options.engine_options if options.engine == "transformers" else {}),
        }
        attention = options.attn_implementation
        try:
            tensors = check_gguf(folder) if gguf else {}
            config = load_config(folder, options)
            if gguf:
                check_sizes(folder, config.to_dict(), tensors)
                obey_progress_setting()
                loading = {**dequantization(), **loading, **gguf}
            layer = cut_config(config, options.layer, str(name_or_path))
            options = options.model_copy(update={"layer": layer})
            if attention is None and caps_attention(config):
                attention = "eager"
            if attention is not None:
                loading["attn_implementation"] = attention
            with _without_load_report():
                model, report = AutoModel.from_pretrained(
                    source,
                    config=config,
                    dtype=resolve_dtype(options.dtype, device),
                    use_safetensors=not gguf,
                    output_loading_info=True,
                    **loading,
                )
            tokenizer = AutoTokenizer.from_pretrained(
                source, trust_remote_code=options.trust_remote_code, **gguf
            )
            if gguf:
                forget_quantization(model)
            if layer is not None:
                unexpected = report["unexpected_keys"]
                later = [key for key in unexpected if is_of_later_layer(model, key)]
                report["unexpected_keys"] = set(unexpected) - set(later)
            _check_complete(str(name_or_path), report)
            _check_ids(str(name_or_path), model, tokenizer)
            if options.compile_model:
                model.compile(dynamic=True)
            return cls(model, tokenizer, folder=folder, name=str(name_or_path), options=options)
        except ArmormError:
            raise
        # A malformed config, tokenizer or template can raise anything inside the libraries.
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise CheckpointError(f"{name_or_path} cannot be loaded. {reason}") from error

    @property
    def model(self) -> PreTrainedModel:
        """Return the transformers model."""
        return self.runner.model

    @model.setter
    def model(self, trained: PreTrainedModel) -> None:
        """Replace the weights by those of a trained model of the same architecture."""
        self.runner.model = trained.eval().requires_grad_(False)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that a feature depends on.

        Computed on first use, since it hashes all weight files: explaining or exporting a model
        does not need it.
        """
        config = self.model.config
        return identify(self, getattr(config, "_commit_hash", None), config.model_type)

    @property
    def dtype(self) -> str:
        """Number format of the weights, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """Return the device of the inputs."""
        return self.runner.device

    @property
    def hidden_size(self) -> int:
        """Return the length of a hidden state."""
        return self.runner.hidden_size

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids that the model has embeddings for."""
        size: int = self.model.get_input_embeddings().weight.shape[0]
        return size

    @property
    def quantized(self) -> bool:
        """Return true if the weights are quantised."""
        return hasattr(self.model.config, "quantization_config")

    def save_pretrained(self, path: str | Path) -> None:
        """Write the model as it was loaded, cut or dequantised, as an ordinary folder.

        Args:
            path: A folder that does not exist or is empty.

        Raises:
            OutputError: It holds files, or cannot be written.
        """
        with replace_folder(Path(path), lambda folder: not any(folder.iterdir())) as folder:
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def close(self) -> None:
        """Do nothing: memory is released together with this object."""

    def features(
        self,
        prompts: Sequence[EncodedPrompt],
        advance: Callable[[int], None] | None = None,
        read_also: ReadAlso | None = None,
    ) -> BackboneFeatures:
        """Return hidden states of encoded prompts and their responses, in float32 on the CPU.

        Equal prompts are computed once, together with all their responses if the model's attention
        allows it (:mod:`armorm.features.running`).  Up to rounding, no state depends on what else
        is computed in the same call.

        Args:
            prompts: Results of :meth:`ConversationEncoder.encode`.
            advance: Called with a number of tokens after each step.
            read_also: Other tokens whose states are returned, from the same forward passes.

        Raises:
            OutOfMemoryError: A single conversation does not fit into memory.
        """
        return self.runner.run(prompts, advance, read_also)

    def prefix_features(self, prompt: EncodedPrompt, first: int, closing: int) -> BackboneFeatures:
        """Return the states of one response cut after each of its tokens, closed each time.

        See :func:`armorm.features.closed_prefixes.prefix_features`.
        """
        return prefix_features(self.runner, prompt, first, closing)


def identify(backbone: Any, revision: str | None, architecture: str) -> dict[str, Any]:
    """Return everything that the features of a backbone depend on, with any engine.

    Two models with equal identities, apart from ``name`` and ``revision``, compute equal features.
    """
    return {
        "name": backbone.name,
        "revision": revision,
        "architecture": architecture,
        "hidden_size": backbone.hidden_size,
        "layer": backbone.layer,
        "weights_sha256": _hash_weights(backbone.folder),
        "tokenizer_sha256": _hash_tokenizer(backbone.tokenizer),
        "template_sha256": sha256_of_json(backbone.encoder.template),
        "dtype": backbone.dtype,
        "boundary_pattern": list(backbone.encoder.boundary_pattern),
    }


def resolve_model_folder(name_or_path: str | Path, revision: str | None = None) -> Path:
    """Return the local folder or GGUF file of a model, downloaded from the hub if it is not local.

    Raises:
        CheckpointError: There is no such folder or file, the hub cannot be reached or has no such
            model, or there are several GGUF files to choose from.
    """
    if str(name_or_path) == "builtin":
        from armorm.quickstart import BACKBONE

        return BACKBONE
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return _only_gguf(path, [file.name for file in path.iterdir() if is_gguf(file)])
    if is_gguf(path):
        return path
    from huggingface_hub.errors import HFValidationError

    repository, _, file = str(name_or_path).partition(":")
    try:
        return _download(repository, file, revision)
    except ArmormError:
        raise
    except HFValidationError as error:
        raise CheckpointError(f"There is no model folder or GGUF file {str(path)!r}.") from error
    except Exception as error:  # the hub client raises errors of many libraries
        raise CheckpointError(
            f"{str(name_or_path)!r} is not a local folder and cannot be downloaded: {error}"
        ) from error


def _download(repository: str, file: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    if file:
        return Path(hf_hub_download(repository, file, revision=revision))
    folder = Path(snapshot_download(repository, revision=revision, allow_patterns=MODEL_FILES))
    if any(folder.glob("*.safetensors")):
        return folder
    files = HfApi().list_repo_files(repository, revision=revision)
    gguf = _only_gguf(folder, [name for name in files if name.endswith(SUFFIX)], repository)
    return folder if gguf == folder else _download(repository, gguf.name, revision)


def _only_gguf(folder: Path, files: Sequence[str], repository: str | None = None) -> Path:
    """Return the one GGUF file of a folder without other weights, else the folder.

    Raises:
        CheckpointError: There are several.
    """
    if not files or any(folder.glob("*.safetensors")):
        return folder
    if len(files) > 1:
        named = f"{repository}:{min(files)}" if repository else str(folder / min(files))
        raise CheckpointError(
            f"{repository or folder} holds several GGUF files: {', '.join(sorted(files))}. Name "
            f"the one to load, such as {named}."
        )
    return folder / files[0]


def load_config(folder: Path, options: BackboneOptions) -> PretrainedConfig:
    """Return the configuration of the decoder in a folder or a GGUF file."""
    # The table of models first: importing it registers ArmoRMConfig.
    import transformers.models.auto.modeling_auto  # noqa: F401
    from transformers import AutoConfig

    from armorm.hub.modeling_armorm import ArmoRMConfig

    source, gguf = transformers_source(folder)
    config = AutoConfig.from_pretrained(source, trust_remote_code=options.trust_remote_code, **gguf)
    return config.backbone_config if isinstance(config, ArmoRMConfig) else config


def layers_of_model(name_or_path: str | Path, options: BackboneOptions) -> int:
    """Return the number of layers of a decoder by its configuration, without loading it.

    Raises:
        CheckpointError: The model is not there, or its configuration cannot be read.
        RecipeError: Its layers cannot be read one by one.
    """
    folder = resolve_model_folder(name_or_path, options.revision)
    if transformers_source(folder)[1]:
        check_gguf(folder)
    try:
        config = load_config(folder, options)
    except Exception as error:  # as in from_pretrained
        raise CheckpointError(f"{name_or_path} cannot be loaded. {error}") from error
    return count_layers(config, str(name_or_path))


def default_device() -> str:
    """Return a GPU if there is one; each process of a launch has its own."""
    if torch.cuda.is_available():
        return f"cuda:{Process.current().local_rank}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> str:
    """Return the device.

    Raises:
        RecipeError: There is no such device.
    """
    try:
        kind = torch.device(device)
        torch.empty(0, device=kind)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise RecipeError(f"device = {device!r} cannot be used here: {reason}") from error
    return device


def resolve_dtype(dtype: BackboneDtype, device: str) -> torch.dtype | str:
    """Return the dtype as transformers takes it; see :class:`BackboneOptions`."""
    if dtype == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    if dtype == "stored":
        return "auto"
    found: torch.dtype = getattr(torch, dtype)
    return found


@contextmanager
def _without_load_report() -> Iterator[None]:
    """Silence transformers about heads that this package loads itself.

    :func:`_check_complete` reads the same report and refuses what is wrong.
    """
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


def _check_ids(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise CheckpointError if the tokenizer makes ids that have no embedding.

    Added tokens are left to the encoder, since some published models have unused ones.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    added = set(tokenizer.get_added_vocab())
    highest = max((i, t) for t, i in tokenizer.get_vocab().items() if t not in added)
    if highest[0] >= rows:
        raise CheckpointError(
            f"{name}: the tokenizer has the token {highest[1]!r} with the id {highest[0]}, but the "
            f"model has {rows} embeddings. Tokenizer and weights do not belong together."
        )


def _hash_weights(folder: Path) -> str:
    if is_gguf(folder):
        return sha256_of(folder) or ""
    return sha256_of_files(list(folder.glob("*.safetensors")))


def _hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return sha256_of_json(backend.to_str())
    return sha256_of_json([tokenizer.get_vocab(), tokenizer.special_tokens_map])
