"""Small files in each dataset's raw layout on the hub; the content is our own.

``write_hub(root)`` lays them out as ``root/<organisation>/<dataset>/…``, names, folders,
compression, column types and README configurations as on the hub, so that the real
``datasets.load_dataset`` reads them.
"""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MESSAGES = pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))


def user(content: str) -> dict[str, str]:
    return {"content": content, "role": "user"}


def assistant(content: str) -> dict[str, str]:
    return {"content": content, "role": "assistant"}


def talk(*turns: str) -> list[dict[str, str]]:
    """Turns of user and assistant by turns."""
    return [(assistant if i % 2 else user)(turn) for i, turn in enumerate(turns)]


HELPSTEER_RATINGS = {
    "helpfulness": 3,
    "correctness": 4,
    "coherence": 4,
    "complexity": 1,
    "verbosity": 2,
}


def helpsteer_rows() -> list[dict[str, Any]]:
    worse = {**HELPSTEER_RATINGS, "helpfulness": 1}
    return [
        {"prompt": "Name a bird.", "response": "A wren.", **HELPSTEER_RATINGS},
        {"prompt": "Name a bird.", "response": "No.", **worse},
        {"prompt": "Name a bird.", "response": "A finch.", **HELPSTEER_RATINGS},
        {"prompt": "Name a tree.", "response": "An oak.", **HELPSTEER_RATINGS},
        {"prompt": "Name a fish.", "response": "", **HELPSTEER_RATINGS},
    ]


MARKED_PROMPT = "Name a bird.\n<extra_id_1>Assistant\nA wren.\n<extra_id_1>User\nAnother one."


def helpsteer2_rows() -> list[dict[str, Any]]:
    worse = {**HELPSTEER_RATINGS, "helpfulness": 0}
    return [
        {"prompt": MARKED_PROMPT, "response": "A finch.", **HELPSTEER_RATINGS},
        {"prompt": MARKED_PROMPT, "response": "A wren.", **worse},
        {
            "prompt": "Hi\n<extra_id_1>User\nHi again",
            "response": "Hello.",
            **HELPSTEER_RATINGS,
        },
    ]


def helpsteer2_preference_rows() -> list[dict[str, Any]]:
    def row(strength: int) -> dict[str, Any]:
        return {
            "split": "train",
            "prompt": MARKED_PROMPT,
            "response_1": "A finch.",
            "response_2": "A wren.",
            "preference_strength": strength,
            "preference_statement": "because",
        }

    return [row(-2), row(3), row(0)]


def helpsteer3_rows() -> list[dict[str, Any]]:
    def row(preference: int, context: list[dict[str, str]]) -> dict[str, Any]:
        return {
            "domain": "general",
            "language": "english",
            "context": context,
            "response1": "one",
            "response2": "two",
            "overall_preference": preference,
        }

    context = talk("Count.", "From where?", "From one.")
    return [row(-3, context), row(1, context), row(0, context), row(2, talk("Count.", "Sure."))]


def ultrafeedback_completion(
    response: str, ratings: tuple[str, str, str, str], overall: float
) -> dict[str, Any]:
    def aspect(rating: str) -> dict[str, Any]:
        return {"Rating": rating, "Rationale": "because"}

    following, truth, honesty, help_ = ratings
    return {
        "annotations": {
            "helpfulness": {**aspect(help_), "Type": ["1"], "Rationale For Rating": "so"},
            "honesty": aspect(honesty),
            "instruction_following": aspect(following),
            "truthfulness": {**aspect(truth), "Type": ["None"], "Rationale For Rating": "so"},
        },
        "critique": "fine",
        "custom_system_prompt": "You are helpful.",
        "fine-grained_score": 4.0,
        "model": "m",
        "overall_score": overall,
        "principle": "helpfulness",
        "response": response,
    }


def ultrafeedback_rows() -> list[dict[str, Any]]:
    completion = ultrafeedback_completion
    return [
        {
            "source": "flan_v2_niv2",
            "instruction": "Say hello.",
            "models": ["a", "b", "c", "d"],
            "completions": [
                completion("Hello.", ("5", "5", "5", "5"), 9.0),
                completion("Hi.", ("4", "N/A", "5", "3"), 7.5),
                completion("Bye.", ("1", "2", "1", "1"), 10.0),
                completion("", ("1", "1", "1", "1"), 1.0),
            ],
            "correct_answers": ["None"],
            "incorrect_answers": ["None"],
        }
    ]


