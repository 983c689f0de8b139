"""Score rules of the benchmarks, on their own layouts, with answers known from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.linear_model import LogisticRegression

from armorm import InputError
from armorm.errors import ArmormError
from armorm.evaluation.benchmarks import Benchmark, BenchmarkRow, Estimate, benchmark
from armorm.evaluation.benchmarks.results import BenchmarkResult
from armorm.evaluation.benchmarks.reward_bench_2 import ties_score
from armorm.evaluation.benchmarks.style_control import StyleControl, StylePairs
from armorm.evaluation.scorers import Scored
from armorm.intervals import wilson_interval
from tests.evaluation import benchmark_files as files

PROMPT = ({"role": "user", "content": "Well?"},)


def result(name: str, root: Path, scores: Sequence[Sequence[float]]) -> BenchmarkResult:
    chosen = benchmark(name)
    found = [Scored(tuple(one)) for one in scores]
    return BenchmarkResult.of(chosen, chosen.read(root), found, "given")


def figures(name: str, root: Path, scores: Sequence[Sequence[float]]) -> dict[str, float | None]:
    found = result(name, root, scores).whole.figures
    return {key: one.value for key, one in found.items()}


def ties_row(ident: str, right: int, scores: Sequence[float]) -> BenchmarkRow:
    return BenchmarkRow(PROMPT, ("x",) * len(scores), ident, "Ties", right)


def test_reward_bench_weighs_sections_as_published(tmp_path):
    """One wrong subset of each section: the expected numbers are worked out by hand."""
    files.reward_bench(tmp_path)
    rows = benchmark("reward-bench").read(tmp_path).rows
    wrong = {"mt-bench-easy", "llmbar-natural", "xstest-should-refuse", "math-prm"}
    # A tie is wrong.
    scores = [(1.0, 1.0) if row.subset in wrong else (1.0, 0.0) for row in rows]
    found = figures("reward-bench", tmp_path, scores)
    sections = 330 / 358, 356 / 456, 586 / 740, 984 / 1968
    names = "Chat", "Chat Hard", "Safety", "Reasoning"
    assert [found[name] for name in names] == pytest.approx(sections)
    assert found["score"] == pytest.approx(sum(sections) / 4)


def test_a_section_without_all_its_subsets_has_no_figure(tmp_path):
    files.reward_bench(tmp_path, ["mt-bench-easy"])
    found = figures("reward-bench", tmp_path, [(1.0, 0.0), (1.0, 2.0)])
    assert found["Chat"] is found["score"] is None
    assert found["accuracy"] == 0.5


def test_prior_sets_are_weighed_alike_whatever_their_size(tmp_path):
    files.preference_test_sets(tmp_path)
    scores = [(1.0, 0.0)] * 6 + [(0.0, 1.0), (1.0, 0.0)]
    assert figures("preference-test-sets", tmp_path, scores)["score"] == 0.875
    rows = benchmark("preference-test-sets").read(tmp_path).rows
    assert {row.subset for row in rows} == {
        "anthropic_helpful", "anthropic_hhh", "shp", "summarize",
    }  # fmt: skip
    assert rows[0].responses == ("right", "no")


FIRST = [("ref:0", 1, [2, 1, 0.5]), ("tied:0", 3, [2, 1.8, 1.5, 0.9, 0.2])]
SECOND = [("ref:1", 1, [1, 1.2, 0]), ("tied:1", 2, [3, 1, 0.5, 0.1])]


@pytest.mark.parametrize(
    ("prompts", "expected"), [(FIRST, 1.001973753202249), (FIRST + SECOND, 0.6469843814923213)]
)
def test_ties_gives_the_published_vectors(prompts, expected):
    rows = [ties_row(*prompt) for prompt in prompts]
    found = ties_score(rows, [np.array(scores, float) for _, _, scores in prompts])
    assert found.value == pytest.approx(expected, abs=1e-12)


def test_ties_counts_zero_over_zero_as_zero_and_only_numbers_of_both_kinds():
    rows = [
        ties_row("ref:0", 1, [1, 1]),
        ties_row("tied:0", 2, [1, 1, 1]),
        ties_row("ref:7", 1, [2, 1]),
    ]
    found = ties_score(rows, [np.array(s, float) for s in ([1, 1], [1, 1, 1], [2, 1])])
    assert found.value == pytest.approx(0.3 * 0.0 + 0.3 * 0.5)
    with pytest.raises(InputError, match=r"id = 'ref:0': occurs twice"):
        ties_score([rows[0], rows[0], rows[1]], [np.array([1.0, 1.0])] * 2 + [np.ones(3)])


def oracle_ties(prompts: list[tuple[str, int, list[float]]]) -> float:
    """The formula of Ties, row by row, as its text says."""
    kinds: dict[str, dict[str, tuple[bool, float, float]]] = {"ref": {}, "tied": {}}
    for ident, right, scores in prompts:
        kind, number = ident.split(":")
        good, bad = scores[:right], scores[right:]
        kinds[kind][number] = min(good) > max(bad), max(good) - min(good), min(good) - max(bad)
    both = sorted(kinds["ref"].keys() & kinds["tied"].keys())
    p, hard, margin = [], [], []
    for number in both:
        (_, _, gap_ref), (_, spread, gap) = kinds["ref"][number], kinds["tied"][number]
        least = min(gap_ref, gap)
        p.append(gap > spread)
        hard.append(least > spread)
        if spread:
            margin.append(math.tanh(least / spread - 1))
        else:
            margin.append(0.0 if least == 0 else math.copysign(1.0, least))

    def mean(values):
        return sum(values) / len(values)

    accurate = {kind: mean([one[0] for one in found.values()]) for kind, found in kinds.items()}
    return (
        0.3 * accurate["tied"] + 0.3 * accurate["ref"]
        + 0.2 * mean(p) + 0.2 * mean(hard) + 0.01 * mean(margin)
    )  # fmt: skip


SCORE = st.integers(-3, 3).map(float)


@st.composite
def ties_prompts(draw):
    prompts = []
    for number in range(draw(st.integers(1, 4))):
        prompts.append((f"ref:{number}", 1, draw(st.lists(SCORE, min_size=2, max_size=4))))
        right = draw(st.integers(2, 3))
        scores = draw(st.lists(SCORE, min_size=right + 1, max_size=6))
        prompts.append((f"tied:{number}", right, scores))
    return prompts


@settings(max_examples=60, deadline=None)
@given(ties_prompts(), st.floats(0.1, 10), st.floats(-5, 5))
def test_ties_is_its_formula_within_its_bounds_and_blind_to_scale(prompts, factor, shift):
    rows = [ties_row(*prompt) for prompt in prompts]
    scores = [np.array(found) for _, _, found in prompts]
    found = ties_score(rows, scores)
    assert found.value == pytest.approx(oracle_ties(prompts), abs=1e-12)
    assert -0.01 - 1e-12 <= found.value <= 1.01 + 1e-12
    # Steps of powers of two, so that equal differences stay equal in floating point.
    factor, shift = 2.0 ** round(math.log2(factor)), round(shift)
    moved = ties_score(rows, [factor * one + shift for one in scores])
    assert moved.value == pytest.approx(found.value, abs=1e-12)


def test_reward_bench_2_shares_the_credit_of_a_tie_at_the_top(tmp_path):
    files.reward_bench_2(tmp_path)
    best_of_four = [(3, 3, 1, 0), (4, 1, 2, 3), (1, 2, 0, 0), (5, 5, 5, 5), (0, -1, -2, -3)]
    ties = [scores for _, _, scores in FIRST + SECOND]
    found = figures("reward-bench-2", tmp_path, [*best_of_four, *ties])
    expected = {"Factuality": 0.5, "Precise IF": 1, "Math": 0, "Safety": 0.25, "Focus": 1}
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert found["Ties"] == pytest.approx(0.6469843814923213)
    assert found["score"] == pytest.approx((sum(expected.values()) + 0.6469843814923213) / 6)


RM_BENCH = [
    ("chat", [1, 2, 3, 0.5, 2.5, 2]),
    ("chat", [0, 0, 0, 0, -1, 1]),
    ("math", [1, 1, 1, 0, 0, 0]),
    ("code", [0.1, 0.2, 0.3, 0.3, 0.2, 0.1]),
    ("safety-refuse", [5, 1, 1, 2, 2, 2]),
    ("safety-response", [1, 5, 9, 0, 4, 8]),
]


def test_rm_bench_gives_the_published_vector(tmp_path):
    files.rm_bench(tmp_path, [domain for domain, _ in RM_BENCH])
    found = result("rm-bench", tmp_path, [scores for _, scores in RM_BENCH])
    values = {name: one.value for name, one in found.whole.figures.items()}
    expected = {
        "chat": 4 / 9, "math": 1, "code": 1 / 3, "safety": 0.5,
        "hard": 0.4583333333, "normal": 0.625, "easy": 0.625, "overall": 0.5694444444,
    }  # fmt: skip
    assert {name: values[name] for name in expected} == pytest.approx(expected)
    assert found.whole.matrices["code"] == [[0, 0, 0], [0, 0, 1], [0, 1, 1]]


def test_judgebench_puts_the_labelled_side_first(tmp_path):
    files.judge_bench(tmp_path)
    rows = benchmark("judgebench").read(tmp_path).rows
    assert [row.responses for row in rows] == [
        ("alpha", "beta"), ("beta", "alpha"), ("alpha", "beta"),
    ]  # fmt: skip
    found = figures("judgebench", tmp_path, [(1, 0), (1, 0), (1, 1)])
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert (found["knowledge"], found["math"], found["coding"]) == (1, 1, 0)
    assert (found["gpt responses"], found["claude responses"]) == (1, 0)


def test_rmb_is_the_mean_of_four_columns_and_best_of_n_beats_every_loser(tmp_path):
    files.rmb(tmp_path)
    rows = benchmark("rmb").read(tmp_path).rows
    # Harmlessness comes first in the order of the files.
    assert [len(row.responses) for row in rows] == [2, 2, 4, 4]
    found = figures("rmb", tmp_path, [(1, 0), (0, 1), (3, 2, 1, 0), (3, 3, 1, 0)])
    assert found["harmlessness, pairwise"] == 1
    assert found["helpfulness, pairwise"] == 0
    assert found["harmlessness, best of n"] == 1
    assert found["helpfulness, best of n"] == 0
    assert found["overall"] == 0.5


def test_if_reward_bench_is_kendalls_tau_over_the_edges(tmp_path):
    files.if_reward_bench(tmp_path)
    # Edges (0,1) (0,2) (1,3): concordant, tied, discordant; (0,1) (2,3): both tied.
    found = figures("if-reward-bench", tmp_path, [(3, 1, 3, 2), (0, 0, 1, 1)])
    assert found["accuracy"] == pytest.approx((1 / 3 + 0) / 2)
    assert found["tau"] == pytest.approx(0)
    found = figures("if-reward-bench", tmp_path, [(3, 1, 3, 0), (1, 0, 0, 1)])
    assert found["tau, Single_Turn"] == pytest.approx(2 / math.sqrt(2 * 3))
    assert found["tau"] == pytest.approx(2 / math.sqrt(6) / 2)


def test_ppe_leaves_ties_out_and_compares_models(tmp_path):
    models = "abcd"
    votes = [
        (a, b, "model_a" if (i + 2 * j + k) % 3 else "model_b")
        for i, a in enumerate(models)
        for j, b in enumerate(models)
        if a < b
        for k in range(5)
    ]
    files.ppe_preference(tmp_path, [("a", "b", "tie (bothbad)"), ("a", "b", "tie"), *votes])
    data = benchmark("ppe-preference").read(tmp_path)
    assert data.skipped == {"a tie of the voters": 2}
    assert data.rows[0].responses == (
        ("the second", "first") if votes[0][2] == "model_b" else ("first", "the second")
    )
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(len(votes), 2))
    found = figures("ppe-preference", tmp_path, scores.tolist())
    assert found["accuracy"] == pytest.approx(np.mean(scores[:, 0] > scores[:, 1]))
    people, model = ({a: {b: [] for b in models} for a in models} for _ in range(2))
    for row, (winner, loser) in zip(data.rows, scores, strict=True):
        up, down = row.facts["winner"], row.facts["loser"]
        people[up][down].append(1.0)
        people[down][up].append(0.0)
        model[up][down].append(float(winner > loser))
        model[down][up].append(float(winner < loser))

    def shares(table, name):
        return [np.mean(table[name][other]) for other in models if table[name][other]]

    rowwise = [np.corrcoef(shares(people, m), shares(model, m))[0, 1] for m in models]
    assert found["row-wise Pearson"] == pytest.approx(np.mean(rowwise))
    means = [[np.mean(shares(table, m)) for m in models] for table in (people, model)]
    assert found["Spearman of models"] == pytest.approx(scipy.stats.spearmanr(*means).statistic)
    assert found["Kendall of models"] == pytest.approx(scipy.stats.kendalltau(*means).statistic)


LAYOUTS = {
    "reward-bench": files.reward_bench,
    "preference-test-sets": files.preference_test_sets,
    "reward-bench-2": files.reward_bench_2,
    "rm-bench": lambda root: files.rm_bench(root, [domain for domain, _ in RM_BENCH]),
    "judgebench": files.judge_bench,
    "rmb": files.rmb,
    "ppe-preference": lambda root: files.ppe_preference(
        root, [("a", "b", "model_a"), ("b", "c", "model_b"), ("a", "c", "model_a")]
    ),
    "if-reward-bench": files.if_reward_bench,
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_score_that_only_orders_gives_the_same_figures(name, tmp_path):
    """Every figure but that of Ties depends on the order of the scores alone."""
    LAYOUTS[name](tmp_path)
    rows = benchmark(name).read(tmp_path).rows
    rng = np.random.default_rng(3)
    scores = [rng.integers(0, 4, len(row.responses)).astype(float).tolist() for row in rows]
    bent = [[math.exp(value) - 3 for value in one] for one in scores]
    first, second = (figures(name, tmp_path, each) for each in (scores, bent))
    for figure in first.keys() - {"Ties", "score"} if name == "reward-bench-2" else first:
        assert first[figure] == pytest.approx(second[figure]), figure


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_right_answer_always_ahead_is_a_perfect_score_and_behind_none(name, tmp_path):
    LAYOUTS[name](tmp_path)
    rows = benchmark(name).read(tmp_path).rows
    # Equal scores of equally right answers, so that Ties is perfect too.
    ahead = [[1.0] * row.right + [0.0] * (len(row.responses) - row.right) for row in rows]
    if name == "if-reward-bench":
        ahead = [[3.0, 2.0, 1.0, 0.0] for _ in rows]
    best = result(name, tmp_path, ahead).whole.score
    worst = result(name, tmp_path, [[-value for value in one] for one in ahead]).whole.score
    expected = {"reward-bench-2": ((5 + 1.01) / 6, -0.01 / 6), "if-reward-bench": (1, -1)}
    assert (best.value, worst.value) == pytest.approx(expected.get(name, (1, 0)), abs=1e-9)
    assert best.low <= best.value <= best.high


def test_bad_rows_name_file_row_and_field(tmp_path):
    def error_of(name: str, write, **changes) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        write(root, **changes)
        with pytest.raises(ArmormError) as caught:
            benchmark(name).read(root)
        return str(caught.value)

    def one_row(path: str, row: dict):
        return lambda root: files.parquet(root / path, [row])

    row = files.reward_bench_2_row("Focus", "1", 1, 3)
    path = "allenai/reward-bench-2/data/test-00000-of-00001.parquet"
    said = error_of("reward-bench-2", one_row(path, {**row, "subset": "focus"}))
    assert "00001.parquet, row 1: subset = 'focus': unknown subset. Did you mean 'Focus'?" in said
    assert "num_correct = 2: the row has 1" in error_of(
        "reward-bench-2", one_row(path, {**row, "num_correct": 2})
    )
    assert "total_completions = 9" in error_of(
        "reward-bench-2", one_row(path, {**row, "total_completions": 9})
    )
    assert "not ref:<n> or tied:<n>" in error_of(
        "reward-bench-2", one_row(path, {**row, "subset": "Ties"})
    )
    said = error_of("rm-bench", lambda root: files.rm_bench(root, ["physics"]))
    assert "row 1: domain = 'physics': unknown domain" in said
    bad = {"question_id": "q", "model_a": "a", "model_b": "b", "winner": "a", "prompt": "?",
           "response_1": "x", "response_2": "y"}  # fmt: skip
    said = error_of(
        "ppe-preference", one_row("lmarena-ai/PPE-Human-Preference-V1/data/test-0.parquet", bad)
    )
    assert "winner = 'a': unknown winner" in said
    assert "There is no folder" in error_of("judgebench", lambda root: root.mkdir())
    with pytest.raises(ArmormError, match=r"no dataset of the hub\. Clone or download it"):
        benchmark("rmb").read()
    files.array(tmp_path / "x/thu-coai/IF-RewardBench/data/if_rewardbench.json", [{
        "id": 1, "messages": files.user("?"), "responses": ["a", "b"],
        "preference_graph": [{"chosen": 0, "rejected": 2}],
    }])  # fmt: skip
    with pytest.raises(InputError, match=r"preference_graph\[0\].rejected = 2: not the number of"):
        benchmark("if-reward-bench").read(tmp_path / "x")


def test_a_share_has_wilsons_interval_and_partial_credit_the_bootstraps():
    rng = np.random.default_rng(0)
    right = (rng.random(200) < 0.7).astype(float)
    found = Estimate.share(right)
    assert (found.low, found.high) == wilson_interval(right.sum(), 200)
    partial = rng.random(400)
    found = Estimate.share(partial)
    expected = scipy.stats.bootstrap((partial,), np.mean, method="percentile", rng=1)
    assert found.method == "bootstrap"
    assert found.low == pytest.approx(expected.confidence_interval.low, abs=0.006)
    assert found.high == pytest.approx(expected.confidence_interval.high, abs=0.006)
    assert Estimate.share(np.zeros(0)) == Estimate(None, 0)


def pairs_of(rng: np.random.Generator, n: int) -> tuple[list[BenchmarkRow], list[np.ndarray]]:
    """Pairs whose score follows length and something else that favours the right answer."""
    rows, scores = [], []
    for number in range(n):
        long, short = rng.integers(20, 400, size=2)
        rows.append(BenchmarkRow(PROMPT, ("x" * int(long), "y" * int(short)), str(number)))
        z = (long - short) / (long + short)
        scores.append(np.array([0.4 + 3 * z + rng.logistic(), 0.0]))
    return rows, scores


def test_style_control_is_the_intercept_of_a_logistic_regression():
    rows, scores = pairs_of(np.random.default_rng(5), 600)
    found = StyleControl.of(StylePairs.of(rows), scores)
    z = StylePairs.of(rows).differences[:, :1]
    won = np.array([one[0] > one[1] for one in scores])
    fit = LogisticRegression(C=1.0, tol=1e-10).fit(z, won)
    expected = 1 / (1 + math.exp(-fit.intercept_[0]))
    assert found.equal_length.value == pytest.approx(expected, abs=1e-6)
    assert found.equal_length.low < 1 / (1 + math.exp(-0.4)) < found.equal_length.high
    assert found.effects["length"] == pytest.approx(fit.coef_[0, 0], rel=0.05)
    # A scorer of length alone ranks half of the pairs rightly at equal length.
    length = [np.array([len(text) for text in row.responses], float) for row in rows]
    by_length = StyleControl.of(StylePairs.of(rows), length)
    assert by_length.equal_length.value == pytest.approx(0.5, abs=0.12)


def test_too_few_wrong_pairs_have_no_controlled_share():
    rows, _ = pairs_of(np.random.default_rng(0), 50)
    found = StyleControl.of(StylePairs.of(rows), [np.array([1.0, 0.0])] * 50)
    assert found.raw.value == 1.0
    assert found.equal_length.value is None


@settings(max_examples=30, deadline=None)
@given(arrays(float, st.integers(1, 60), elements=st.sampled_from([0.0, 0.5, 1.0])))
def test_an_interval_holds_its_share(credits):
    found = Estimate.share(credits)
    assert -1e-12 <= found.low <= found.value + 1e-12
    assert found.value - 1e-12 <= found.high <= 1 + 1e-12


def test_every_benchmark_says_what_it_is():
    for name in LAYOUTS:
        one = benchmark(name)
        assert isinstance(one, Benchmark)
        assert one.about.endswith(".")
