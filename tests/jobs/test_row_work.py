"""Files of rows: nothing lost, nothing mixed, nothing silent, whatever happens to a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from armorm import RewardModel
from armorm.errors import ArmormError, InputError, OutputError, RecipeError
from armorm.evaluation import scoring
from armorm.evaluation.scoring import score_file
from armorm.files import exclusive
from armorm.integrations import annotate_file, best_of_file, write_pairs
from armorm.jobs.parts import PartsFolder
from armorm.progress import ProgressLines

ROWS: list[dict[str, Any]] = [
    {"prompt": "hello", "response": f"{'very ' * (i % 7)}ok", "n": i} for i in range(40)
]


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def stop_after(monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """Interrupt the next run after some parts."""
    whole, made = PartsFolder.write, []

    def part(folder: PartsFolder, *arguments: Any) -> Any:
        if len(made) == parts:
            raise KeyboardInterrupt
        made.append(arguments)
        return whole(folder, *arguments)

    monkeypatch.setattr(PartsFolder, "write", part)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("left", ["finished", "joined", "damaged", "recordless", "empty"])
def test_a_run_killed_at_any_instant_is_completed(model, tmp_path, monkeypatch, left):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    score_file(model, source, tmp_path / "alone.jsonl", rows_at_once=8)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, output, rows_at_once=8)
    parts = tmp_path / "out.jsonl.parts"
    if left == "finished":  # killed while the parts of a complete output were removed
        output.write_bytes((tmp_path / "alone.jsonl").read_bytes())
        parts.rename(tmp_path / ".out.jsonl.parts.finished")
    elif left == "joined":
        output.write_bytes(b"\0" * 5000)
    elif left == "damaged":
        (parts / "part-000001.jsonl").write_bytes(b"\0" * 5000)
    elif left == "recordless":
        (parts / "part-000002.json").unlink()
    else:
        (parts / "part-000002.jsonl").write_bytes(b"")
    score_file(model, source, output, rows_at_once=8)
    assert output.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert names(tmp_path) == {"in.jsonl", "out.jsonl", "alone.jsonl"}


def test_an_output_in_use_is_refused(model, tmp_path):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    holder = (
        "import sys, time; from pathlib import Path; from armorm.files import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'score'):\n    print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(output)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        for run in (score_file, write_pairs):
            with pytest.raises(ArmormError, match=f"in use by process {process.pid}"):
                run(*((model,) if run is score_file else ()), source, output)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    score_file(model, source, output)
    assert len(output.read_text().splitlines()) == len(ROWS)


def test_the_same_input_with_another_content_is_not_continued(model, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    stamp = source.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, output, rows_at_once=8)
    source.write_text(source.read_text().replace("hello", "olleh"))
    os.utime(source, ns=(stamp, stamp))
    with pytest.raises(ArmormError, match="another model, input or command"):
        score_file(model, source, output, rows_at_once=8)
    assert not output.exists()


@pytest.mark.parametrize("alias", ["same", "symlink", "hard link", "invalid"])
def test_an_input_is_never_the_output(model, tmp_path, alias):
    source = write(tmp_path / "in.jsonl", ROWS)
    output = tmp_path / "out.jsonl"
    if alias == "same":
        output = tmp_path / "." / "in.jsonl"
    elif alias == "symlink":
        output.symlink_to(source)
    elif alias == "hard link":
        output.hardlink_to(source)
    else:
        source = source.rename(tmp_path / "out.jsonl.invalid")
    before = source.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        score_file(model, source, output, skip_invalid=True)
    if alias != "invalid":
        with pytest.raises(OutputError, match="is the input"):
            write_pairs(source, output, skip_invalid=True)
    assert source.read_bytes() == before


def test_an_input_that_changes_while_it_is_read_leaves_no_output(model, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    whole = PartsFolder.write

    def part(folder: PartsFolder, number: int, *arguments: Any) -> Any:
        if number == 2:
            source.write_text(source.read_text().replace("hello", "olleh"))
        return whole(folder, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(PartsFolder, "write", part)
        with pytest.raises(ArmormError, match=r"in\.jsonl\) changed while it was read"):
            score_file(model, source, output, rows_at_once=8)
    assert names(tmp_path) == {"in.jsonl"}
    score_file(model, source, output, rows_at_once=8)
    assert all("olleh" in line for line in output.read_text().splitlines())


def test_bad_rows_of_an_interrupted_run_are_not_skipped_unasked(model, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.jsonl", [{"prompt": 3}, *ROWS]), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, output, rows_at_once=8, skip_invalid=True)
    with pytest.raises(InputError, match="row 1"):
        score_file(model, source, output, rows_at_once=8)
    assert score_file(model, source, output, rows_at_once=8, skip_invalid=True).skipped == 1


@pytest.mark.parametrize(
    "damage",
    [{"rows": "8"}, {"rows": -1}, {"written": None}, {"invalid": 3}, {"invalid": "x"}],
)
def test_a_part_whose_record_is_damaged_is_made_again(model, tmp_path, monkeypatch, damage):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, output, rows_at_once=8)
    record = tmp_path / "out.jsonl.parts" / "part-000001.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), **damage}))
    summary = score_file(model, source, output, rows_at_once=8)
    assert (summary.rows, summary.scored, summary.resumed_at) == (len(ROWS), len(ROWS), 8)


def test_a_folder_of_someone_else_with_the_name_of_the_parts_stays(model, tmp_path):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.parts").mkdir()
    thesis = tmp_path / "out.jsonl.parts" / "thesis.tex"
    thesis.write_text("years of work")
    with pytest.raises(OutputError, match=r"holds 'thesis\.tex'.*Choose another output"):
        score_file(model, source, output)
    inside = write(tmp_path / "out.jsonl.parts" / "in.jsonl", ROWS)
    with pytest.raises(OutputError, match="Choose another output"):
        score_file(model, inside, output)
    assert thesis.read_text() == "years of work"


def test_parts_without_a_manifest_are_not_taken_over(model, tmp_path, monkeypatch):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            score_file(model, source, output, rows_at_once=8)
    (tmp_path / "out.jsonl.parts" / "manifest.json").unlink()
    write(source, [{**row, "prompt": "olleh"} for row in ROWS])
    (tmp_path / ".out.jsonl.machine.1.tmp").write_text("of a process killed while it joined")
    assert score_file(model, source, output, rows_at_once=8).resumed_at == 0
    assert all("olleh" in line for line in output.read_text().splitlines())
    assert names(tmp_path) == {"in.jsonl", "out.jsonl"}


@pytest.fixture(scope="module")
def overflowing(model: RewardModel) -> RewardModel:
    """A model whose states overflow where a response holds the word "seven"."""

    class Overflowing:
        def __init__(self) -> None:
            self.encoder, self.identity = model.backbone.encoder, model.backbone.identity
            self.hidden_size, self.quantized = model.backbone.hidden_size, False
            self.dtype, self.folder = "float32", model.backbone.folder
            self.vocabulary_size = model.backbone.vocabulary_size
            self.layer = None
            self._seven = self.encoder.tokenize("seven")[0]

        def close(self) -> None: ...

        def prefix_features(self, prompt: Any, first: int, closing: int) -> Any:
            raise NotImplementedError

        def features(self, prompts: Any, advance: Any = None, read_also: Any = None) -> Any:
            found = model.backbone.features(prompts, advance, read_also)
            bad = [self._seven in ids for prompt in prompts for ids in prompt.sequences]
            responses = found.responses.clone()
            responses[torch.tensor(bad)] = torch.nan
            return replace(found, responses=responses)

    return RewardModel(Overflowing(), model.heads)


def test_a_score_that_is_not_finite_is_a_bad_row(overflowing, tmp_path):
    rows = [{"prompt": "hello", "response": text} for text in ("ok", "seven ok", "very ok")]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=r"in\.jsonl, row 2: score = .*not finite.*float32"):
        score_file(overflowing, source, output)
    assert names(tmp_path) == {"in.jsonl"}
    assert score_file(overflowing, source, output, skip_invalid=True).skipped == 1
    assert [json.loads(line)["response"] for line in output.open()] == ["ok", "very ok"]

    candidates = [{"prompt": "hello", "responses": ["ok", "seven ok"]}]
    source = write(tmp_path / "candidates.jsonl", candidates)
    for run in (annotate_file, best_of_file):
        with pytest.raises(InputError, match=r"row 1: score"):
            run(overflowing, source, tmp_path / "best.jsonl")


def test_a_value_that_json_cannot_hold_is_a_bad_row(model, tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "hello", "response": "ok", "weights": [1, NaN]}\n')
    with pytest.raises(InputError, match=r"row 1: weights\[1\] = nan"):
        score_file(model, source, output)


@pytest.mark.parametrize(
    "place", ["folder", "current", "root", "under a file", "too long", "read-only"]
)
def test_an_output_that_cannot_be_written_is_named(model, tmp_path, place):
    source = write(tmp_path / "in.jsonl", ROWS)
    output = {
        "folder": tmp_path,
        "current": Path(),
        "root": Path("/"),
        "under a file": source / "out.jsonl",
        "too long": tmp_path / ("n" * 300),
        "read-only": Path("/proc/out.jsonl"),
    }[place]
    for run in (score_file, write_pairs):
        with pytest.raises(OutputError, match="cannot be written"):
            run(*((model,) if run is score_file else ()), source, output)
    assert names(tmp_path) == {"in.jsonl"}


def test_a_full_disk_keeps_the_parts_that_are_done(model_folder, tmp_path):
    source, output = write(tmp_path / "in.jsonl", ROWS * 4), tmp_path / "out.jsonl"
    code = (
        "import resource, signal, sys; from armorm.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY)); main()"
    )
    command = ["score", str(model_folder), str(source), "-o", str(output), "--device", "cpu"]
    failed = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False
    )
    assert failed.returncode == 1
    assert "cannot be written" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not output.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, '{"a": 1, "a": 2}', "\xff"])
def test_a_damaged_manifest_is_named(model, tmp_path, content):
    source, output = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl.parts").mkdir()
    (tmp_path / "out.jsonl.parts" / "manifest.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ArmormError, match=r"manifest\.json cannot be read"):
        score_file(model, source, output)


@pytest.mark.parametrize(
    ("rewards", "reason"),
    [
        ([1.0, float("inf")], "not one finite number"),
        ([1e308, -1e308], "too large to be subtracted"),
        ([10**400, 1], "not one finite number"),
        ([True, 1.0], "not one finite number"),
    ],
)
def test_rewards_of_pairs_are_finite(tmp_path, rewards, reason):
    row = {"prompt": "hello", "responses": ["a", "b"], "rewards": rewards}
    source = write(tmp_path / "in.jsonl", [row])
    with pytest.raises(InputError, match=reason):
        write_pairs(source, tmp_path / "out.jsonl")
    assert names(tmp_path) == {"in.jsonl"}
    summary = write_pairs(source, tmp_path / "out.jsonl", skip_invalid=True)
    assert (summary.pairs, sum(summary.skipped.values())) == (0, 1)


def test_half_characters_in_candidates_are_bad_rows(model, tmp_path):
    rows = [
        {"prompt": "hello", "responses": ["ok", "a \ud800"], "rewards": [1, 2]},
        {"prompt": "\udc00", "responses": ["ok", "very ok"], "rewards": [1, 2]},
        {"prompt": "hello", "responses": [], "rewards": []},
        {"prompt": "hello", "responses": ["ok", "very ok"], "rewards": [1, 2], "note": "\ud800"},
    ]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for run in (annotate_file, best_of_file, write_pairs):
        arguments = (source, output) if run is write_pairs else (model, source, output)
        with pytest.raises(InputError, match=r"row 1: responses\[1\] = .*half a character"):
            run(*arguments)
        run(*arguments, skip_invalid=True)
        [line] = output.read_bytes().splitlines()
        line.decode()
        if run is not write_pairs:
            assert json.loads(line)["note"] == "\ud800"
            invalid = (tmp_path / "out.jsonl.invalid").read_text().splitlines()
            assert [json.loads(row)["row"] for row in invalid] == [1, 2, 3]


@pytest.mark.parametrize("option", ["min_margin", "length_penalty"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_options_of_pairs_are_finite_and_not_negative(tmp_path, option, value):
    source = write(tmp_path / "in.jsonl", [])
    with pytest.raises(RecipeError, match=option):
        write_pairs(source, tmp_path / "out.jsonl", **{option: value})


def test_a_missing_input_of_pairs_is_named(tmp_path):
    with pytest.raises(RecipeError, match="no file"):
        write_pairs(tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_rows_that_share_a_prompt_compute_it_once(model, tmp_path, monkeypatch):
    computed: list[int] = []
    forward = type(model.backbone.model).forward

    def count(self: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        computed.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    prompt = "what is the capital of France ? " * 5
    rows = [{"prompt": prompt, "response": text} for text in ("Paris", "Lyon", "ok", "no")]
    source = write(tmp_path / "in.jsonl", rows)
    monkeypatch.setattr(type(model.backbone.model), "forward", count)
    score_file(model, source, tmp_path / "out.jsonl")
    encoder = model.backbone.encoder
    message = {"role": "user", "content": prompt}
    apart = encoder.encode([message], [row["response"] for row in rows])
    assert sum(computed) < 0.5 * apart.tokens


def test_progress_without_a_terminal_is_a_line_every_half_minute(capsys):
    now = [0.0]
    lines = ProgressLines("score", 1000, "rows", clock=lambda: now[0])
    lines.advance(400)  # done by an interrupted run
    for _ in range(30):
        now[0] += 2.0
        lines.advance(10, tokens=500)
    lines.finish()
    written = capsys.readouterr().err.splitlines()
    assert written == [
        "score: 550 of 1,000 rows, 5.0 rows/s, 250 tokens/s, 0:01:30 left",
        "score: 700 of 1,000 rows, 5.0 rows/s, 250 tokens/s, 0:01:00 left",
        "score: 700 of 1,000 rows, 5.0 rows/s, 250 tokens/s, ended after 0:01:00",
    ]


def test_progress_moves_within_a_part_and_counts_tokens(model, tmp_path, monkeypatch):
    moves: list[tuple[float, float]] = []

    @contextmanager
    def record(*arguments: Any) -> Iterator[Any]:
        yield lambda amount, tokens=0.0: moves.append((amount, tokens))

    monkeypatch.setattr(scoring, "progress_bar", record)
    rows = [*ROWS, {"prompt": "hello"}]
    monkeypatch.setattr(model.backbone.runner, "max_tokens", 50)
    score_file(model, write(tmp_path / "in.jsonl", rows), tmp_path / "out", skip_invalid=True)
    assert len(moves) > 1
    assert sum(amount for amount, _ in moves) == pytest.approx(len(rows))
    assert sum(tokens for _, tokens in moves) > 7 * 10  # seven distinct conversations


def test_a_short_run_writes_no_progress(capsys):
    lines = ProgressLines("score", None, "rows", clock=lambda: 0.0)
    lines.advance(5)
    lines.finish()
    assert capsys.readouterr().err == ""


def test_a_lock_is_released_by_its_process(tmp_path):
    for _ in range(2):
        with exclusive(tmp_path / "out", "score"):
            pass
    assert names(tmp_path) == set()