def beavertails_rows() -> list[dict[str, Any]]:
    category = {"animal_abuse": False, "violence,aiding_and_abetting,incitement": True}
    return [
        {"prompt": "How?", "response": "Like so.", "category": category, "is_safe": False},
        {"prompt": "How?", "response": "Please do not.", "category": category, "is_safe": True},
    ]


def code_ultrafeedback_rows() -> list[dict[str, Any]]:
    def rows(preference: str, ratings: list[str]) -> dict[str, Any]:
        models = [f"model-{i}" for i in range(len(ratings))]
        annotations = [
            {"model": model, "rating": rating, "rationale": "because"}
            for model, rating in zip(models, ratings, strict=True)
        ]
        return {
            "instruction": "Write a loop.",
            "preference": preference,
            "models": models,
            "responses": [{"model": model, "response": f"by {model}"} for model in models],
            "annotations": annotations[::-1],  # joined by name, not by position
        }

    return [
        rows("complexity", ["1", "4", "4", "N/A"]),
        rows("instruction-following", ["5", "2", "3", "1"]),
    ]


def feedback_collection_rows() -> list[dict[str, Any]]:
    descriptions = {f"orig_score{n}_description": f"level {n}" for n in range(1, 6)}
    row = {
        "orig_criteria": "Is it kind?",
        **descriptions,
        "orig_instruction": "Greet me.",
        "orig_response": "Hello, friend.",
        "orig_reference_answer": "Hello!",
        "orig_feedback": "good",
        "orig_score": "5",
        "instruction": "###Task",
        "output": "good [RESULT] 5",
        "input": "",
    }
    return [row, {**row, "orig_score": "2", "orig_response": "Hm."}]


def preference_collection_rows() -> list[dict[str, Any]]:
    row = {
        **{k: v for k, v in feedback_collection_rows()[0].items() if "orig_response" not in k},
        "orig_response_A": "Hello.",
        "orig_response_B": "Hm.",
        "orig_score_A": "5",
        "orig_score_B": "2",
        "orig_preference": "A",
    }
    return [row, {**row, "orig_preference": "B"}]


def capybara_rows() -> list[dict[str, Any]]:
    def row(chosen: int, rejected: int, last: str = "Two.") -> dict[str, Any]:
        return {
            "source": "Airoboros",
            "chosen": talk("Count.", "One.", "Go on.", last),
            "chosen_rating": chosen,
            "chosen_model": "a",
            "rejected": talk("Count.", "One.", "Go on.", "No."),
            "rejected_rating": rejected,
            "rejected_model": "b",
        }

    return [row(5, 2), row(4, 4), row(5, 1, "")]


def orca_rows() -> list[dict[str, Any]]:
    def row(**changes: Any) -> dict[str, Any]:
        return {
            "system": "Be brief.",
            "input": "What is 2 + 2?",
            "chosen": "Four.",
            "rejected": "Five.",
            "generations": ["Five.", "Four."],
            "order": ["rejected", "chosen"],
            "labelling_model": "gpt-4",
            "rating": [2.0, 9.0],
            "rationale": "because",
            "status": "unchanged",
            "original_chosen": "Four.",
            "original_rejected": "Five.",
            "chosen_score": 9.0,
            "in_gsm8k_train": False,
            **changes,
        }

    return [
        row(),
        row(system="", status="tie", rating=[5.0, 5.0]),
        row(in_gsm8k_train=True),
        row(rating=None, status="tie"),
    ]


def math_rows() -> list[dict[str, Any]]:
    row = {
        "metadata": "{}",
        "instruction": "Add 2 and 2.",
        "chosen_response": "4",
        "chosen_rating": 5.0,
        "rejected_response": "5",
        "rejected_rating": 2.0,
    }
    return [row, {**row, "rejected_response": "four", "rejected_rating": 5.0}]


def merged_rows() -> list[dict[str, Any]]:
    return [
        {"messages": talk("Hello.", "Hi."), "helpsteer-helpfulness": 0.7},
        {"messages": talk("Hello.", "Hm."), "beavertails-is_safe": 1.0, "code-style": 0.25},
        {"messages": talk("Hello.", "Ah.")},
    ]


def shp_rows() -> list[dict[str, Any]]:
    def row(post: str, label: int, ratio: float, better: str = "Yes.") -> dict[str, Any]:
        return {
            "post_id": post,
            "domain": "askbaking_train",
            "upvote_ratio": 0.9,
            "history": f"Post {post}",
            "human_ref_A": better,
            "human_ref_B": "No.",
            "labels": label,
            "score_A": 10,
            "score_B": 3,
            "score_ratio": ratio,
        }

    return [
        row("a", 1, 4.0),
        row("a", 0, 3.0, "Never."),
        row("a", 1, 1.2, "Maybe."),
        row("b", 1, 2.0),
    ]


