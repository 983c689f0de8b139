"""Make a small backbone from nothing, on a CPU, the way the paper's backbone came about.

A byte-level BPE tokenizer, language modelling on conversations, then Bradley–Terry training of the
same body on preference pairs (the paper starts from a Bradley–Terry reward model); ratings are
never seen.  Without data files it trains on the built-in corpus, drawn with other seeds than any
recipe uses, and makes the backbone that ships with the package::

    python scripts/build_backbone.py --output src/armorm/quickstart/assets/backbone

With your own files (the forms of docs/data.md) it makes a backbone for your text::

    python scripts/build_backbone.py --output runs/backbone --rated R.jsonl --preferences P.jsonl
"""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from armorm.conversations import ConversationEncoder, Message, PreferencePair
from armorm.conversations.messages import with_response
from armorm.data import DataSource, HeldOut, read_preferences
from armorm.data.sources import file_rows
from armorm.errors import InputError
from armorm.quickstart import generate_contrasts

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTROL_TOKENS = ["<|begin|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]

# The corpus of a recipe has seed 0, 1, …; what the backbone has read must not be among it.
LANGUAGE_SEED, PREFERENCE_SEED = 1_000_001, 1_000_002


class TrainingText(NamedTuple):
    """What there is to learn from: conversations to model, and pairs to prefer."""

    conversations: list[list[Message]]
    pairs: list[PreferencePair]


def main(
    output: Annotated[Path, typer.Option(help="Folder of the backbone.")],
    rated: Annotated[
        list[str] | None, typer.Option(help="Your conversations; else built-in.")
    ] = None,
    preferences: Annotated[list[str] | None, typer.Option(help="Your preference pairs.")] = None,
    held_out_column: Annotated[
        str | None, typer.Option(help="Skip rows where this column says val or test.")
    ] = None,
    seed: int = 0,
    vocabulary: int = 1536,
    hidden: int = 192,
    layers: int = 5,
    positions: int = 512,
    lm_steps: Annotated[int, typer.Option(help="Language-modelling steps.")] = 300,
    bt_steps: Annotated[int, typer.Option(help="Bradley–Terry steps.")] = 1100,
    tokens: Annotated[int, typer.Option(help="Tokens of a language-modelling step.")] = 8192,
    pairs: Annotated[int, typer.Option(help="Pairs of a Bradley–Terry step.")] = 32,
    like_length: Annotated[
        int, typer.Option(help="Cut so many batches of pairs at once, by length: less padding.")
    ] = 1,
) -> None:
    """Train a small backbone: tokenizer, language modelling, Bradley–Terry."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    if rated or preferences:
        text = own_text(rated or [], preferences or [], held_out_column)
    else:
        text = built_in_text(bt_steps * pairs)
    print(f"{len(text.conversations)} conversations, {len(text.pairs)} pairs", flush=True)
    tokenizer = train_tokenizer(text, vocabulary)
    encoder = ConversationEncoder(tokenizer, positions, overlong="skip")
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=8 * hidden // 3,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 32,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    language_loss = model_language(model, encoder, text.conversations, lm_steps, tokens, seed)
    accuracy = learn_preferences(model, encoder, text.pairs, bt_steps, pairs, seed, like_length)
    model.model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    record = {
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "language_loss": round(language_loss, 3),
        "preference_accuracy": round(accuracy, 3),
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(record), flush=True)


def built_in_text(pairs: int) -> TrainingText:
    """Conversations and contrasts of the built-in corpus, with seeds of their own."""
    reading = [_pair(row) for row in generate_contrasts(LANGUAGE_SEED, 40_000)]
    conversations = [with_response(pair.prompt, pair.chosen) for pair in reading]
    contrasts = [_pair(row) for row in generate_contrasts(PREFERENCE_SEED, pairs)]
    return TrainingText(conversations, contrasts)


def own_text(rated: list[str], preferences: list[str], held_out_column: str | None) -> TrainingText:
    """Training rows of the user's files; rows that cannot be read are skipped and counted."""
    split = HeldOut(column=held_out_column) if held_out_column else HeldOut(fraction=0.0)
    sources = [DataSource(path=path) for path in preferences]
    loaded = read_preferences(sources, held_out=split, invalid="skip")
    pairs = [pair for pair in loaded.rows if not pair.held_out]
    conversations = [with_response(pair.prompt, pair.chosen) for pair in pairs]
    left_out = len(loaded.invalid)
    for raw in itertools.chain.from_iterable(file_rows(Path(path)) for path in rated):
        if isinstance(raw.fields, InputError):
            left_out += 1
        elif held_out_column is None or str(raw.fields.get(held_out_column)) not in split.values:
            conversations.append(list(raw.fields["messages"]))
    print(f"{left_out} rows could not be read and are skipped", flush=True)
    return TrainingText(conversations, pairs)


def train_tokenizer(text: TrainingText, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE with the control tokens of our chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=CONTROL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    contents = (m["content"] for messages in text.conversations for m in messages)
    backend.train_from_iterator(contents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|system|>", "<|user|>", "<|assistant|>"],
        chat_template=TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
    )


def model_language(
    model: LlamaForCausalLM,
    encoder: ConversationEncoder,
    conversations: Sequence[list[Message]],
    steps: int,
    tokens: int,
    seed: int,
) -> float:
    """Next-token prediction on conversations laid end to end; returns the last loss."""
    width = min(256, model.config.max_position_embeddings)
    order = random.Random(seed).sample(range(len(conversations)), len(conversations))
    ids: list[int] = []
    for i in order:
        if len(ids) > steps * tokens:
            break
        ids += encoder.tokenize(encoder.render(conversations[i]))
    rows = torch.tensor(ids[: len(ids) // width * width]).view(-1, width)
    optimizer, schedule = _optimizer(model.parameters(), steps, learning_rate=3e-3)
    loss = torch.zeros(())
    for step, batch in zip(range(steps), _shuffled(rows, tokens // width, seed), strict=False):
        loss = _language_loss(model, batch)
        _update(loss, model, optimizer, schedule)
        _log("language", step, steps, f"loss {loss.item():.3f}")
    return loss.item()


def learn_preferences(
    model: LlamaForCausalLM,
    encoder: ConversationEncoder,
    pairs: Sequence[PreferencePair],
    steps: int,
    batch_size: int,
    seed: int,
    like_length: int = 1,
) -> float:
    """Bradley–Terry loss on a scalar head, language modelling kept up beside it.

    Returns:
        Accuracy over the last tenth of the steps, each on pairs not seen before in that pass.
    """
    encoded = [encoder.encode_or_skip(pair.prompt, pair.responses) for pair in pairs]
    usable = [one.sequences for one in encoded if one is not None]
    print(f"{len(pairs) - len(usable)} pairs are too long and skipped", flush=True)
    head = nn.Linear(model.config.hidden_size, 1, bias=False)
    parameters = [*model.parameters(), *head.parameters()]
    optimizer, schedule = _optimizer(parameters, steps, learning_rate=1e-3)
    lengths = [max(map(len, sequences)) for sequences in usable]
    batches = _batches(lengths, batch_size, like_length, random.Random(seed + 1))
    correct: list[float] = []
    for step, batch in zip(range(steps), batches, strict=False):
        sequences = [usable[i][side] for side in (0, 1) for i in batch]
        margin, language_loss = _margins(model, head, sequences)
        loss = functional.softplus(-margin).mean() + 0.1 * language_loss
        _update(loss, model, optimizer, schedule)
        correct.append((margin > 0).float().mean().item())
        _log("preferences", step, steps, f"loss {loss.item():.3f} accuracy {correct[-1]:.3f}")
    last = correct[-max(1, steps // 10) :]
    return sum(last) / len(last)


def _batches(
    lengths: Sequence[int], size: int, like_length: int, generator: random.Random
) -> Iterator[list[int]]:
    """Endless batches of positions; each pass over them in a new order."""
    while True:
        order = generator.sample(range(len(lengths)), len(lengths))
        for start in range(0, len(order) - size + 1, size * like_length):
            pool = sorted(order[start : start + size * like_length], key=lengths.__getitem__)
            cut = [pool[i : i + size] for i in range(0, len(pool) - size + 1, size)]
            yield from generator.sample(cut, len(cut))


def _margins(
    model: LlamaForCausalLM, head: nn.Linear, sequences: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Score(chosen) - score(rejected), and the language loss on the chosen ones."""
    width = max(map(len, sequences))
    pad = model.config.pad_token_id
    ids = torch.tensor([[*one, *[pad] * (width - len(one))] for one in sequences])
    ends = torch.tensor([len(one) - 1 for one in sequences])
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(ids).last_hidden_state
        chosen = len(sequences) // 2
        logits = model.lm_head(states[:chosen, :-1])
        language_loss = functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[:chosen, 1:].flatten(), ignore_index=pad
        )
    scores = head(states[torch.arange(len(sequences)), ends].float())[:, 0]
    return scores[:chosen] - scores[chosen:], language_loss


def _language_loss(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids[:, :-1]).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())


def _optimizer(parameters: Any, steps: int, learning_rate: float) -> tuple[Any, Any]:
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, learning_rate, total_steps=steps, pct_start=0.06
    )
    return optimizer, schedule


def _update(loss: Tensor, model: nn.Module, optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()


def _shuffled(rows: Tensor, size: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(rows), generator=generator)
        for batch in torch.split(order, size):
            yield rows[batch]


def _log(stage: str, step: int, steps: int, text: str) -> None:
    if step % 25 == 0 or step == steps - 1:
        print(f"{stage} {step + 1}/{steps} {text}", flush=True)


def _pair(row: dict[str, Any]) -> PreferencePair:
    chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
    return PreferencePair(tuple(row["prompt"]), chosen, rejected)


if __name__ == "__main__":
    typer.run(main)
