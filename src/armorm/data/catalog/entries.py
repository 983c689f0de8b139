"""The entries: one per public dataset that the method is trained or evaluated on.

``verified`` lists what was seen in documentation, dataset cards or published code in November
2026; everything else is from memory, and docs/data-catalogue.md says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from armorm.data.catalog.converters import (
    PromptReader,
    column_parts,
    conversation_parts,
    labelled_pair,
    marked_turns,
    messages_in,
    ordered_pair,
    rated_pair,
    rated_response,
    system_and_user,
    transcript_parts,
    user_turn,
)
from armorm.data.catalog.entry import (
    CatalogEntry,
    Checked,
    Form,
    Option,
    Rating,
    Reading,
    Record,
    same_scale,
)
from armorm.data.catalog.nested import (
    ASPECTS,
    benchmark_pair,
    code_pairs,
    code_responses,
    feedback_collection,
    merged_response,
    orca_pairs,
    orca_responses,
    preference_collection,
    prm800k_pairs,
    prompt_group_pairs,
    reward_bench_2,
    shp_pairs,
    ultrafeedback_pairs,
    ultrafeedback_responses,
)
from armorm.errors import InputError
from armorm.objectives import PAPER_OBJECTIVES
from armorm.quickstart import DECIDING_OBJECTIVE, generate_corpus

NOT_STATED = "not stated"
HELPSTEER_COLUMNS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HELPSTEER_RATINGS = tuple(same_scale(column, f"helpsteer-{column}") for column in HELPSTEER_COLUMNS)
HELPSTEER_MEANINGS = {
    "prompt": "the user's turn",
    "response": "the rated response",
    **dict.fromkeys(HELPSTEER_COLUMNS, "0 to 4, mean of the annotators, rounded"),
}


def _helpsteer_rated(prompt: PromptReader) -> Form:
    return Form(convert=rated_response(prompt, "response"), rule="one response a row")


def _helpsteer_pairs(prompt: PromptReader) -> Form:
    return Form(
        convert=prompt_group_pairs(prompt, "response"),
        rule="every two adjacent responses to one prompt, the higher rating chosen; ties left out",
        group="prompt",
        options={
            "by": Option(
                default="helpfulness",
                meaning="Rating that ranks the responses.",
                choices=HELPSTEER_COLUMNS,
            )
        },
    )


def _by_sign(column: str) -> Callable[[Record, Reading], bool | None]:
    """Whether a signed strength prefers the first response: below zero it does, 0 is a tie."""

    def first_is_better(record: Record, _: Reading) -> bool | None:
        strength = record.get(column)
        if not isinstance(strength, int | float) or strength == 0:
            return None
        return strength < 0

    return first_is_better


def _as_it_is(record: Record, _: Reading) -> Iterator[dict[str, Any] | InputError]:
    """The records of the built-in corpus are rows already."""
    yield dict(record)


CORPUS_SEED = {"seed": Option(default=0, meaning="What the corpus is made from.")}

QUICKSTART = CatalogEntry(
    name="quickstart",
    hub_id="in the package",
    about="The built-in corpus with planted truth, rated for objectives of its own.",
    licence="Apache-2.0",
    columns={"domain": "what the question is about"},
    rated=Form(
        convert=_as_it_is,
        rule="one response a row; use it with objectives: quickstart",
        options=CORPUS_SEED,
        records=lambda options: iter(generate_corpus(options["seed"]).rated),
    ),
    preferences=Form(
        convert=_as_it_is,
        rule="as planted",
        options=CORPUS_SEED,
        records=lambda options: iter(generate_corpus(options["seed"]).preferences),
    ),
    planted=DECIDING_OBJECTIVE,
    verified=frozenset({"id", "columns", "splits", "licence"}),
)

HELPSTEER = CatalogEntry(
    name="helpsteer",
    hub_id="nvidia/HelpSteer",
    about="Responses rated by annotators for five qualities.",
    licence="CC-BY-4.0",
    rows=35_331,
    other_splits=("validation",),
    columns=HELPSTEER_MEANINGS,
    ratings=HELPSTEER_RATINGS,
    rated=_helpsteer_rated(user_turn("prompt")),
    preferences=_helpsteer_pairs(user_turn("prompt")),
    verified=frozenset({"id", "columns", "rows", "licence", "scale"}),
)

HELPSTEER2 = CatalogEntry(
    name="helpsteer2",
    hub_id="nvidia/HelpSteer2",
    about="As HelpSteer, two responses a prompt; prompts may have several turns.",
    licence="CC-BY-4.0",
    rows=20_324,
    other_splits=("validation",),
    columns={**HELPSTEER_MEANINGS, "prompt": "turns, later ones marked by <extra_id_1>"},
    ratings=HELPSTEER_RATINGS,
    rated=_helpsteer_rated(marked_turns("prompt")),
    preferences=_helpsteer_pairs(marked_turns("prompt")),
    verified=frozenset({"id", "columns", "splits", "rows", "licence", "scale"}),
)

HELPSTEER2_PREFERENCE = CatalogEntry(
    name="helpsteer2-preference",
    hub_id="nvidia/HelpSteer2",
    data_dir="preference",
    about="HelpSteer2's pairs with a strength of preference.",
    licence="CC-BY-4.0",
    columns={
        "prompt": "turns, later ones marked by <extra_id_1>",
        "response_1": "the first response",
        "response_2": "the second response",
        "preference_strength": "-3 (the first is much better) to 3 (the second is)",
    },
    preferences=Form(
        convert=labelled_pair(
            marked_turns("prompt"), ("response_1", "response_2"), _by_sign("preference_strength")
        ),
        rule="by the sign of the strength; 0 is a tie",
    ),
    verified=frozenset({"id", "columns", "licence"}),
    defects=("Which sign prefers which response is from memory.",),
)

HELPSTEER3 = CatalogEntry(
    name="helpsteer3",
    hub_id="nvidia/HelpSteer3",
    config="preference",
    about="Pairs of responses to multi-turn contexts in four domains; it has no ratings.",
    licence="CC-BY-4.0",
    rows=38_459,
    other_splits=("validation",),
    columns={
        "domain": "general, stem, code or multilingual",
        "context": "messages up to the last user turn",
        "response1": "the first response",
        "response2": "the second response",
        "overall_preference": "-3 (the first is much better) to 3 (the second is)",
    },
    preferences=Form(
        convert=labelled_pair(
            messages_in("context"),
            ("response1", "response2"),
            _by_sign("overall_preference"),
            subset="domain",
        ),
        rule="by the sign of the preference; 0 is a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)

ULTRAFEEDBACK = CatalogEntry(
    name="ultrafeedback",
    hub_id="openbmb/UltraFeedback",
    about="Four completions an instruction, each rated by GPT-4 for four aspects and overall.",
    licence="MIT",
    rows=63_967,
    columns={
        "instruction": "the user's turn",
        "completions": "model, response, overall_score and annotations.{aspect}.Rating of each",
    },
    ratings=(
        same_scale("overall_score", "ultrafeedback-overall_score"),
        *(same_scale(aspect, f"ultrafeedback-{aspect}") for aspect in ASPECTS),
    ),
    rated=Form(
        convert=ultrafeedback_responses,
        rule="one response a completion; the model's own system prompt is not part of the prompt",
    ),
    preferences=Form(
        convert=ultrafeedback_pairs,
        rule="every two completions of an instruction, the higher one chosen; ties left out",
        options={
            "by": Option(
                default="aspects",
                meaning="Rank by the mean of the four aspects, or by the overall score.",
                choices=("aspects", "overall"),
            )
        },
    ),
    verified=frozenset({"id", "columns", "rows", "licence", "scale"}),
    defects=(
        "Its first release had 2,628 completions with an overall score of 10 where 1 was meant; "
        "its authors mended it in December 2023. Pairs by aspects do not depend on that score.",
    ),
)

ULTRAFEEDBACK_CLEANED = CatalogEntry(
    name="ultrafeedback-cleaned",
    hub_id="argilla/ultrafeedback-binarized-preferences-cleaned",
    about="UltraFeedback's best completion against another, TruthfulQA prompts removed.",
    licence="MIT",
    rows=60_917,
    columns={
        "chosen": "messages",
        "rejected": "messages",
        "chosen-rating": "mean of the four aspects",
        "rejected-rating": "mean of the four aspects",
    },
    preferences=Form(
        convert=ordered_pair(scores=("chosen-rating", "rejected-rating")),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id"}),
)

BEAVERTAILS = CatalogEntry(
    name="beavertails-30k",
    hub_id="PKU-Alignment/BeaverTails",
    about="Answers to harmful questions, judged safe or not.",
    licence="CC-BY-NC-4.0",
    splits=("30k_train",),
    other_splits=("30k_test", "330k_train", "330k_test"),
    columns={
        "prompt": "the user's turn",
        "response": "the judged response",
        "is_safe": "true or false",
    },
    ratings=(same_scale("is_safe", "beavertails-is_safe"),),
    rated=Form(convert=rated_response(user_turn("prompt"), "response"), rule="one response a row"),
    verified=frozenset({"id", "splits", "licence", "scale"}),
)

CODE_PREFERENCES = ("complexity", "style", "explanation", "instruction-following", "readability")

CODE_ULTRAFEEDBACK = CatalogEntry(
    name="code-ultrafeedback",
    hub_id="coseal/CodeUltraFeedback",
    about="Four responses a programming instruction, rated for one of five coding preferences.",
    licence="MIT",
    rows=10_000,
    columns={
        "instruction": "the user's turn",
        "preference": "which of the five preferences the ratings are about",
        "responses": "model and response",
        "annotations": "model, rating (text, 1 to 5) and rationale",
    },
    ratings=tuple(same_scale(name, f"code-{name}") for name in CODE_PREFERENCES),
    rated=Form(
        convert=code_responses, rule="one response a model, annotations joined by the model's name"
    ),
    preferences=Form(
        convert=code_pairs,
        rule="every two responses to an instruction, the higher rating chosen; ties left out",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
    defects=("The spelling of the values of `preference` is from memory; others are refused.",),
)

RUBRIC_OPTION = {
    "rubric": Option(
        default=True, meaning="Add the rubric that the response was judged by to the prompt."
    )
}

FEEDBACK_COLLECTION = CatalogEntry(
    name="feedback-collection",
    hub_id="prometheus-eval/Feedback-Collection",
    about="Responses scored by rubrics that differ from row to row.",
    licence="CC-BY-4.0",
    rows=99_952,
    columns={
        "orig_instruction": "the user's turn",
        "orig_response": "the scored response",
        "orig_score": "text, 1 to 5",
        "orig_criteria": "what the rubric asks",
        **{f"orig_score{n}_description": f"what a score of {n} means" for n in range(1, 6)},
    },
    ratings=(same_scale("orig_score", "prometheus-score"),),
    rated=Form(
        convert=feedback_collection,
        rule="one response a row, its rubric added to the prompt",
        options=RUBRIC_OPTION,
    ),
    verified=frozenset({"id", "columns"}),
)

PREFERENCE_COLLECTION = CatalogEntry(
    name="preference-collection",
    hub_id="prometheus-eval/Preference-Collection",
    about="Pairs of responses judged by rubrics that differ from row to row.",
    licence="CC-BY-4.0",
    rows=199_760,
    columns={
        "orig_instruction": "the user's turn",
        "orig_response_A": "the first response",
        "orig_response_B": "the second response",
        "orig_preference": "A or B",
        "orig_criteria": "what the rubric asks",
    },
    preferences=Form(
        convert=preference_collection,
        rule="the one named by orig_preference, the rubric added to the prompt",
        options=RUBRIC_OPTION,
    ),
    verified=frozenset({"id", "columns"}),
)

CAPYBARA = CatalogEntry(
    name="argilla-capybara",
    hub_id="argilla/Capybara-Preferences-Filtered",
    about="Multi-turn conversations, the last response rated by GPT-4.",
    licence="Apache-2.0",
    rows=14_811,
    columns={
        "chosen": "messages",
        "rejected": "messages",
        "chosen_rating": "1 to 5",
        "rejected_rating": "1 to 5",
    },
    ratings=(same_scale("rating", "argilla-overall_quality"),),
    rated=Form(
        convert=rated_pair(
            conversation_parts, {"chosen": "chosen_rating", "rejected": "rejected_rating"}
        ),
        rule="both responses of a row",
    ),
    preferences=Form(
        convert=ordered_pair(scores=("chosen_rating", "rejected_rating")),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)

ORCA_PROMPT = system_and_user("system", "input")

ORCA = CatalogEntry(
    name="argilla-orca",
    hub_id="argilla/distilabel-intel-orca-dpo-pairs",
    about="Two answers to an Orca question, rated by a judge.",
    licence="Apache-2.0",
    rows=12_859,
    columns={
        "system": "the system message, may be empty",
        "input": "the user's turn",
        "chosen": "the better answer",
        "rejected": "the other one",
        "generations": "both answers, in the order of the ratings",
        "rating": "1 to 10 of each generation",
        "status": "tie, swapped or unchanged",
        "in_gsm8k_train": "the question is one of GSM8K's training questions",
    },
    ratings=(same_scale("rating", "argilla-judge_lm"),),
    rated=Form(convert=orca_responses(ORCA_PROMPT), rule="both generations of a row"),
    preferences=Form(
        convert=orca_pairs(ORCA_PROMPT),
        rule="as its authors ordered them; status tie is left out",
        options={
            "leave_out_gsm8k": Option(
                default=False, meaning="Leave out questions of GSM8K's training set."
            )
        },
    ),
    verified=frozenset({"id", "licence"}),
)

MATH_PARTS = column_parts(user_turn("instruction"))

MATH = CatalogEntry(
    name="argilla-math",
    hub_id="argilla/distilabel-math-preference-dpo",
    about="Two answers to a mathematical instruction, rated for instruction following.",
    licence="Apache-2.0",
    rows=2_418,
    columns={
        "instruction": "the user's turn",
        "chosen_response": "the better answer",
        "rejected_response": "the other one",
        "chosen_rating": "1 to 5",
        "rejected_rating": "1 to 5",
    },
    ratings=(same_scale("rating", "ultrafeedback-instruction_following"),),
    rated=Form(
        convert=rated_pair(
            MATH_PARTS,
            {"chosen_response": "chosen_rating", "rejected_response": "rejected_rating"},
        ),
        rule="both responses of a row",
    ),
    preferences=Form(
        convert=ordered_pair(
            MATH_PARTS,
            scores=("chosen_rating", "rejected_rating"),
            columns=("chosen_response", "rejected_response"),
        ),
        rule="as its authors ordered them; equal ratings are a tie",
    ),
    verified=frozenset({"id", "columns", "splits", "rows", "licence"}),
)


def _unit_rating(objective: str) -> Rating:
    """A rating that the merged set holds as the unit reward it is trained on."""
    scale = PAPER_OBJECTIVES[PAPER_OBJECTIVES.column(objective)]
    return Rating(
        column=objective,
        objective=objective,
        minimum=scale.to_reward(scale.minimum),
        maximum=scale.to_reward(scale.maximum),
    )


MERGED = CatalogEntry(
    name="armorm-multi-objective",
    hub_id="RLHFlow/ArmoRM-Multi-Objective-Data-v0.1",
    about="The paper's merged training set: nineteen objectives, most missing in a row.",
    licence=NOT_STATED,
    columns={
        "messages": "the whole conversation",
        **dict.fromkeys(PAPER_OBJECTIVES.names, "a unit reward, or null"),
    },
    ratings=tuple(_unit_rating(name) for name in PAPER_OBJECTIVES.names),
    rated=Form(convert=merged_response, rule="one response a row"),
    verified=frozenset({"id", "columns", "licence", "scale"}),
)

SHP = CatalogEntry(
    name="shp",
    hub_id="stanfordnlp/SHP",
    about="Pairs of comments on Reddit posts, by votes.",
    licence=f"{NOT_STATED}; subject to Reddit's terms",
    rows=348_718,
    other_splits=("validation", "test"),
    columns={
        "post_id": "the post",
        "domain": "subreddit and split",
        "history": "the post, the user's turn",
        "human_ref_A": "a comment",
        "human_ref_B": "another comment",
        "labels": "1: A is preferred, 0: B is",
        "score_ratio": "votes of the preferred comment over those of the other",
    },
    preferences=Form(
        convert=shp_pairs,
        rule="the comment with more votes, where the ratio is large enough",
        group="post_id",
        options={
            "min_ratio": Option(default=2.0, meaning="Least ratio of votes."),
            "per_post": Option(default=5, meaning="Most pairs of one post."),
        },
    ),
    verified=frozenset({"id"}),
)


def _hh_rlhf(name: str, data_dir: str | None, rows: int, about: str) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        hub_id="Anthropic/hh-rlhf",
        data_dir=data_dir,
        about=about,
        licence="MIT",
        rows=rows,
        other_splits=("test",),
        columns={"chosen": "a transcript", "rejected": "a transcript with another last turn"},
        preferences=Form(
            convert=ordered_pair(transcript_parts),
            rule="the last turns of two transcripts that share all others",
        ),
        verified=frozenset({"id", "columns", "licence"}),
        defects=("Some transcripts do not alternate or share no prompt: counted and left out.",),
    )


HH_RLHF = (
    _hh_rlhf("hh-rlhf", None, 160_800, "Human preferences for helpful and harmless answers."),
    _hh_rlhf("hh-rlhf-harmless-base", "harmless-base", 42_537, "Its harmless part."),
    _hh_rlhf("hh-rlhf-helpful-base", "helpful-base", 43_835, "Its helpful part."),
    _hh_rlhf("hh-rlhf-helpful-online", "helpful-online", 22_007, "Its helpful part, online."),
    _hh_rlhf(
        "hh-rlhf-helpful-rejection-sampled",
        "helpful-rejection-sampled",
        52_421,
        "Its helpful part, by rejection sampling.",
    ),
)


def _by_response_id(record: Record, reading: Reading) -> bool | None:
    preferred = record.get(f"{reading.options['by']}_response_id")
    return preferred == 0 if preferred in (0, 1) else None


PKU_SAFERLHF = CatalogEntry(
    name="pku-saferlhf-30k",
    hub_id="PKU-Alignment/PKU-SafeRLHF-30K",
    about="Two answers to a harmful question: which is better, which is safer.",
    licence="CC-BY-NC-4.0",
    other_splits=("test",),
    columns={
        "prompt": "the user's turn",
        "response_0": "the first response",
        "response_1": "the second response",
        "better_response_id": "0 or 1: the more helpful one",
        "safer_response_id": "0 or 1: the safer one",
    },
    preferences=Form(
        convert=labelled_pair(user_turn("prompt"), ("response_0", "response_1"), _by_response_id),
        rule="the better one, or by option the safer one",
        options={
            "by": Option(
                default="better", meaning="Which label decides.", choices=("better", "safer")
            )
        },
    ),
    verified=frozenset({"id", "licence"}),
)

PRM800K = CatalogEntry(
    name="prm800k-phase2",
    hub_id="tasksource/PRM800K",
    data_files="phase2_train.jsonl",
    about="Step by step solutions, each step's alternatives labelled right, neutral or wrong.",
    licence="MIT",
    columns={
        "question": "problem, the user's turn",
        "label": "steps, each with completions (text, rating -1, 0 or 1) and the one taken",
    },
    preferences=Form(
        convert=prm800k_pairs,
        rule="at each step a right against a wrong continuation of the same solution so far",
        options={"per_step": Option(default=1, meaning="Most pairs of one step.")},
    ),
    verified=frozenset({"id", "columns", "licence"}),
    defects=("Copy on the hub of the labels in github.com/openai/prm800k.",),
)


def _standard(
    name: str,
    hub_id: str,
    rows: int | None,
    source: str,
    *,
    checked: tuple[Checked, ...] = ("id", "rows"),
    scored: bool = True,
) -> CatalogEntry:
    """RLHFlow's ready-made form: two whole conversations."""
    return CatalogEntry(
        name=name,
        hub_id=hub_id,
        about=f"Ready-made pairs of {source}.",
        licence=f"{NOT_STATED}; that of {source}",
        rows=rows,
        columns={"chosen": "messages", "rejected": "messages"},
        preferences=Form(
            convert=ordered_pair(scores=("chosen_score", "rejected_score") if scored else None),
            rule="as its authors ordered them; equal scores, where given, are a tie",
        ),
        verified=frozenset(checked),
    )


