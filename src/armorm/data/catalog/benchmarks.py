"""Benchmarks: RewardBench, its second version, and older preference test sets."""

from __future__ import annotations

from armorm.data.catalog.converting import (
    conversation_parts,
    pair_or_tie,
    pair_row,
    text_of,
    text_or_messages,
)
from armorm.data.catalog.entry import CatalogEntry, Checked, Converted, Form, Reading, Record, Row
from armorm.errors import InputError


def benchmark_pair(record: Record, _: Reading) -> Converted:
    """Yield a pair: two responses as text after a ``prompt``, or two whole conversations."""
    if isinstance(record.get("chosen"), list):
        # As RewardBench does: the conversation is the prompt, whatever the column `prompt` says.
        prompt, chosen = conversation_parts(record, "chosen")
        rejected = conversation_parts(record, "rejected")[1]
    else:
        prompt = text_or_messages("prompt")(record)
        chosen, rejected = text_of(record, "chosen"), text_of(record, "rejected")
    yield _identified(record, pair_row(prompt, chosen, rejected, record.get("subset")))


def reward_bench_2(record: Record, _: Reading) -> Converted:
    """Yield every right response against every wrong one."""
    prompt = text_or_messages("prompt")(record)
    for i, chosen in enumerate(record.get("chosen") or []):
        for j, rejected in enumerate(record.get("rejected") or []):
            for row in pair_or_tie(prompt, chosen, rejected, record.get("subset")):
                yield row if isinstance(row, InputError) else _identified(record, row, f":{i}-{j}")


def _identified(record: Record, row: Row, suffix: str = "") -> Row:
    ident = record.get("id")
    return row if ident is None else {**row, "id": f"{ident}{suffix}"}


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


ENTRIES = (
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