def hh_rows() -> list[dict[str, Any]]:
    start = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: How are you?"
    return [
        {"chosen": f"{start}\n\nAssistant: Well.", "rejected": f"{start}\n\nAssistant: Go away."},
        {
            "chosen": "\n\nHuman: Hello\n\nHuman: Again\n\nAssistant: Hi.",
            "rejected": "\n\nHuman: Hello\n\nHuman: Again\n\nAssistant: No.",
        },
        {
            "chosen": "\n\nHuman: Hello\n\nAssistant: Hi.",
            "rejected": "\n\nHuman: Bye\n\nAssistant: Hi.",
        },
        {"chosen": f"{start}\n\nAssistant: ", "rejected": f"{start}\n\nAssistant: Go away."},
        {"chosen": f"{start}\n\nAssistant: So.", "rejected": f"{start}\n\nAssistant: So."},
    ]


def saferlhf_rows() -> list[dict[str, Any]]:
    row = {
        "prompt": "How?",
        "response_0": "Like so.",
        "response_1": "Please do not.",
        "is_response_0_safe": False,
        "is_response_1_safe": True,
        "better_response_id": 0,
        "safer_response_id": 1,
    }
    return [row]


def prm800k_rows() -> list[dict[str, Any]]:
    def completion(text: str, rating: int | None) -> dict[str, Any]:
        return {"text": text, "rating": rating, "flagged": False}

    human = {"text": "So x = 2.", "rating": None, "source": "human", "flagged": False}
    return [
        {
            "labeler": "someone",
            "question": {"problem": "Solve x + 1 = 3.", "ground_truth_answer": "2"},
            "label": {
                "steps": [
                    {
                        "completions": [completion("Subtract 1.", 1)],
                        "human_completion": None,
                        "chosen_completion": 0,
                    },
                    {
                        "completions": [
                            completion("So x = 3.", -1),
                            completion("So x is two.", 1),
                            completion("Hm.", 0),
                        ],
                        "human_completion": human,
                        "chosen_completion": None,
                    },
                ],
                "finish_reason": "solution",
            },
        },
        {
            "labeler": "someone",
            "question": {"problem": "Solve x = 3.", "ground_truth_answer": "3"},
            "label": {
                "steps": [
                    {
                        "completions": [completion("x = 3", 1)],
                        "human_completion": human,
                        "chosen_completion": 0,
                    }
                ],
                "finish_reason": "solution",
            },
        },
    ]


def standard_rows() -> list[dict[str, Any]]:
    def row(chosen: int, rejected: int) -> dict[str, Any]:
        return {
            "chosen": talk("Count.", "One."),
            "rejected": talk("Count.", "No."),
            "rejected_score": rejected,
            "chosen_score": chosen,
        }

    return [row(4, 2), row(3, 3)]


def reward_bench_rows(subset: str = "llmbar-natural") -> list[dict[str, Any]]:
    return [
        {
            "prompt": "Please name three birds that live in the woods near here.",
            "chosen": "A wren, a finch and an owl.",
            "chosen_model": "a",
            "rejected": "Three fish.",
            "rejected_model": "b",
            "subset": subset,
            "id": 7,
        }
    ]


def preference_test_rows() -> list[dict[str, Any]]:
    return [
        {
            "prompt": "Go on.",
            "chosen": talk("Hello.", "Hi.", "Go on.", "Sure."),
            "rejected": talk("Hello.", "Hi.", "Go on.", "No."),
        }
    ]


def reward_bench_2_rows() -> list[dict[str, Any]]:
    return [
        {
            "id": "12",
            "prompt": "Name a colour of the rainbow.",
            "chosen": ["Red.", "Blue."],
            "rejected": ["Brown.", "Pink.", "Red."],
            "num_correct": 2,
            "num_incorrect": 3,
            "total_completions": 5,
            "models": ["a"],
            "subset": "Ties",
        }
    ]


def write_json_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    compress = {".gz": gzip.compress, ".xz": lzma.compress}.get(file.suffix, bytes)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(compress(text))


