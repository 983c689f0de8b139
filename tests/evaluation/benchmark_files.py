"""Small files in the benchmarks' own layouts, under ``root/<organisation>/<dataset>/``.

Every response is one word, so that a test gives scores by word; the content is our own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from armorm.evaluation.benchmarks.preference_test_sets import PRIOR_SETS
from armorm.evaluation.benchmarks.reward_bench import SECTIONS


def parquet(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file)
    return file


def array(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(list(rows), ensure_ascii=False, indent=1))
    return file


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def reward_bench(root: Path, subsets: Iterable[str] | None = None, copies: int = 2) -> Path:
    names = subsets or [name for counts in SECTIONS.values() for name in counts]
    rows = [
        {
            "prompt": f"Question {number} of {name}?",
            "chosen": f"right {name} {copy}",
            "rejected": f"wrong {name} {copy}",
            "chosen_model": "m",
            "rejected_model": "m",
            "subset": name,
            "id": number * copies + copy,
        }
        for number, name in enumerate(names)
        for copy in range(copies)
    ]
    folder = root / "allenai/reward-bench/data"
    parquet(folder / "raw-00000-of-00001.parquet", [{**rows[0], "subset": "raw only"}])
    return parquet(folder / "filtered-00000-of-00001.parquet", rows)


def preference_test_sets(root: Path, copies: int = 2) -> None:
    for name in PRIOR_SETS:
        rows = [
            {
                "prompt": user(f"Question {copy}?"),
                "chosen": [*user(f"Question {copy}?"), {"role": "assistant", "content": "right"}],
                "rejected": [*user(f"Question {copy}?"), {"role": "assistant", "content": "no"}],
            }
            for copy in range(copies)
        ]
        parquet(root / f"allenai/preference-test-sets/data/{name}-00000-of-00001.parquet", rows)


def reward_bench_2_row(subset: str, ident: str, right: int, wrong: int) -> dict[str, Any]:
    return {
        "id": ident,
        "prompt": f"Question {ident}?",
        "chosen": [f"right {i}" for i in range(right)],
        "rejected": [f"wrong {i}" for i in range(wrong)],
        "num_correct": right,
        "num_rejected": wrong,
        "total_completions": right + wrong,
        "models": ["m"] * (right + wrong),
        "subset": subset,
        "additional_metadata": {"category": None},
    }


def reward_bench_2(root: Path) -> Path:
    rows = [
        reward_bench_2_row(subset, f"{place}", 1, 3)
        for place, subset in enumerate(("Factuality", "Precise IF", "Math", "Safety", "Focus"))
    ]
    rows += [
        reward_bench_2_row("Ties", ident, right, wrong)
        for ident, right, wrong in (
            ("ref:0", 1, 2),
            ("tied:0", 3, 2),
            ("ref:1", 1, 2),
            ("tied:1", 2, 2),
        )
    ]
    return parquet(root / "allenai/reward-bench-2/data/test-00000-of-00001.parquet", rows)


def rm_bench(root: Path, domains: Iterable[str]) -> Path:
    rows = [
        {
            "id": f"{domain}_{place}",
            "prompt": f"Question {place}?",
            "chosen": ["right", "right and long", "right, long and **bold**"],
            "rejected": ["wrong", "wrong and long", "wrong, long and **bold**"],
            "domain": domain,
        }
        for place, domain in enumerate(domains)
    ]
    return array(root / "THU-KEG/RM-Bench/total_dataset.json", rows)


def judge_bench(root: Path) -> None:
    for split, rows in {
        "gpt": [("a", "mmlu-pro-law", "A>B"), ("b", "livebench-math", "B>A")],
        "claude": [("c", "livecodebench", "A>B")],
    }.items():
        records = [
            {
                "pair_id": ident,
                "original_id": "1",
                "source": source,
                "question": f"Question {ident}?",
                "response_model": split,
                "response_A": "alpha",
                "response_B": "beta",
                "label": label,
            }
            for ident, source, label in rows
        ]
        file = root / f"ScalerLab/JudgeBench/data/{split}-00000-of-00001.parquet"
        parquet(file, records)


def rmb(root: Path) -> None:
    folder = root / "Zhou-Zoey/RMB-Reward-Model-Benchmark/RMB_dataset"

    def prompt(ident: str) -> dict[str, Any]:
        turn = {"role": "user", "content": f"Question {ident}?", "language": "English"}
        return {"conversation_input": [turn]}

    def answer(text: str) -> dict[str, Any]:
        return {"llm_name": "m", "answer": text}

    for scenario in ("Helpfulness/Chat/Casual Conversation", "Harmlessness/S1"):
        path = f"Pairwise_set/{scenario}"
        pair = {"chosen": answer("right"), "reject": answer("wrong")}
        ident = scenario[:5]
        row = {"pair_uid": ident, **prompt(ident), **pair, "category_path": path}
        array(folder / f"{path}.json", [row])
        path = f"BoN_set/{scenario}"
        row = {
            "bon_uid": ident,
            **prompt(ident),
            "bon_best": answer("right"),
            "loser_list": [answer("wrong"), answer("worse"), answer("worst")],
            "category_path": path,
        }
        array(folder / f"{path}.json", [row])


def ppe_preference(root: Path, votes: Iterable[tuple[str, str, str]]) -> Path:
    rows = [
        {
            "question_id": f"q{number}",
            "model_a": a,
            "model_b": b,
            "winner": winner,
            "language": "English" if number % 2 else "French",
            "prompt": f"Question {number}?",
            "response_1": "first",
            "response_2": "the second",
            "hard_prompt": number == 0,
            "is_code": False,
        }
        for number, (a, b, winner) in enumerate(votes)
    ]
    file = root / "lmarena-ai/PPE-Human-Preference-V1/data/test-00000-of-00001.parquet"
    return parquet(file, rows)


def if_reward_bench(root: Path) -> Path:
    def row(ident: int, kind: str, edges: list[tuple[int, int]]) -> dict[str, Any]:
        return {
            "id": ident,
            "response_generation_model": "m",
            "instruction_type": kind,
            "messages": user(f"Question {ident}?"),
            "checklist": ["Is it short?"],
            "responses": [{"response": f"answer {i}", "judgements": [True]} for i in range(4)],
            "preference_graph": [
                {"chosen": {"response_id": a}, "rejected": {"response_id": b}} for a, b in edges
            ],
        }

    rows = [
        row(1, "Single_Turn", [(0, 1), (0, 2), (1, 3)]),
        row(2, "Multi_Turn", [(0, 1), (2, 3)]),
    ]
    return array(root / "thu-coai/IF-RewardBench/data/if_rewardbench.json", rows)
