"""Make a small backbone from nothing, on a CPU, the way the paper's backbone came about.

A byte-level BPE tokenizer, language modelling on conversations, then Bradley–Terry training of the
same body on preference pairs (the paper starts from a Bradley–Terry reward model); ratings are
never seen.  Without data files it trains on the built-in corpus, drawn with other seeds than any
recipe uses, and makes the backbone that ships with the package.  Its pairs say in which attribute
the chosen response is better, so each attribute has a Bradley–Terry head of its own, and plain
responses come first: what is right shows there in a few tokens::

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
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from armorm.conversations import ConversationEncoder, Message, PreferencePair
from armorm.conversations.messages import with_response
from armorm.data import DataSource, HeldOut, read_preferences
from armorm.data.sources import file_rows
from armorm.errors import InputError
from armorm.quickstart import generate_contrasts, generate_plain_contrasts

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTROL_TOKENS = ["<|begin|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]

# The corpus of a recipe has seed 0, 1, …; what the backbone has read must not be among it.
LANGUAGE_SEED, PREFERENCE_SEED, PLAIN_SEED = 1_000_001, 1_000_002, 1_000_003

# Plain pairs are short: a step takes so many times as many.
MORE_PLAIN = 4


class JudgedPair(NamedTuple):
    """Preference pair, with the criterion by which its chosen response is the better one."""

    pair: PreferencePair
    criterion: str = "overall"


class TrainingText(NamedTuple):
    """What there is to learn from: conversations to model, and pairs to prefer.

    The plain pairs, where there are any, are a first course before the other pairs.
    """

    conversations: list[list[Message]]
    plain: list[JudgedPair]
    pairs: list[JudgedPair]


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
    start: Annotated[
        Path | None, typer.Option(help="Folder of a backbone to continue, with its tokenizer.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="File of the training's state; a killed run resumes from it."),
    ] = None,
    lm_steps: Annotated[int, typer.Option(help="Language-modelling steps.")] = 60,
    plain_steps: Annotated[
        int, typer.Option(help="Bradley–Terry steps on plain built-in pairs, four times as many.")
    ] = 600,
    bt_steps: Annotated[int, typer.Option(help="Bradley–Terry steps.")] = 900,
    tokens: Annotated[int, typer.Option(help="Tokens of a language-modelling step.")] = 8192,
    pairs: Annotated[int, typer.Option(help="Pairs of a Bradley–Terry step.")] = 32,
    like_length: Annotated[
        int, typer.Option(help="Cut so many batches of pairs at once, by length: less padding.")
    ] = 1,
    compile_model: Annotated[
        bool, typer.Option("--compile", help="Compile the body: a third quicker, needs a compiler.")
    ] = False,
) -> None:
    """Train a small backbone: tokenizer, language modelling, Bradley–Terry."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    own_data = bool(rated or preferences)
    if own_data:
        text = own_text(rated or [], preferences or [], held_out_column)
    else:
        text = built_in_text(plain_steps * pairs * MORE_PLAIN, bt_steps * pairs)
    counts = f"{len(text.plain)} plain pairs, {len(text.pairs)} pairs"
    print(f"{len(text.conversations)} conversations, {counts}", flush=True)
    tokenizer = (
        PreTrainedTokenizerFast.from_pretrained(start)
        if start
        else train_tokenizer(text, vocabulary)
    )
    encoder = ConversationEncoder(tokenizer, positions, overlong="skip")
    config = (
        LlamaConfig.from_pretrained(start)
        if start
        else LlamaConfig(
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
    config._attn_implementation = "eager"  # quicker than the fused one on texts so short
    model = LlamaForCausalLM(config)
    if start:
        model.model.load_state_dict(load_file(start / "model.safetensors"))
    learner = PreferenceLearner(
        model, encoder, [*text.plain, *text.pairs], along=0.0 if own_data else 0.5
    )
    state = TrainingState(nn.ModuleList([model, learner.heads]), checkpoint)
    if compile_model:
        model.model.forward = torch.compile(model.model.forward, dynamic=True)
    record: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.model.parameters())
    }
    if lm_steps:
        conversations = text.conversations
        loss = model_language(model, encoder, conversations, lm_steps, tokens, seed, state)
        record["language_loss"] = loss
    if text.plain:
        plain = Course("plain", plain_steps, pairs * MORE_PLAIN, 2e-3, language_weight=0.3)
        record["plain"] = learner.learn(text.plain, plain, seed, state, like_length)
    if text.pairs:
        course = Course("preferences", bt_steps, pairs, 1e-3, language_weight=0.1)
        record["pairs"] = learner.learn(text.pairs, course, seed, state, like_length)
    model.model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    record["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(record), flush=True)


class TrainingState:
    """State of the training, in a file if one is named, so that a killed run resumes.

    Stages follow each other; each has an optimizer of its own.
    """

    def __init__(self, modules: nn.Module, file: Path | None) -> None:
        """Load the modules from the file, if it exists."""
        self.modules, self.file = modules, file
        self.found = torch.load(file, weights_only=True) if file and file.exists() else None
        if self.found is not None:
            modules.load_state_dict(self.found["modules"])

    def begin(self, stage: str, optimizer: Any, schedule: Any) -> int:
        """Return the number of steps of a stage that are done; load its optimizer."""
        done: dict[str, int] = self.found["done"] if self.found else {}
        if self.found is not None and list(done)[-1] == stage:
            optimizer.load_state_dict(self.found["optimizer"])
            schedule.load_state_dict(self.found["schedule"])
        self.done = {**done, stage: done.get(stage, 0)}
        return self.done[stage]

    def end_step(self, stage: str, step: int, steps: int, optimizer: Any, schedule: Any) -> None:
        """Count a step; save the state after every twenty."""
        self.done[stage] = step + 1
        if self.file is not None and ((step + 1) % 20 == 0 or step + 1 == steps):
            state = {
                "done": self.done,
                "modules": self.modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
            }
            part = self.file.with_suffix(".part")
            torch.save(state, part)
            part.replace(self.file)


class Course(NamedTuple):
    """A stage of Bradley–Terry training."""

    stage: str
    steps: int
    batch_size: int
    learning_rate: float
    language_weight: float


def built_in_text(plain: int, pairs: int) -> TrainingText:
    """Conversations and contrasts of the built-in corpus, with seeds of their own."""
    reading = [_judged(row) for row in generate_contrasts(LANGUAGE_SEED, 40_000)]
    conversations = [
        with_response(judged.pair.prompt, judged.pair.chosen)
        for judged in reading
        if judged.criterion in ("correct", "safe")  # the chosen one is right
    ]
    return TrainingText(
        conversations,
        [_judged(row) for row in generate_plain_contrasts(PLAIN_SEED, plain)],
        [_judged(row) for row in generate_contrasts(PREFERENCE_SEED, pairs)],
    )


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
    return TrainingText(conversations, [], [JudgedPair(pair) for pair in pairs])


def train_tokenizer(text: TrainingText, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, digits one by one, with the control tokens of our chat template."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
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
    state: TrainingState,
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
    done = state.begin("language", optimizer, schedule)
    loss = torch.zeros(())
    for step, batch in zip(range(steps), _shuffled(rows, tokens // width, seed), strict=False):
        if step < done:
            continue
        loss = _language_loss(model, batch)
        _update(loss, model, optimizer, schedule)
        state.end_step("language", step, steps, optimizer, schedule)
        _log("language", step, steps, f"loss {loss.item():.3f}")
    return loss.item()


class Margins(NamedTuple):
    """Scores of the chosen minus scores of the rejected, for each criterion.

    Attributes:
        at_end: At the ends of the two responses, [pairs, criteria].
        along: At the same position of both, [pairs, positions, criteria].
        differ: Where both responses go on and have begun to differ, [pairs, positions].
    """

    at_end: Tensor
    along: Tensor
    differ: Tensor


class PreferenceLearner:
    """Bradley–Terry training of the body, with one scalar head for each criterion of the pairs.

    A head learns the pairs of its criterion, and to see no difference in the others: responses
    that differ in one attribute differ in one direction, as far as the body can arrange it.
    Where the responses of a pair differ in nothing else, every position after the first
    difference can tell them apart, not the last alone; `along` is the weight of that loss.
    Language modelling is kept up beside it.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        encoder: ConversationEncoder,
        pairs: Sequence[JudgedPair],
        along: float,
    ) -> None:
        """Make a head for each criterion that occurs in the pairs."""
        self.model, self.encoder, self.along = model, encoder, along
        self.criteria = sorted({judged.criterion for judged in pairs})
        self.heads = nn.Linear(model.config.hidden_size, len(self.criteria), bias=False)

    def learn(
        self,
        pairs: Sequence[JudgedPair],
        course: Course,
        seed: int,
        state: TrainingState,
        like_length: int = 1,
    ) -> dict[str, float]:
        """Train on the pairs.

        Returns:
            Accuracy by criterion over the last tenth of the steps, each on pairs not seen before
            in that pass.
        """
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        optimizer, schedule = _optimizer(parameters, course.steps, course.learning_rate)
        done = state.begin(course.stage, optimizer, schedule)
        lengths = [max(map(len, judged.pair.responses)) for judged in pairs]
        batches = _batches(lengths, course.batch_size, like_length, random.Random(seed + 1))
        outcomes: list[tuple[int, bool]] = []
        too_long = 0
        for step, batch in zip(range(course.steps), batches, strict=False):
            if step < done:
                continue
            criteria, chosen, rejected = self._encoded([pairs[i] for i in batch])
            too_long += len(batch) - len(criteria)
            margins, language_loss = _margins(self.model, self.heads, [*chosen, *rejected])
            margin, loss = self._loss(margins, torch.tensor(criteria))
            _update(loss + course.language_weight * language_loss, self.model, optimizer, schedule)
            state.end_step(course.stage, step, course.steps, optimizer, schedule)
            right = (margin > 0).tolist()
            if step >= course.steps - max(1, course.steps // 10):
                outcomes += zip(criteria, right, strict=True)
            share = f"loss {loss.item():.3f} accuracy {_mean(right):.3f}"
            _log(course.stage, step, course.steps, share)
        print(f"{too_long} pairs were too long and skipped", flush=True)
        return {
            name: _mean([right for criterion, right in outcomes if criterion == number])
            for number, name in enumerate(self.criteria)
        }

    def _encoded(
        self, pairs: Sequence[JudgedPair]
    ) -> tuple[list[int], list[Sequence[int]], list[Sequence[int]]]:
        """Criteria and token ids of the pairs that are not too long."""
        criteria: list[int] = []
        chosen: list[Sequence[int]] = []
        rejected: list[Sequence[int]] = []
        for pair, criterion in pairs:
            encoded = self.encoder.encode_or_skip(pair.prompt, pair.responses)
            if encoded is not None:
                criteria.append(self.criteria.index(criterion))
                chosen.append(encoded.sequences[0])
                rejected.append(encoded.sequences[1])
        return criteria, chosen, rejected

    def _loss(self, margins: Margins, criteria: Tensor) -> tuple[Tensor, Tensor]:
        """Margins of the pairs by their own criteria, and the loss."""
        own = criteria[:, None]
        margin = margins.at_end.gather(1, own)[:, 0]
        others = margins.at_end.scatter(1, own, 0.0).square().sum(dim=1).mean()
        loss = functional.softplus(-margin).mean() + 0.05 * others
        if self.along:
            positions = margins.along.shape[1]
            early = margins.along.gather(2, own[:, :, None].expand(-1, positions, -1))[:, :, 0]
            loss = loss + self.along * functional.softplus(-early[margins.differ]).mean()
        return margin, loss


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
    model: LlamaForCausalLM, heads: nn.Linear, sequences: Sequence[Sequence[int]]
) -> tuple[Margins, Tensor]:
    """Margins of the pairs, chosen ones first, and the language loss on the chosen ones."""
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
    scores = heads(states.float())
    last = scores[torch.arange(len(sequences)), ends]
    goes_on = (ids[:chosen] != pad) & (ids[chosen:] != pad)
    differ = (ids[:chosen] != ids[chosen:]).cumsum(dim=1).bool() & goes_on
    margins = Margins(last[:chosen] - last[chosen:], scores[:chosen] - scores[chosen:], differ)
    return margins, language_loss


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
    if step % 20 == 0 or step == steps - 1:
        print(f"{stage} {step + 1}/{steps} {text}", flush=True)


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))


def _judged(row: dict[str, Any]) -> JudgedPair:
    chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
    return JudgedPair(PreferencePair(tuple(row["prompt"]), chosen, rejected), row["attribute"])


if __name__ == "__main__":
    typer.run(main)
