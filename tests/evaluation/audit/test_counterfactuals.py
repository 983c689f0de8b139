"""Changes that leave the meaning, and what they do to planted rewards."""

from __future__ import annotations

import ast
import math
import random
import re

import numpy as np
import pytest

from armorm import PreferencePair
from armorm.errors import ArmormError, InputError, RecipeError
from armorm.evaluation.audit.changes import CHANGES, REWORDBENCH, chosen_changes
from armorm.evaluation.audit.counterfactuals import change_effects
from armorm.evaluation.audit.planted import PlantedScorer, noise, planted
from armorm.evaluation.audit.probes import Probed, probes_of, score_probes
from armorm.evaluation.scorers import Scored
from armorm.text_measures import TEXT_MEASURES

CODE = """Here:
```python
def add(a, b):
    # the sum

    return a + b
```
It adds. 1 plus 2 is 3."""
PROMPT = "Write a function that adds numbers, please."


def pairs(n: int = 60) -> list[PreferencePair]:
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]

    def text() -> str:
        return " ".join(draw.choices(words, k=draw.randint(3, 30))).capitalize() + "."

    return [
        PreferencePair(
            ({"role": "user", "content": f"Tell me number {i}, please."},), text(), text()
        )
        for i in range(n)
    ]


def probed(scorer, rows, names=(), path=None, tmp_path=None):
    probes = probes_of(rows, chosen_changes(names), range(len(rows)))
    return Probed.of(rows, probes, scorer.score(probes), scorer.objectives)


def effects(scorer, names=(), n=60):
    rows = pairs(n)
    return change_effects(probed(scorer, rows, names), np.arange(n))


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_deterministic_and_depends_on_the_seed_alone(name):
    first = CHANGES[name].of(PROMPT, CODE, seed=1)
    assert first is not None
    assert first == CHANGES[name].of(PROMPT, CODE, seed=1) != (PROMPT, CODE)


def test_there_are_the_twenty_transforms_that_need_no_model():
    assert len(REWORDBENCH) == 20


def test_typing_errors_stay_in_the_prompt():
    for name in ("swapped_letters", "rot13", "homoglyphs", "deleted_words", "jailbreak_story"):
        prompt, response = CHANGES[name].of(PROMPT, CODE)
        assert response == CODE
        assert prompt != PROMPT


def test_minified_and_commented_code_is_the_same_program():
    def tree(text):
        return ast.dump(ast.parse(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]))

    for name in ("minified_code", "comments"):
        changed = CHANGES[name].of(PROMPT, CODE)[1]
        assert changed != CODE
        assert tree(changed) == tree(CODE)
    quoted = CODE.replace("a + b", "a + 'x  -  # y' // 2")
    assert tree(CHANGES["minified_code"].of(PROMPT, quoted)[1]) == tree(quoted)


def test_ciphers_can_be_decoded_with_their_key():
    import codecs

    prompt, _ = CHANGES["rot13"].of(PROMPT, CODE)
    assert codecs.decode(prompt.split("\n\n")[1], "rot13") == PROMPT
    prompt, _ = CHANGES["rot2"].of("xyz Abc", CODE)
    assert prompt.endswith("zab Cde")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"So it is $\boxed{76^{2}}$", "So it is \n\n# Answer\n\n76^{2}\n"),
        ("steps\n#### 42", "steps\nThe answer is 42."),
        ("2 plus 3 is 5.", r"2 plus 3 is \boxed{5}."),
        ("No numbers.", None),
    ],
)
def test_formats_of_answers(text, expected):
    found = CHANGES["answer_format"].of("?", text)
    assert (found and found[1]) == expected


def test_an_unknown_change_lists_the_nearest():
    with pytest.raises(RecipeError, match="'markdown'"):
        chosen_changes(("markdwn",))


