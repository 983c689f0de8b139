"""The catalogue: every dataset's raw layout, read by ``load_dataset``, gives the right rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armorm import PAPER_OBJECTIVES, InputError
from armorm.data import DataSource, HeldOut, read_preferences, read_rated
from armorm.data.catalog import Rating, catalog, catalog_entry, converted_rows
from armorm.errors import ArmormError, RecipeError
from armorm.quickstart import generate_corpus
from tests.data.hub_layouts import (
    helpsteer_rows,
    reward_bench_rows,
    talk,
    write_hub,
    write_json_lines,
    write_parquet,
)

TIE = "a tie"
SAME = "the same text as chosen"
EMPTY = "empty response"
ALTERNATE = "turns do not alternate between user and assistant"
UNRATED = "nothing is rated"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def turns(messages: list[dict[str, str]]) -> str:
    return " | ".join(f"{message['role'][0]}: {message['content']}" for message in messages)


def convert(name: str, kind: str, hub: Path, **options):
    """Converted rows, the reasons of what was left out, and what was mended."""
    notes: Counter[str] = Counter()
    rows, left_out = [], Counter()
    arguments = {"root": hub, "options": options, "notes": notes}
    for converted in converted_rows(catalog_entry(name), kind, **arguments):
        if isinstance(converted.fields, InputError):
            left_out[converted.fields.reason] += 1
        else:
            rows.append(converted.fields)
    return rows, dict(left_out), dict(notes)


def rated(name: str, hub: Path, **options):
    rows, left_out, notes = convert(name, "rated", hub, **options)
    return [(turns(row["messages"]), row["ratings"]) for row in rows], left_out, notes


def pairs(name: str, hub: Path, **options):
    rows, left_out, _ = convert(name, "preferences", hub, **options)
    return [(turns(row["prompt"]), row["chosen"], row["rejected"]) for row in rows], left_out


def helpsteer(helpfulness: float) -> dict[str, float]:
    rest = {"correctness": 4, "coherence": 4, "complexity": 1, "verbosity": 2}
    return {f"helpsteer-{k}": v for k, v in {"helpfulness": helpfulness, **rest}.items()}


TEXT = "rating stored as text: read as a number"
NOT_GIVEN = "rating N/A or empty: read as missing"
RUBRIC = "\n\nJudged by: Is it kind?\n1: level 1\n2: level 2\n3: level 3\n4: level 4\n5: level 5"

RATED = {
    "helpsteer": (
        [
            ("u: Name a bird. | a: A wren.", helpsteer(3)),
            ("u: Name a bird. | a: No.", helpsteer(1)),
            ("u: Name a bird. | a: A finch.", helpsteer(3)),
            ("u: Name a tree. | a: An oak.", helpsteer(3)),
        ],
        {EMPTY: 1},
        {},
    ),
    "helpsteer2": (
        [
            ("u: Name a bird. | a: A wren. | u: Another one. | a: A finch.", helpsteer(3)),
            ("u: Name a bird. | a: A wren. | u: Another one. | a: A wren.", helpsteer(0)),
        ],
        {ALTERNATE: 1},
        {},
    ),
    "ultrafeedback": (
        [
            (
                "u: Say hello. | a: Hello.",
                {
                    "ultrafeedback-overall_score": 9,
                    "ultrafeedback-instruction_following": 5,
                    "ultrafeedback-truthfulness": 5,
                    "ultrafeedback-honesty": 5,
                    "ultrafeedback-helpfulness": 5,
                },
            ),
            (
                "u: Say hello. | a: Hi.",
                {
                    "ultrafeedback-overall_score": 7.5,
                    "ultrafeedback-instruction_following": 4,
                    "ultrafeedback-honesty": 5,
                    "ultrafeedback-helpfulness": 3,
                },
            ),
            (
                "u: Say hello. | a: Bye.",
                {
                    "ultrafeedback-overall_score": 10,
                    "ultrafeedback-instruction_following": 1,
                    "ultrafeedback-truthfulness": 2,
                    "ultrafeedback-honesty": 1,
                    "ultrafeedback-helpfulness": 1,
                },
            ),
        ],
        {EMPTY: 1},
        {TEXT: 15, NOT_GIVEN: 1},
    ),
    "beavertails-30k": (
        [
            ("u: How? | a: Like so.", {"beavertails-is_safe": 0}),
            ("u: How? | a: Please do not.", {"beavertails-is_safe": 1}),
        ],
        {},
        {},
    ),
    "code-ultrafeedback": (
        [
            ("u: Write a loop. | a: by model-0", {"code-complexity": 1}),
            ("u: Write a loop. | a: by model-1", {"code-complexity": 4}),
            ("u: Write a loop. | a: by model-2", {"code-complexity": 4}),
            ("u: Write a loop. | a: by model-0", {"code-instruction-following": 5}),
            ("u: Write a loop. | a: by model-1", {"code-instruction-following": 2}),
            ("u: Write a loop. | a: by model-2", {"code-instruction-following": 3}),
            ("u: Write a loop. | a: by model-3", {"code-instruction-following": 1}),
        ],
        {UNRATED: 1},
        {TEXT: 7, NOT_GIVEN: 1},
    ),
    "feedback-collection": (
        [
            (f"u: Greet me.{RUBRIC} | a: Hello, friend.", {"prometheus-score": 5}),
            (f"u: Greet me.{RUBRIC} | a: Hm.", {"prometheus-score": 2}),
        ],
        {},
        {TEXT: 2},
    ),
    "argilla-capybara": (
        [
            ("u: Count. | a: One. | u: Go on. | a: Two.", {"argilla-overall_quality": 5}),
            ("u: Count. | a: One. | u: Go on. | a: No.", {"argilla-overall_quality": 2}),
            ("u: Count. | a: One. | u: Go on. | a: Two.", {"argilla-overall_quality": 4}),
            ("u: Count. | a: One. | u: Go on. | a: No.", {"argilla-overall_quality": 4}),
            ("u: Count. | a: One. | u: Go on. | a: No.", {"argilla-overall_quality": 1}),
        ],
        {"empty assistant turn": 1},
        {},
    ),
    "argilla-orca": (
        [
            ("s: Be brief. | u: What is 2 + 2? | a: Five.", {"argilla-judge_lm": 2}),
            ("s: Be brief. | u: What is 2 + 2? | a: Four.", {"argilla-judge_lm": 9}),
            ("u: What is 2 + 2? | a: Five.", {"argilla-judge_lm": 5}),
            ("u: What is 2 + 2? | a: Four.", {"argilla-judge_lm": 5}),
            ("s: Be brief. | u: What is 2 + 2? | a: Five.", {"argilla-judge_lm": 2}),
            ("s: Be brief. | u: What is 2 + 2? | a: Four.", {"argilla-judge_lm": 9}),
        ],
        {"not one rating a generation": 1},
        {},
    ),
    "argilla-math": (
        [
            ("u: Add 2 and 2. | a: 4", {"ultrafeedback-instruction_following": 5}),
            ("u: Add 2 and 2. | a: 5", {"ultrafeedback-instruction_following": 2}),
            ("u: Add 2 and 2. | a: 4", {"ultrafeedback-instruction_following": 5}),
            ("u: Add 2 and 2. | a: four", {"ultrafeedback-instruction_following": 5}),
        ],
        {},
        {},
    ),
    "armorm-multi-objective": (
        [
            # 0.7 is (3 + 0.5) / 5: the released model's mapping of HelpSteer's points.
            ("u: Hello. | a: Hi.", {"helpsteer-helpfulness": 3}),
            ("u: Hello. | a: Hm.", {"beavertails-is_safe": 1, "code-style": 2}),
        ],
        {UNRATED: 1},
        {},
    ),
}


def test_every_rated_dataset_is_tested():
    assert set(RATED) == {entry.name for entry in catalog().values() if entry.rated} - {
        "quickstart"
    }


@pytest.mark.parametrize("name", RATED)
def test_rated_rows(name, hub):
    expected, left_out, notes = RATED[name]
    rows, found_left_out, found_notes = rated(name, hub)
    assert [text for text, _ in rows] == [text for text, _ in expected]
    for (_, found), (_, ratings) in zip(rows, expected, strict=True):
        assert found == pytest.approx(ratings)
    assert found_left_out == left_out
    assert found_notes == notes


COUNT = [("u: Count.", "One.", "No.")]
CALM = "u: Hello | a: Hi | u: How are you?"
HH = (
    [(CALM, "Well.", "Go away.")],
    {
        ALTERNATE: 1,
        "chosen and rejected share no prompt": 1,
        "empty assistant turn": 1,
        SAME: 1,
    },
)
BIRD = "u: Name a bird. | a: A wren. | u: Another one."
LOOP = "u: Write a loop."

PAIRS = {
    "helpsteer": (
        [("u: Name a bird.", "A wren.", "No."), ("u: Name a bird.", "A finch.", "No.")],
        {TIE: 1, EMPTY: 1, "the only response to its prompt": 2},
    ),
    "helpsteer2": ([(BIRD, "A finch.", "A wren.")], {"the only response to its prompt": 1}),
    "helpsteer2-preference": (
        [(BIRD, "A finch.", "A wren."), (BIRD, "A wren.", "A finch.")],
        {TIE: 1},
    ),
    "helpsteer3": (
        [
            ("u: Count. | a: From where? | u: From one.", "one", "two"),
            ("u: Count. | a: From where? | u: From one.", "two", "one"),
        ],
        {TIE: 1, "does not end with the user's turn": 1},
    ),
    "ultrafeedback": (
        # The second completion has an N/A aspect, so its mean is not comparable.
        [("u: Say hello.", "Hello.", "Bye.")],
        {EMPTY: 1, "a response without the score to rank by": 1},
    ),
    "ultrafeedback-cleaned": (COUNT, {}),
    "code-ultrafeedback": (
        [
            (LOOP, "by model-1", "by model-0"),
            (LOOP, "by model-2", "by model-0"),
            (LOOP, "by model-0", "by model-1"),
            (LOOP, "by model-0", "by model-2"),
            (LOOP, "by model-0", "by model-3"),
            (LOOP, "by model-2", "by model-1"),
            (LOOP, "by model-1", "by model-3"),
            (LOOP, "by model-2", "by model-3"),
        ],
        {TIE: 1, UNRATED: 1},
    ),
    "argilla-capybara": (
        [("u: Count. | a: One. | u: Go on.", "Two.", "No.")],
        {TIE: 1, "empty assistant turn": 1},
    ),
    "argilla-orca": ([("s: Be brief. | u: What is 2 + 2?", "Four.", "Five.")] * 2, {TIE: 2}),
    "argilla-math": ([("u: Add 2 and 2.", "4", "5")], {TIE: 1}),
    "shp": (
        [
            ("u: Post a", "Yes.", "No."),
            ("u: Post a", "No.", "Never."),
            ("u: Post b", "Yes.", "No."),
        ],
        {"votes too close (min_ratio)": 1},
    ),
    "hh-rlhf": (HH[0] * 4, dict.fromkeys(HH[1], 4)),
    "hh-rlhf-harmless-base": HH,
    "hh-rlhf-helpful-base": HH,
    "hh-rlhf-helpful-online": HH,
    "hh-rlhf-helpful-rejection-sampled": HH,
    "pku-saferlhf-30k": ([("u: How?", "Like so.", "Please do not.")], {}),
    "prm800k-phase2": (
        [("u: Solve x + 1 = 3.", "Subtract 1.\nSo x is two.", "Subtract 1.\nSo x = 3.")],
        {"no step with a right and a wrong continuation": 1},
    ),
    "preference-collection": (
        [(f"u: Greet me.{RUBRIC}", "Hello.", "Hm."), (f"u: Greet me.{RUBRIC}", "Hm.", "Hello.")],
        {},
    ),
    "pair-data-v2": (COUNT * 2, {}),
    **{
        name: (COUNT, {TIE: 1})
        for name, entry in catalog().items()
        if entry.about.startswith("Ready-made") and name != "pair-data-v2"
    },
    **{
        name: (
            [
                (
                    "u: Please name three birds that live in the woods near here.",
                    "A wren, a finch and an owl.",
                    "Three fish.",
                )
            ],
            {},
        )
        for name in ("reward-bench", "reward-bench-raw")
    },
    "preference-test-sets": ([("u: Hello. | a: Hi. | u: Go on.", "Sure.", "No.")] * 4, {}),
    "reward-bench-2": (
        [
            ("u: Name a colour of the rainbow.", chosen, rejected)
            for chosen in ("Red.", "Blue.")
            for rejected in ("Brown.", "Pink.", "Red.")
            if chosen != rejected
        ],
        {SAME: 1},
    ),
}


def test_every_preference_dataset_is_tested():
    names = {entry.name for entry in catalog().values() if entry.preferences}
    assert set(PAIRS) == names - {"quickstart"}


def test_the_built_in_corpus_is_in_the_catalogue():
    corpus = generate_corpus()
    named = read_rated([DataSource(catalog="quickstart", limit=50)], corpus.objectives).rows
    assert [row.response for row in named] == [
        row["messages"][-1]["content"] for row in corpus.rated[:50]
    ]
    other = DataSource(catalog="quickstart", options={"seed": 1}, limit=50)
    assert (
        read_preferences([other]).rows
        != read_preferences([DataSource(catalog="quickstart", limit=50)]).rows
    )


@pytest.mark.parametrize("name", PAIRS)
def test_preference_pairs(name, hub):
    assert pairs(name, hub) == PAIRS[name]


def test_a_benchmark_prompt_may_be_messages(tmp_path):
    rows = [{**reward_bench_rows()[0], "prompt": talk("Hello.", "Hi.", "Go on.")}]
    write_parquet(tmp_path / "allenai/reward-bench/data/filtered-00000-of-00001.parquet", rows)
    ((prompt, _, _),), _ = pairs("reward-bench", tmp_path)
    assert prompt == "u: Hello. | a: Hi. | u: Go on."


def test_options_choose_how_pairs_are_made(hub):
    by_overall, _ = pairs("ultrafeedback", hub, by="overall")
    assert by_overall == [
        ("u: Say hello.", "Hello.", "Hi."),
        ("u: Say hello.", "Bye.", "Hello."),
        ("u: Say hello.", "Bye.", "Hi."),
    ]
    safer, _ = pairs("pku-saferlhf-30k", hub, by="safer")
    assert safer == [("u: How?", "Please do not.", "Like so.")]
    plain, _ = pairs("preference-collection", hub, rubric=False)
    assert plain[0][0] == "u: Greet me."
    without_gsm8k, left_out = pairs("argilla-orca", hub, leave_out_gsm8k=True)
    assert len(without_gsm8k) == 1
    assert left_out["a question of GSM8K"] == 1
    one_a_post, left_out = pairs("shp", hub, per_post=1, min_ratio=1)
    assert [prompt for prompt, *_ in one_a_post] == ["u: Post a", "u: Post b"]
    assert left_out == {"enough pairs of this post": 2}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"catalog": "helpstear2"}, "The catalogue has no 'helpstear2'. Did you mean 'helpsteer2'"),
        ({"catalog": "helpsteer2", "path": "x"}, "exactly one of catalog, path"),
        ({"path": "x.jsonl", "options": {"by": "overall"}}, "options belong to a dataset"),
        ({"catalog": "helpsteer2", "weight": 0}, "greater than 0"),
    ],
)
def test_a_wrong_source_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        DataSource(**source)


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ({"catalog": "shp"}, "rated", "shp has no rated rows. List it under data.preferences"),
        ({"catalog": "beavertails-30k"}, "preferences", "List it under data.rated"),
        ({"catalog": "reward-bench"}, "preferences", "is a benchmark"),
        ({"catalog": "ultrafeedback", "options": {"By": 1}}, "preferences", "Did you mean 'by'"),
        (
            {"catalog": "ultrafeedback", "options": {"by": "mean"}},
            "preferences",
            "use one of aspects, overall",
        ),
        ({"catalog": "shp", "options": {"min_ratio": "two"}}, "preferences", "write a value like"),
        ({"catalog": "helpsteer", "options": {"by": "x"}}, "rated", "It has none"),
    ],
)
def test_what_the_catalogue_cannot_give_is_refused(source, kind, message):
    with pytest.raises(RecipeError, match=message):
        DataSource(**source).check_catalog(kind)


def test_a_catalogue_source_is_read_like_any_other(hub):
    source = DataSource(catalog="ultrafeedback", root=str(hub), limit=3)
    loaded = read_rated([source], PAPER_OBJECTIVES, held_out=HeldOut(fraction=0.5))
    assert [row.id for row in loaded.rows] == [
        "ultrafeedback:1",
        "ultrafeedback:1.1",
        "ultrafeedback:1.2",
    ]
    assert {row.source for row in loaded.rows} == {"ultrafeedback"}
    assert loaded.tally.notes == {TEXT: 11, NOT_GIVEN: 1}
    assert len({row.held_out for row in loaded.rows}) == 1


def test_what_a_rule_leaves_out_does_not_stop_but_a_damaged_row_does(tmp_path, hub):
    loaded = read_preferences([DataSource(catalog="hh-rlhf-helpful-base", root=str(hub))])
    assert len(loaded.rows) == 1
    assert [error["row"] for error in loaded.invalid] == [2, 3, 4, 5]
    assert loaded.tally.skipped[ALTERNATE] == 1
    rows = helpsteer_rows()
    rows[1]["verbosity"] = 7
    write_json_lines(tmp_path / "nvidia/HelpSteer/train.jsonl", rows)
    damaged = DataSource(catalog="helpsteer", root=str(tmp_path))
    with pytest.raises(
        InputError, match=r"HelpSteer\[train\], row 2: verbosity = 7: outside"
    ) as caught:
        read_rated([damaged], PAPER_OBJECTIVES)
    assert caught.value.field == "verbosity"
    skipping = read_rated([damaged], PAPER_OBJECTIVES, invalid="skip")
    assert len(skipping.rows) == 3


def test_another_layout_is_refused_with_the_columns_found(tmp_path):
    write_json_lines(tmp_path / "nvidia/HelpSteer2/train.jsonl", [{"question": "a", "answer": "b"}])
    source = DataSource(catalog="helpsteer2", root=str(tmp_path))
    with pytest.raises(ArmormError, match=r"no column prompt, response.*Found: question, answer"):
        read_rated([source], PAPER_OBJECTIVES)


def test_what_cannot_be_found_is_named(tmp_path, hub):
    with pytest.raises(ArmormError, match=r"There is no folder .*nvidia/HelpSteer2"):
        list(converted_rows(catalog_entry("helpsteer2"), "rated", root=tmp_path))
    with pytest.raises(RecipeError, match=r"no split 'valid'\. Did you mean 'validation'"):
        list(converted_rows(catalog_entry("helpsteer2"), "rated", root=hub, split="valid"))
    validation = converted_rows(
        catalog_entry("nvidia/HelpSteer2"), "rated", root=hub, split="validation"
    )
    assert len(list(validation)) == 1


def test_weights_thin_and_repeat_training_rows_only(tmp_path):
    rows = [{"prompt": f"q{i}", "chosen": "a", "rejected": "b"} for i in range(400)]
    write_json_lines(tmp_path / "p.jsonl", rows)

    def read(weight: float):
        source = DataSource(path=str(tmp_path / "p.jsonl"), weight=weight)
        return read_preferences([source], held_out=HeldOut(fraction=0.25))

    whole, thin, heavy = read(1), read(0.3), read(2.5)
    held_out = [row.id for row in whole.rows if row.held_out]
    for loaded in (thin, heavy):
        assert [row.id for row in loaded.rows if row.held_out] == held_out
        assert loaded.tally.kept == len(loaded.rows)
        assert len({row.id for row in loaded.rows}) == len(loaded.rows)
    training = 400 - len(held_out)
    assert 0.2 < (len(thin.rows) - len(held_out)) / training < 0.4
    assert 2.35 < (len(heavy.rows) - len(held_out)) / training < 2.65
    assert thin.tally.skipped == {"left out by the weight of its source": 400 - len(thin.rows)}
    assert read(0.3).rows == thin.rows


def test_objectives_that_the_recipe_does_not_name_are_not_asked_for(hub):
    objectives = type(PAPER_OBJECTIVES)(PAPER_OBJECTIVES[:1])
    loaded = read_rated([DataSource(catalog="helpsteer", root=str(hub))], objectives)
    assert loaded.rows[0].ratings == {"helpsteer-helpfulness": 3}
    other = read_rated([DataSource(catalog="beavertails-30k", root=str(hub))], objectives)
    assert other.tally.skipped == {"rates none of the recipe's objectives": 2}


def test_every_objective_of_the_paper_has_a_dataset():
    assert {
        objective
        for entry in catalog().values()
        for objective in entry.objectives
        if entry.name != "quickstart"
    } == set(PAPER_OBJECTIVES)


def test_entries_say_what_is_verified_and_what_is_from_memory():
    for entry in catalog().values():
        assert entry.verified.isdisjoint(entry.from_memory)
        assert entry.licence
        assert entry.columns


SCALES = [rating for entry in catalog().values() for rating in entry.ratings]


@given(rating=st.sampled_from(SCALES), share=st.floats(0, 1))
def test_scales_map_linearly_onto_the_objectives(rating: Rating, share: float):
    objective = rating.objective
    value = rating.minimum + share * (rating.maximum - rating.minimum)
    expected = objective.minimum + share * (objective.maximum - objective.minimum)
    found = rating.read(value, Counter())
    assert found == pytest.approx(expected, abs=1e-9)
    assert rating.read(str(value), Counter()) == found
    assert objective.validate_rating(found) == pytest.approx(found)


@given(rating=st.sampled_from(SCALES), excess=st.floats(0.01, 1e6), above=st.booleans())
def test_a_value_off_the_scale_is_refused(rating: Rating, excess: float, above: bool):
    value = rating.maximum + excess if above else rating.minimum - excess
    with pytest.raises(InputError, match="outside the scale"):
        rating.read(value, Counter())


@pytest.mark.parametrize("missing", [None, "N/A", " n/a ", "", "None", float("nan")])
def test_missing_ratings_are_missing(missing):
    assert SCALES[0].read(missing, Counter()) is None


@pytest.mark.parametrize("value", ["five", [1], {"a": 1}])
def test_a_rating_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="number"):
        SCALES[0].read(value, Counter())