STANDARD = (
    _standard(
        "pair-data-v2",
        "RLHFlow/pair_data_v2_80K_wsafety",
        None,
        "a mixture, the published scripts' default for stage 2",
        checked=("id", "columns"),
        scored=False,
    ),
    _standard(
        "preference-700k",
        "hendrydong/preference_700K",
        700_000,
        "a mixture of eight sets",
        checked=("id", "columns", "splits", "rows"),
    ),
    _standard(
        "ultrafeedback-standard",
        "RLHFlow/UltraFeedback-preference-standard",
        340_025,
        "UltraFeedback, the paper's reference set for debiasing",
        checked=("id", "columns"),
    ),
    _standard(
        "helpsteer-standard",
        "RLHFlow/Helpsteer-preference-standard",
        37_131,
        "HelpSteer",
        checked=("id", "columns", "rows"),
    ),
    _standard("hh-rlhf-helpful-standard", "RLHFlow/HH-RLHF-Helpful-standard", 115_000, "HH-RLHF"),
    _standard(
        "hh-rlhf-harmless-standard",
        "RLHFlow/HH-RLHF-Harmless-and-RedTeam-standard",
        42_300,
        "HH-RLHF",
    ),
    _standard("shp-standard", "RLHFlow/SHP-standard", 93_300, "SHP"),
    _standard(
        "pku-saferlhf-30k-standard", "RLHFlow/PKU-SafeRLHF-30K-standard", 26_900, "PKU-SafeRLHF-30K"
    ),
    _standard(
        "argilla-capybara-standard",
        "RLHFlow/Capybara-distibalel-Filter-standard",
        14_811,
        "Capybara-Preferences-Filtered",
        checked=("id", "columns", "splits", "rows"),
    ),
    _standard(
        "argilla-math-standard",
        "RLHFlow/Argilla-Math-DPO-standard",
        2_420,
        "distilabel-math-preference-dpo",
    ),
    _standard(
        "argilla-orca-standard",
        "RLHFlow/Orca-distibalel-standard",
        6_930,
        "distilabel-intel-orca-dpo-pairs",
    ),
    _standard(
        "code-ultrafeedback-standard",
        "RLHFlow/CodeUltraFeedback-standard",
        50_156,
        "CodeUltraFeedback",
    ),
    _standard(
        "preference-collection-standard",
        "RLHFlow/Prometheus2-preference-standard",
        200_000,
        "Preference-Collection",
    ),
    _standard("prm-phase2-standard", "RLHFlow/PRM-Phase2-standard", 80_000, "PRM800K", checked=()),
)