def test_a_reward_of_length_moves_by_the_planted_amount_through_its_objective():
    scorer = PlantedScorer(
        {"length": planted("length"), "noise": noise("a", words=True)},
        {"": {"length": 1.0, "noise": 0.2}},
    )
    found = effects(scorer, ("repeated", "filler", "markdown", "swapped_letters"))
    rows = pairs()
    texts = [text for row in rows for text in row.responses]
    scores = [scorer.score([row])[0].scores for row in rows]
    deviation = np.std(scores)
    expected = np.mean([math.log1p(2 * len(t) + 2) - math.log1p(len(t)) for t in texts]) / deviation
    repeated = found.changes["repeated"]
    assert repeated.shift.value == pytest.approx(expected)
    assert repeated.through_rewards == pytest.approx({"length": expected, "noise": 0.0}, abs=1e-9)
    assert set(repeated.through_gate.values()) == {0.0}
    assert repeated.shift.found
    assert found.changes["swapped_letters"].shift.value == 0.0
    assert found.changes["swapped_letters"].flip_rate.value == 0.0
    flips = [
        (chosen > rejected) != (other > rejected if chosen < rejected else chosen > other)
        for row, (chosen, rejected) in zip(rows, scores, strict=True)
        for other in [
            scorer.score([PreferencePair(row.prompt, *(2 * (f"{t}\n\n{t}",)))])[0].scores[0]
            for t in [min(zip((chosen, rejected), row.responses, strict=True))[1]]
        ]
    ]
    assert repeated.flip_rate.value == pytest.approx(np.mean(flips))
    assert repeated.flip_rate.low < repeated.flip_rate.value < repeated.flip_rate.high
    assert repeated.examples[0].flips
    assert repeated.examples[0].after == "\n\n".join([repeated.examples[0].before] * 2)
    assert next(iter(repeated.examples[0].objectives)) == "length"


def test_a_gate_that_follows_the_prompt_is_told_from_rewards():
    scorer = PlantedScorer(
        {"long": lambda text: len(text) / 100, "short": lambda text: -len(text) / 100},
        {"": {"long": 1.0, "short": 0.0}, "quoted": {"long": 0.0, "short": 1.0}},
        group_of=lambda prompt: "quoted" if prompt.startswith("Forget") else "",
    )
    found = effects(scorer, ("jailbreak_forget", "jailbreak_story")).changes
    forget = found["jailbreak_forget"]
    assert forget.flip_rate.value == pytest.approx(1.0, abs=0.05)  # pairs of equal length tie
    assert set(forget.through_rewards.values()) == {0.0}
    assert sum(forget.through_gate.values()) == pytest.approx(forget.shift.value)
    assert forget.examples[0].changed_prompt.startswith("Forget all earlier")
    assert found["jailbreak_story"].flip_rate.value == 0.0


def test_changes_that_apply_to_nothing_are_named():
    scorer = PlantedScorer({"length": planted("length")}, {"": {"length": 1.0}})
    found = effects(scorer, ("minified_code", "praise"))
    assert list(found.changes) == ["praise"]
    assert "minified_code" in found.without


def test_pairs_without_scores_are_counted_and_a_run_resumes(tmp_path):
    class Stubborn(PlantedScorer):
        calls = 0

        def score(self, rows):
            Stubborn.calls += len(rows)
            if Stubborn.calls > 600:
                raise KeyboardInterrupt
            refused = InputError("messages", "", "refused", "")
            return [
                Scored.failed(refused, too_long=row.change == "filler")
                if row.id == "bad" or row.change == "filler"
                else one
                for row, one in zip(rows, super().score(rows), strict=True)
            ]

    rows = pairs(80)
    rows[3] = PreferencePair(rows[3].prompt, "a", "b", id="bad")
    scorer = Stubborn({"length": planted("length")}, {"": {"length": 1.0}})
    probes = probes_of(rows, chosen_changes(()), range(40))
    with pytest.raises(KeyboardInterrupt):
        score_probes(scorer, probes, tmp_path / "scores.jsonl")
    Stubborn.calls = 0
    scored = score_probes(scorer, probes, tmp_path / "scores.jsonl")
    assert Stubborn.calls < len(probes)
    Stubborn.calls = -10_000
    again = score_probes(scorer, probes, tmp_path / "again.jsonl")
    assert [one.scores for one in scored] == [one.scores for one in again]
    assert [str(one.error) for one in scored] == [str(one.error) for one in again]
    found = Probed.of(rows, probes, scored, scorer.objectives)
    assert len(found.pairs) == 79
    assert [error["file"] for error in found.refused] == ["pair bad"]
    assert found.changed_refused == 39
    with pytest.raises(ArmormError, match="No pair could be scored: pair bad"):
        Probed.of(
            rows[3:4], probes_of(rows[3:4], [], []), scorer.score(probes_of(rows[3:4], [], []))
        )
    assert TEXT_MEASURES["length"].of("ab") == 2