def write_parquet(file: Path, rows: list[dict[str, Any]], **types: pa.DataType) -> None:
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        column = pa.array([row.get(name) for row in rows], kind)
        position = table.schema.get_field_index(name)
        if position < 0:
            table = table.append_column(name, column)
        else:
            table = table.set_column(position, name, column)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def write_readme(folder: Path, *lines: str) -> None:
    """The configurations that a dataset's card declares."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n".join(["---", *lines, "---", ""]))


PARQUET = "data/train-00000-of-00001.parquet"


def write_hub(root: Path) -> Path:
    """Write every layout under ``root``."""
    from armorm import PAPER_OBJECTIVES
    from armorm.data.catalog import catalog

    write_json_lines(root / "nvidia/HelpSteer/train.jsonl.gz", helpsteer_rows())
    write_json_lines(root / "nvidia/HelpSteer/validation.jsonl.gz", helpsteer_rows()[3:4])
    helpsteer2 = root / "nvidia/HelpSteer2"
    write_json_lines(helpsteer2 / "train.jsonl.gz", helpsteer2_rows())
    write_json_lines(helpsteer2 / "validation.jsonl.gz", helpsteer2_rows()[:1])
    write_json_lines(helpsteer2 / "preference/preference.jsonl.gz", helpsteer2_preference_rows())
    helpsteer3 = root / "nvidia/HelpSteer3"
    write_json_lines(helpsteer3 / "preference/train.jsonl.gz", helpsteer3_rows())
    write_readme(
        helpsteer3,
        "configs:",
        "- config_name: preference",
        "  data_files:",
        "  - split: train",
        "    path: preference/train.jsonl.gz",
    )
    write_json_lines(root / "openbmb/UltraFeedback/flan.jsonl", ultrafeedback_rows())
    beavertails = root / "PKU-Alignment/BeaverTails"
    write_json_lines(beavertails / "round0/30k/train.jsonl.xz", beavertails_rows())
    write_readme(
        beavertails,
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: 30k_train",
        "    path: round0/30k/train.jsonl.xz",
    )
    write_parquet(root / "coseal/CodeUltraFeedback" / PARQUET, code_ultrafeedback_rows())
    prometheus = root / "prometheus-eval"
    write_json_lines(
        prometheus / "Feedback-Collection/new_feedback_collection.jsonl", feedback_collection_rows()
    )
    write_json_lines(
        prometheus / "Preference-Collection/preference_collection.jsonl",
        preference_collection_rows(),
    )
    argilla = root / "argilla"
    write_parquet(argilla / "Capybara-Preferences-Filtered" / PARQUET, capybara_rows())
    write_parquet(argilla / "distilabel-intel-orca-dpo-pairs" / PARQUET, orca_rows())
    write_parquet(argilla / "distilabel-math-preference-dpo" / PARQUET, math_rows())
    write_parquet(
        argilla / "ultrafeedback-binarized-preferences-cleaned" / PARQUET,
        [
            {
                "source": "flan",
                "prompt": "Count.",
                "chosen": talk("Count.", "One."),
                "chosen-rating": 4.5,
                "chosen-model": "a",
                "rejected": talk("Count.", "No."),
                "rejected-rating": 2.0,
                "rejected-model": "b",
            }
        ],
    )
    write_parquet(
        root / "RLHFlow/ArmoRM-Multi-Objective-Data-v0.1" / PARQUET,
        merged_rows(),
        **{name: pa.float64() for name in PAPER_OBJECTIVES.names},
    )
    write_json_lines(root / "stanfordnlp/SHP/askbaking/train.json", shp_rows())
    for part in ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled"):
        write_json_lines(root / "Anthropic/hh-rlhf" / part / "train.jsonl.gz", hh_rows())
    write_json_lines(root / "PKU-Alignment/PKU-SafeRLHF-30K/round0/train.jsonl.xz", saferlhf_rows())
    write_json_lines(root / "tasksource/PRM800K/phase1_train.jsonl", [{"other": 1}])
    write_json_lines(root / "tasksource/PRM800K/phase2_train.jsonl", prm800k_rows())
    for entry in catalog().values():
        if entry.columns == {"chosen": "messages", "rejected": "messages"}:
            write_parquet(
                root / entry.hub_id / PARQUET, standard_rows(), chosen=MESSAGES, rejected=MESSAGES
            )
    bench = root / "allenai/reward-bench/data"
    write_parquet(bench / "filtered-00000-of-00001.parquet", reward_bench_rows())
    write_parquet(bench / "raw-00000-of-00001.parquet", reward_bench_rows("math-prm"))
    tests = root / "allenai/preference-test-sets/data"
    for split in ("anthropic_helpful", "anthropic_hhh", "shp", "summarize"):
        write_parquet(tests / f"{split}-00000-of-00001.parquet", preference_test_rows())
    write_parquet(
        root / "allenai/reward-bench-2/data/test-00000-of-00001.parquet", reward_bench_2_rows()
    )
    return root
