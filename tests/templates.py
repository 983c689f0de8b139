"""Chat templates of real families over tokenizers whose tokens merge as theirs do.

The templates are written for these tests, in the layout of the families they are named after.
Families with a SentencePiece tokenizer have a real one (Mistral's of ``mistral-common``, whose
vocabulary is Llama-2's in kind); the others have a byte-level BPE, trained here on texts in which
newlines, brackets and code fences stand next to each other.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import mistral_common
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CORPUS = [
    "user assistant system model think final start end of turn the answer is Paris and Lyon",
    "a>\n\nb>\n\n\nc>\nd>\n<|user|>\n<|assistant|>\n<|system|>\n|>\n |>\n\n```\n\n]\n\n",
    "User: a\n\nAssistant: b\n\nUser:\n\nAssistant:\n: a :\n [INST] [/INST] ] [ ([{ }])\n<<SYS>>\n",
    "\n\n\n\n\n a\n b\n\n c  d   e \t f\n\n- one\n- two\n\n# three\n</b>\n<think>\n</think>\n\n",
] * 20


@dataclass(frozen=True)
class Family:
    """A chat template with the control tokens it writes.

    Attributes:
        template: Its source.
        closing: Text of the token that closes a user turn.
        special: Control tokens that the publisher marks as special.
        ordinary: Control tokens that the publisher does not mark so, and tags of thoughts.
        bos: Token at the beginning.
        eos: Token at the end.
        real: File of ``mistral-common`` with the tokenizer; empty for a byte-level one.
        refuses_system: Whether a system message is refused.
    """

    template: str
    closing: str
    special: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()
    bos: str | None = None
    eos: str | None = None
    real: str = ""
    refuses_system: bool = False


_V1, _V3 = "tokenizer.model.v1", "mistral_instruct_tokenizer_240323.model.v3"

_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
)
_IM_HEADER = "{{ '<|im_start|>assistant\n' }}"
_IM = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN3 = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m['role'] == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m['role'] != 'assistant' %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}
{%- else %}
{%- set content = m['content'] %}{% set thought = '' %}
{%- if '</think>' in content %}
{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last %}{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
{%- else %}{{ content }}{% endif %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""  # noqa: E501
_LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] +"
    " '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
_GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}SYSTEM{% endif %}"
    "{% for m in turns %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else"
    " m['role']) + '\n' }}PREFIX{{ m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_GEMMA2 = (
    _GEMMA.replace("SYSTEM", "{{ raise_exception('System role not supported') }}")
    .replace("PREFIX", "")
    .replace("in turns", "in messages")
)
_GEMMA3 = (
    "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}"
    "{% endif %}"
) + _GEMMA.replace("SYSTEM", "").replace("PREFIX", "{{ first if loop.first else '' }}")
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_INSTRUCT = (  # Mistral and Llama-2
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{% set system = BEFORE + messages[0]['content'] + AFTER %}{% set turns = messages[1:] %}"
    "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if m['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + m['content'] + 'CLOSE' }}"
    "{% else %}{{ ANSWER + eos_token }}{% endif %}{% endfor %}"
)


def _instruct(close: str, answer: str, before: str = "''", after: str = "'\\n\\n'") -> str:
    written = {"BEFORE": before, "AFTER": after, "CLOSE": close, "ANSWER": answer}
    template = _INSTRUCT
    for name, text in written.items():
        template = template.replace(name, text)
    return template


def _by_role(system: str, user: str, answer: str, header: str, bos: str = "") -> str:
    """Build a template of one expression a role."""
    return (
        f"{bos}{{% for m in messages %}}{{% if m['role'] == 'system' %}}{{{{ {system} }}}}"
        f"{{% elif m['role'] == 'user' %}}{{{{ {user} }}}}"
        f"{{% else %}}{{{{ {answer} }}}}{{% endif %}}"
        f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {header} }}}}{{% endif %}}"
    )


_BOS = "{{ bos_token }}"
_DEEPSEEK_BOS, _DEEPSEEK_EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_TULU = (
    "'<|system|>\n' + m['content'] + '\n'",
    "'<|user|>\n' + m['content'] + '\n'",
    "'<|assistant|>\n' + m['content'] + eos_token + ('' if loop.last else '\n')",
    "'<|assistant|>\n'",
)
_COMMAND = ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>")
_COMMAND += ("<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>")
_HARMONY = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>")


def _command(role: str) -> str:
    return f"'<|START_OF_TURN_TOKEN|><|{role}_TOKEN|>' + m['content'] + '<|END_OF_TURN_TOKEN|>'"


def _phi(role: str) -> str:
    return f"'<|{role}|>\n' + m['content'] + '<|end|>\n'"


def _zephyr(role: str) -> str:
    return f"'<|{role}|>\n' + m['content'] + eos_token + '\n'"


def _harmony(role: str) -> str:
    return f"'<|start|>{role}<|message|>' + m['content'] + '<|end|>'"


FAMILIES = {
    "chatml": Family(
        _CHATML + "{% if add_generation_prompt %}" + _IM_HEADER + "{% endif %}",
        "<|im_end|>",
        _IM,
        eos="<|im_end|>",
    ),
    "always-open": Family(_CHATML + _IM_HEADER, "<|im_end|>", _IM, eos="<|im_end|>"),
    "qwen3": Family(_QWEN3, "<|im_end|>", _IM, ("<think>", "</think>"), eos="<|im_end|>"),
    "llama-3": Family(
        _LLAMA3,
        "<|eot_id|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
    ),
    "gemma-2": Family(
        _GEMMA2,
        "<end_of_turn>",
        ("<bos>", "<eos>", *_TURNS),
        ("<table>",),
        bos="<bos>",
        eos="<eos>",
        refuses_system=True,
    ),
    "gemma-3": Family(
        _GEMMA3, "<end_of_turn>", ("<bos>", "<eos>", *_TURNS), bos="<bos>", eos="<eos>"
    ),
    "mistral-0.1": Family(
        _instruct(" [/INST]", "m['content']"), "INST", bos="<s>", eos="</s>", real=_V1
    ),
    "mistral-0.2": Family(
        _instruct(" [/INST]", "' ' + m['content'] | trim"), "]", bos="<s>", eos="</s>", real=_V1
    ),
    "mistral-0.3": Family(
        _instruct("[/INST]", "' ' + m['content'] | trim"),
        "[/INST]",
        bos="<s>",
        eos="</s>",
        real=_V3,
    ),
    "llama-2": Family(
        _instruct(
            " [/INST]", "' ' + m['content'] | trim + ' '", "'<<SYS>>\\n'", "'\\n<</SYS>>\\n\\n'"
        ),
        "]",
        bos="<s>",
        eos="</s>",
        real=_V1,
    ),
    "zephyr": Family(
        _by_role(_zephyr("system"), _zephyr("user"), _zephyr("assistant"), "'<|assistant|>\n'"),
        "</s>",
        bos="<s>",
        eos="</s>",
        real=_V1,
    ),
    "phi-3": Family(
        _by_role(_phi("system"), _phi("user"), _phi("assistant"), "'<|assistant|>\n'")
        + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}",
        "<|end|>",
        ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        bos="<s>",
        eos="<|endoftext|>",
        real=_V1,
    ),
    "vicuna": Family(
        _by_role(
            "m['content'] + ' '",
            "'USER: ' + m['content'] + ' '",
            "'ASSISTANT: ' + m['content'] + eos_token",
            "'ASSISTANT:'",
            _BOS,
        ),
        ":",
        bos="<s>",
        eos="</s>",
        real=_V1,
    ),
    "deepseek-v2": Family(
        _by_role(
            "m['content'] + '\n\n'",
            "'User: ' + m['content'] + '\n\n'",
            "'Assistant: ' + m['content'] + eos_token",
            "'Assistant:'",
            _BOS,
        ),
        ":",
        (_DEEPSEEK_BOS, _DEEPSEEK_EOS),
        bos=_DEEPSEEK_BOS,
        eos=_DEEPSEEK_EOS,
    ),
    "deepseek-v3": Family(
        _by_role(
            "m['content']",
            "'<｜User｜>' + m['content']",
            "'<｜Assistant｜>' + m['content'] + eos_token",
            "'<｜Assistant｜>'",
            _BOS,
        ),
        "<｜Assistant｜>",
        (_DEEPSEEK_BOS, _DEEPSEEK_EOS),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        bos=_DEEPSEEK_BOS,
        eos=_DEEPSEEK_EOS,
    ),
    "deepseek-r1": Family(
        _by_role(
            "m['content']",
            "'<｜User｜>' + m['content']",
            "'<｜Assistant｜>' + m['content'].split('</think>')[-1] + eos_token",
            "'<｜Assistant｜><think>\n'",
            _BOS,
        ),
        "<｜Assistant｜>",
        (_DEEPSEEK_BOS, _DEEPSEEK_EOS),
        ("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        bos=_DEEPSEEK_BOS,
        eos=_DEEPSEEK_EOS,
    ),
    "olmo-2": Family(
        _by_role(*_TULU, _BOS),
        "assistant",
        ("<|endoftext|>",),
        bos="<|endoftext|>",
        eos="<|endoftext|>",
    ),
    "tulu-3": Family(
        _by_role(*_TULU),
        "assistant",
        ("<|begin_of_text|>", "<|end_of_text|>"),
        eos="<|end_of_text|>",
    ),
    "command-r": Family(
        _by_role(
            _command("SYSTEM"),
            _command("USER"),
            _command("CHATBOT"),
            "'<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'",
            _BOS,
        ),
        "<|END_OF_TURN_TOKEN|>",
        ("<BOS_TOKEN>", *_COMMAND),
        bos="<BOS_TOKEN>",
        eos="<|END_OF_TURN_TOKEN|>",
    ),
    "gpt-oss": Family(
        _by_role(
            _harmony("system"),
            _harmony("user"),
            "'<|start|>assistant<|channel|>final<|message|>' + m['content'] +"
            " ('<|return|>' if loop.last else '<|end|>')",
            "'<|start|>assistant'",
        ),
        "<|end|>",
        _HARMONY,
        eos="<|return|>",
    ),
}


@functools.cache
def family_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a family, with its template. It is shared: change nothing in it."""
    family = FAMILIES[name]
    if family.real:
        tokenizer = _real(family.real)
        tokenizer.add_special_tokens({"eos_token": family.eos, "bos_token": family.bos})
        if family.special:
            tokenizer.add_special_tokens({"additional_special_tokens": list(family.special)})
    else:
        backend = Tokenizer.from_str(_trained())
        backend.add_special_tokens(list(family.special))
        backend.add_tokens(list(family.ordinary))
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, bos_token=family.bos, eos_token=family.eos
        )
    tokenizer.chat_template = family.template
    return tokenizer


def _real(file: str) -> LlamaTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(mistral_common.__file__).parent / "data" / file
        shutil.copy(source, Path(folder) / "tokenizer.model")
        return LlamaTokenizer.from_pretrained(folder)


@functools.cache
def _trained() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        _CORPUS,
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False),
    )
    return backend.to_str()