BENCHMARK_COLUMNS = {
    "prompt": "text, or messages",
    "chosen": "the right response",
    "rejected": "the wrong one",
}


def _reward_bench(
    name: str, split: str, rows: int, about: str, checked: tuple[Checked, ...]
) -> CatalogEntry:
    return CatalogEntry(
        name=name,
        hub_id="allenai/reward-bench",
        splits=(split,),
        about=about,
        licence="ODC-BY",
        rows=rows,
        columns={
            **BENCHMARK_COLUMNS,
            "subset": "the subset its accuracy counts for",
            "id": "its number",
        },
        preferences=Form(convert=benchmark_pair, rule="as given"),
        benchmark=True,
        verified=frozenset(checked),
    )


BENCHMARKS = (
    _reward_bench(
        "reward-bench",
        "filtered",
        2_985,
        "RewardBench, the set that scores are reported on.",
        ("id", "columns", "splits", "rows"),
    ),
    _reward_bench(
        "reward-bench-raw",
        "raw",
        5_123,
        "RewardBench before manual filtering.",
        ("id", "columns", "splits"),
    ),
    CatalogEntry(
        name="preference-test-sets",
        hub_id="allenai/preference-test-sets",
        about="Test splits of older preference sets; the prior sets of RewardBench's score.",
        licence="ODC-BY",
        splits=("anthropic_helpful", "anthropic_hhh", "shp", "summarize"),
        other_splits=(
            "anthropic_harmless",
            "mtbench_gpt4",
            "mtbench_human",
            "pku_better",
            "pku_safer",
        ),
        columns=BENCHMARK_COLUMNS,
        preferences=Form(convert=benchmark_pair, rule="as given"),
        benchmark=True,
        verified=frozenset({"id", "columns", "licence"}),
    ),
    CatalogEntry(
        name="reward-bench-2",
        hub_id="allenai/reward-bench-2",
        splits=("test",),
        about="One right response among four, and questions with many right answers.",
        licence="ODC-BY",
        columns={
            "prompt": "the user's turn",
            "chosen": "list of right responses",
            "rejected": "list of wrong responses",
            "subset": "Factuality, Precise IF, Math, Safety, Focus or Ties",
            "id": "its number",
        },
        preferences=Form(
            convert=reward_bench_2,
            rule="every right response against every wrong one; its own score is best of four",
        ),
        benchmark=True,
        verified=frozenset({"id", "columns", "splits", "licence"}),
    ),
)

ENTRIES: tuple[CatalogEntry, ...] = (
    QUICKSTART,
    MERGED,
    HELPSTEER,
    HELPSTEER2,
    ULTRAFEEDBACK,
    BEAVERTAILS,
    CODE_ULTRAFEEDBACK,
    FEEDBACK_COLLECTION,
    CAPYBARA,
    ORCA,
    MATH,
    HELPSTEER2_PREFERENCE,
    HELPSTEER3,
    ULTRAFEEDBACK_CLEANED,
    SHP,
    *HH_RLHF,
    PKU_SAFERLHF,
    PRM800K,
    PREFERENCE_COLLECTION,
    *STANDARD,
    *BENCHMARKS,
)
"""All datasets, in the order of ``armorm data list``."""
