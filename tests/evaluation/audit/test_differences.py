"""Differences of two models, against differences that were planted."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from armorm import PreferencePair
from armorm.errors import ArmormError, InputError
from armorm.evaluation.audit.differences import FIGURES, compare_scores, diff
from armorm.evaluation.audit.outputs import write_diff
from armorm.evaluation.audit.page import _line
from armorm.evaluation.audit.planted import PlantedScorer, noise, planted
from armorm.evaluation.audit.rules import Rule, apply_rules
from armorm.evaluation.audit.words import diff_in_words
from armorm.evaluation.scorers import Scored
from armorm.heads.metrics import mcnemar
from tests.commands import armorm, invoke, write


def pairs(n: int = 300) -> list[PreferencePair]:
    draw, good = random.Random(0), noise("good")
    rows = []
    for number in range(n):
        texts = [f"{'x' * draw.randint(1, 60)} {number} {side} <i>" for side in "ab"]
        chosen, rejected = sorted(texts, key=good, reverse=True)
        subset = ("chat", "code")[number % 2]
        prompt = ({"role": "user", "content": f"{subset} | {number}\n\n*please*"},)
        rows.append(PreferencePair(prompt, chosen, rejected, subset=subset, id=f"p{number}"))
    return rows


REWARDS = {"good": noise("good"), "long": planted("length")}
OLD = PlantedScorer(REWARDS, {"": {"good": 1.0, "long": 0.3}}, name="old")


def group_of(prompt: str) -> str:
    return prompt.split()[0]


def scored(scorer, rows):
    return scorer.name, scorer.objectives, scorer.score(rows)


def test_a_bias_planted_in_the_gate_of_one_group_is_found_there():
    new = PlantedScorer(
        REWARDS,
        {"chat": {"good": 1.0, "long": 0.3}, "code": {"good": 1.0, "long": 3.0}},
        group_of=group_of,
        name="new",
    )
    rows = pairs()
    found = compare_scores(scored(OLD, rows), scored(new, rows), rows)
    code, chat = found.groups["code"], found.groups["chat"]
    assert code.drop.found
    assert code.drop.low > 0
    assert not chat.drop.found
    assert (chat.lost, chat.gained) == (0, 0)
    assert next(iter(found.lost_by)) == "long: coefficient"
    margins = [np.array([s.scores[0] - s.scores[1] for s in one.score(rows)]) for one in (OLD, new)]
    tested = mcnemar(margins[0] > 0, margins[1] > 0)
    whole = found.groups["all"]
    assert (whole.lost, whole.gained, whole.drop.p) == tuple(tested)
    assert whole.flip_rate.value == np.mean(margins[0] * margins[1] < 0)
    # The parts sum to the change of the margins, each over its root mean square.
    old, later = (m / np.sqrt((m**2).mean()) for m in margins)
    assert sum(part.value for part in whole.parts.values()) == pytest.approx((later - old).mean())
    for flip in (*found.lost, *found.gained):
        row = int(flip.pair[1:])
        assert (flip.old, flip.new) == pytest.approx((old[row], later[row]))
        assert sum(flip.parts.values()) == pytest.approx(flip.new - flip.old, abs=0.05)
    assert {name.partition("(")[0] for name in found.figures} == set(FIGURES)
    assert any("on code falls" in one.text for one in diff_in_words(found))


def test_a_changed_reward_and_objectives_of_one_model_alone_are_parts_of_their_own():
    rows = pairs()
    changed = PlantedScorer(
        {"good": noise("other"), "fresh": noise("fresh")},
        {"": {"good": 1.0, "fresh": 0.1}},
        name="new",
    )
    found = compare_scores(scored(OLD, rows), scored(changed, rows), rows)
    parts = found.groups["all"].parts
    assert set(parts) == {"good: reward", "good: coefficient", "long: removed", "fresh: added"}
    assert next(iter(found.lost_by)) == "good: reward"


def test_the_same_model_and_a_rescaled_one_do_not_differ():
    rows = pairs(60)
    scaled = PlantedScorer(REWARDS, {"": {"good": 50.0, "long": 15.0}}, name="new")
    for other in (OLD, scaled):
        found = compare_scores(scored(OLD, rows), scored(other, rows), rows)
        whole = found.groups["all"]
        assert (whole.flip_rate.value, whole.drop.p) == (0.0, 1.0)
        assert [part.value for part in whole.parts.values()] == pytest.approx([0.0] * 4, abs=1e-9)
        assert found.agreement.value == pytest.approx(1.0)


def test_pairs_that_one_model_lacks_are_counted():
    rows = pairs(30)
    name, objectives, old = scored(OLD, rows)
    failed = Scored.failed(InputError("messages", "", "refused", ""))
    found = compare_scores((name, objectives, [failed, *old[1:]]), scored(OLD, rows), rows)
    assert found.scored == 29
    assert found.unscored == {"old": 1, "new": 0}
    with pytest.raises(ArmormError, match="No pair is scored by both models: messages"):
        compare_scores((name, objectives, [failed] * 30), scored(OLD, rows), rows)


def test_the_files_escape_what_the_data_hold(tmp_path):
    rows = pairs()
    new = PlantedScorer(REWARDS, {"": {"good": 0.2, "long": 1.0}}, name="new <b>|")
    report = diff(lambda: OLD, lambda: new, rows, tmp_path)
    write_diff(tmp_path, report, apply_rules([Rule.parse("flip_rate>0.05")], report.figures))
    result = json.loads((tmp_path / "diff.json").read_text())
    assert result["groups"]["all"]["lost"] == len(report.lost) or len(report.lost) == 20
    page = (tmp_path / "diff.html").read_text()
    assert "new &lt;b&gt;|" in page
    assert "<i>" not in page.replace("<i>reward</i>", "").replace("<i>coefficient</i>", "")
    assert 'class="heat found ' in page  # a part that differs from zero is bold, as the page says
    assert "good: coefficient" in page
    assert "long: reward" not in page  # no reward changed
    assert "Not shown: 2 of less than 0.005" in page
    assert "−0.00" not in page
    text = (tmp_path / "diff.md").read_text()
    assert r"new &lt;b&gt;\|" in text
    assert "<i>" not in text
    assert "| `flip_rate>0.05` | " in text
    inside = text[text.index("<pre>") : text.index("</pre>")]
    assert "\n\nchosen:" in inside


def test_the_command(tmp_path):
    rows = [
        {"prompt": row.prompt[0]["content"], "chosen": row.chosen, "rejected": row.rejected}
        for row in pairs(60)
    ]
    file = write(tmp_path / "pairs.jsonl", rows)
    arguments = ("length", "random", file, "-o", tmp_path / "diff", "-q")
    done = armorm("diff", *arguments, "--fail-on", "flip_rate>0.05")
    assert done.returncode == 4, done.stderr
    assert "preferences flip" in done.stdout
    assert "flip_rate>0.05" in done.stdout
    assert {file.name for file in (tmp_path / "diff").glob("*")} >= {
        "diff.json", "diff.html", "diff.md"
    }  # fmt: skip
    with pytest.raises(AssertionError, match="Did you mean 'flip_rate'"):
        invoke("diff", *arguments, "--fail-on", "fliprate>0.05")


@pytest.mark.parametrize(
    ("new", "rule", "message"),
    [
        ("nowhere/at/all", "flip_rate>0.5", "nowhere/at/all"),
        ("random", "flip_rate(chatt)>0.5", "there is no figure"),
    ],
)
def test_what_must_fail_does_so_before_scoring(tmp_path, monkeypatch, new, rule, message):
    rows = [{"prompt": str(i), "chosen": f"a {i}", "rejected": "b"} for i in range(5)]
    file = write(tmp_path / "pairs.jsonl", rows)
    monkeypatch.setattr("armorm.evaluation.audit.differences.score_probes", None)
    with pytest.raises(AssertionError, match=message):
        invoke("diff", "length", new, file, "-o", tmp_path / "diff", "-q", "--fail-on", rule)


def test_a_group_named_all_is_not_all_pairs():
    rows = [replace(row, subset="all" if i % 3 else "rest") for i, row in enumerate(pairs(30))]
    found = compare_scores(scored(OLD, rows), scored(OLD, rows), rows)
    assert {name: group.pairs for name, group in found.groups.items()} == {
        "all": 30, "all (group)": 20, "rest": 10
    }  # fmt: skip


def test_few_pairs_prove_no_difference_of_zero():
    rows = pairs(5)
    found = compare_scores(scored(OLD, rows), scored(OLD, rows), rows)
    drop = found.groups["all"].drop
    # Wilson's interval of none among five ends at z² / (n + z²).
    end = 1.96**2 / (5 + 1.96**2)
    assert (drop.low, drop.value, drop.high) == pytest.approx((-end, 0.0, end), abs=1e-4)


def test_a_line_of_markdown_calls_nobody():
    assert str(_line("@ann: fixes #12 | $x$\n`<b>`")) == (
        r"<span>@</span>ann: fixes <span>#</span>12 \| \$x\$ \`&lt;b&gt;\`"
    )
