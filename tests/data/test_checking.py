"""Checking data files: what is wrong, what is there twice, what a benchmark holds too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armorm import Objective, ObjectiveSet
from armorm.data.checking import CheckOptions, KnownTexts, Prompts, check_files, shingles
from armorm.errors import ArmormError, RecipeError
from tests.data.hub_layouts import write_hub, write_json_lines

BENCHMARK_PROMPT = "Please name three birds that live in the woods near here."


def pair(prompt: str, chosen: str = "yes", rejected: str = "no", **fields) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **fields}


def check(tmp_path: Path, rows: list[dict], **options) -> dict:
    write_json_lines(tmp_path / "data.jsonl", rows)
    return check_files([tmp_path / "data.jsonl"], CheckOptions(**options)).as_dict()


def test_invalid_rows_are_counted_with_examples(tmp_path):
    rows = [pair("a"), pair("b", "x", "x"), pair("c", ""), {"chosen": "x", "rejected": "y"}]
    report = check(tmp_path, rows)
    (file,) = report["files"]
    assert (file["kind"], file["rows"], file["kept"]) == ("preferences", 4, 1)
    assert {reason: found["count"] for reason, found in file["invalid"].items()} == {
        "the same text as chosen": 1,
        "empty assistant message": 1,
        "missing, and chosen and rejected are not whole conversations": 1,
    }
    assert file["invalid"]["the same text as chosen"]["examples"][0]["row"] == 2
    assert report["valid"] is False


def rated(**ratings) -> dict:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    return {"messages": messages, "ratings": ratings}


def test_ratings_are_checked_against_the_papers_scales_or_a_recipes(tmp_path):
    rows = [rated(**{"code-style": 6}), rated(own=1000), rated(own="x"), rated(own=None)]
    (file,) = check(tmp_path, rows)["files"]
    assert file["kept"] == 1
    assert set(file["invalid"]) == {
        "outside the scale 1 to 5",
        "a rating is a number or null",
        "no objective is rated",
    }
    assert file["ratings"]["own"]["mean"] == 1000
    own = ObjectiveSet([Objective(name="own", maximum=10)])
    (file,) = check(tmp_path, rows, objectives=own)["files"]
    assert "outside the scale 0 to 10" in file["invalid"]
    assert "unknown objective 'code-style'" in file["invalid"]


def test_duplicates_and_contradictions_are_found(tmp_path):
    rows = [pair("a"), pair("a"), pair("a", "no", "yes")]
    (file,) = check(tmp_path, rows)["files"]
    assert {sort: found["count"] for sort, found in file["duplicates"].items()} == {
        "the same row again": 1,
        "the same pair, preferred the other way": 1,
    }
    assert file["lengths"]["chosen_longer"] == pytest.approx(2 / 3)


def test_prompts_on_both_sides_are_found_even_when_slightly_changed(tmp_path):
    long = "Tell me about the history of the bridge over the river in the old town " * 3
    rows = [
        pair(long, split="train"),
        pair(long + "please", split="held_out"),
        pair("What is two plus two?", split="train"),
        pair("What is two plus two?", "four", split="val"),
        pair("How do I bake a good loaf of bread at home?", split="train"),
    ]
    prompts = check(tmp_path, rows)["prompts"]
    assert prompts["distinct"] == 4
    assert {sort: found["count"] for sort, found in prompts["near"].items()} == {
        "nearly the same prompt on both sides": 1,
        "the same prompt on both sides": 1,
    }
    assert check(tmp_path, rows, near_duplicates=False)["prompts"] is None


def test_contamination_by_a_benchmark_is_found_in_prompts_and_responses(tmp_path):
    hub = write_hub(tmp_path / "hub")
    rows = [
        pair(f"I wonder: {BENCHMARK_PROMPT.upper()} Thank you."),
        pair("Name three towns that lie near the woods where birds live."),
        pair("Birds?", "a wren a finch and an owl", "Three cats."),
    ]
    report = check(tmp_path, rows, against=("reward-bench",), root=hub)
    found = report["contamination"]["reward-bench"]
    assert found["benchmark_rows"] == 1
    assert found["found"] == {"prompt": 1, "response": 1}
    assert found["found_by_subset"] == {"llmbar-natural": 1}
    assert found["rows_with_overlap"] == {"prompt": 1, "response": 1}
    assert [example["id"] for example in found["examples"]] == ["data:1", "data:3"]
    assert found["examples"][0]["overlap"] == 1.0


def test_any_file_can_be_compared_with(tmp_path):
    write_json_lines(tmp_path / "other.jsonl", [pair(BENCHMARK_PROMPT, split="val")])
    name = str(tmp_path / "other.jsonl")
    report = check(tmp_path, [pair(BENCHMARK_PROMPT)], against=(name,))
    assert report["contamination"][name]["found"]["prompt"] == 1
    assert report["valid"]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(RecipeError, match="There is no file"):
        check_files([tmp_path / "none.jsonl"], CheckOptions())
    with pytest.raises(RecipeError, match="Did you mean 'reward-bench'"):
        check(tmp_path, [pair("a")], against=("rewardbench",))
    with pytest.raises(ArmormError, match="There is no folder"):
        check(tmp_path, [pair("a")], against=("reward-bench",), root=tmp_path)


words = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=30).map(" ".join)


def runs(text: str, size: int) -> set[tuple[str, ...]]:
    """The same, plainly: sets of tuples of words."""
    found = re.findall(r"\w+", text.lower())
    size = min(size, len(found))
    return {tuple(found[i : i + size]) for i in range(len(found) - size + 1)} if found else set()


@given(text=words, size=st.integers(1, 9))
def test_shingles_are_the_distinct_runs_of_words(text, size):
    assert len(shingles(text, size)) == len(runs(text, size))


@given(known=st.lists(words, max_size=6), text=words, least=st.floats(0.05, 1))
def test_overlap_is_the_share_of_the_known_texts_runs(known, text, least):
    expected = {
        number: len(runs(one, 8) & runs(text, 8)) / len(runs(one, 8))
        for number, one in enumerate(known)
    }
    found = KnownTexts(known).overlaps(text, least)
    assert {overlap.text: overlap.share for overlap in found} == pytest.approx(
        {number: share for number, share in expected.items() if share >= least}
    )


def test_case_punctuation_and_no_words_at_all():
    assert (shingles("Hello, WORLD!", 8) == shingles("hello world", 8)).all()
    assert len(shingles("?!", 8)) == 0
    assert KnownTexts(["?!"]).overlaps("?!", 0.5) == []
    assert KnownTexts([]).overlaps("anything", 0.5) == []


def test_similarity_is_near_the_jaccard_similarity(tmp_path):
    numbers = [f"w{i}" for i in range(200)]
    prompts = Prompts(tmp_path / "prompts.sqlite", similarity=0.5)
    first, second = " ".join(numbers), " ".join([*numbers[:180], *["x", "y", "z"]])
    assert prompts.add("1", first, "first", "train") is None
    near = prompts.add("2", second, "second", "train")
    true = len(runs(first, 3) & runs(second, 3)) / len(runs(first, 3) | runs(second, 3))
    assert near is not None
    assert (near.place, near.same) == ("first", False)
    assert near.similarity == pytest.approx(true, abs=0.15)
    again = prompts.add("1", first, "again", "train")
    assert again is not None
    assert again.same
    prompts.close()
