"""``armorm features`` on rows that a model or its template cannot take."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.commands import armorm, write
from tests.tiny import TEMPLATES, save_tiny_backbone, tiny_tokenizer


def save_recipe(folder: Path, template: str, prompts: list[list[dict[str, str]]]) -> Path:
    """Write a recipe whose rows answer these prompts, with its data and its backbone."""
    save_tiny_backbone(folder / "backbone", TEMPLATES[template])
    answer = [{"role": "assistant", "content": "ok"}]
    other = [{"role": "assistant", "content": "no thanks"}]
    write(
        folder / "rated.jsonl",
        [
            {"messages": [*prompt, *answer], "ratings": {"tone": i % 5}}
            for i, prompt in enumerate(prompts)
        ],
    )
    write(
        folder / "pairs.jsonl",
        [{"chosen": [*prompt, *answer], "rejected": [*prompt, *other]} for prompt in prompts],
    )
    recipe = {
        "objectives": [{"name": "tone", "minimum": 0, "maximum": 4}],
        "backbone": {"model": str(folder / "backbone"), "device": "cpu"},
        "data": {
            "rated": [{"path": str(folder / "rated.jsonl")}],
            "preferences": [{"path": str(folder / "pairs.jsonl")}],
        },
        "features": {"shard_responses": 4},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


WORDS = tiny.WORDS[4:20]


def test_a_state_that_overflows_is_named_and_the_same_command_with_another_dtype_works(tmp_path):
    prompts = [user(f"{word} ?") for word in WORDS]
    prompts[11] = user("hello Knowledge ?")
    recipe = save_recipe(tmp_path, "chatml", prompts)
    file = tmp_path / "backbone" / "model.safetensors"
    tensors = load_file(file)
    # A large activation, as real models have: fine in bfloat16, infinite in float16.
    token = tiny_tokenizer(TEMPLATES["chatml"]).convert_tokens_to_ids("Knowledge")
    name = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[name][token] = 1e5
    save_file(tensors, file, {"format": "pt"})

    command = ["features", recipe, "-o", tmp_path / "run", "--set"]
    done = armorm(*command, "backbone.dtype=float16")
    assert done.returncode != 0
    assert "rated:12" in done.stderr
    assert "not finite" in done.stderr
    assert "bfloat16" in done.stderr
    assert "Traceback" not in done.stderr
    done = armorm(*command, "backbone.dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "data.json").read_text())["rated"]["kept"] == len(WORDS)


@pytest.mark.parametrize("invalid", ["error", "skip"])
def test_a_row_that_the_template_refuses_stops_the_run_or_is_counted(tmp_path, invalid):
    prompts = [user(f"{word} ?") for word in WORDS]
    prompts[5] = [{"role": "system", "content": "ok"}, *prompts[5]]
    recipe = save_recipe(tmp_path, "gemma", prompts)
    command = ["features", recipe, "-o", tmp_path / "run", "--set", f"data.invalid={invalid}"]
    done = armorm(*command)
    assert "Traceback" not in done.stderr
    if invalid == "error":
        assert done.returncode != 0
        assert "rated:6" in done.stderr
        assert "System role not supported" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        counts = json.loads((tmp_path / "run" / "data.json").read_text())
        assert [counts[kind]["refused_by_template"] for kind in ("rated", "preferences")] == [1, 1]
        assert counts["rated"]["too_long"] == 0
        assert "rated: 1 refused by the chat template" in done.stdout
