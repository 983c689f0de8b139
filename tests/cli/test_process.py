"""The process of a command: signals, pipes, errors, and text that cannot control a terminal."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from armorm import RewardModel
from armorm.cli.terminal import clean
from tests.commands import all_commands, armorm, heed_interrupts, invoke, write
from tests.tiny_models import make_heads

# Says when signals are handled: before that only Python itself is running.
ANNOUNCED = """
import os, sys
from armorm.cli import process
watch = process.signals.watch
def announce(*arguments):
    watch(*arguments)
    os.write(1, b"up\\n")
process.signals.watch = announce
process.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def model_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("process") / "model"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", ANNOUNCED, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_prints_one_line(model_folder, tmp_path, number):
    rows = [{"prompt": f"hello {i}", "response": "ok"} for i in range(20_000)]
    source = write(tmp_path / "in.jsonl", rows)
    generator = random.Random(int(number))
    word = "interrupted" if number == signal.SIGINT else "terminated"
    for i, latest in enumerate([0.0, 0.05, 0.2, 0.5, 1.0, 2.0, 4.0]):
        process = start("score", model_folder, source, "-o", tmp_path / f"{i}.jsonl")
        time.sleep(generator.uniform(latest / 2, latest))
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
        assert process.returncode == 128 + number, printed
        assert printed.splitlines()[-1].startswith(word), printed
        assert "Traceback" not in printed


def test_a_signal_where_python_drops_exceptions_is_not_lost():
    script = (
        "import os, signal, time\n"
        "from armorm.cli import process\n"
        "class Closing:\n"
        "    def __del__(self): os.kill(os.getpid(), signal.SIGINT); time.sleep(0.01)\n"
        "class App:\n"
        "    def __call__(self, *_, **__): Closing(); time.sleep(30)\n"
        "import armorm.cli.application\n"
        "armorm.cli.application.app = App()\n"
        "process.main([])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
        preexec_fn=heed_interrupts,
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_only_a_resumable_command_is_said_to_resume(model_folder):
    with start("explain", model_folder, "--prompt", "a", "--response", "b") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted\n"


def test_a_reader_that_leaves_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-c", "from armorm.cli import main; main()", "data", "list", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 128 + signal.SIGPIPE


def test_standard_output_that_takes_no_more_is_an_error():
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", "from armorm.cli import main; main()", "data", "list", "--json"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert re.fullmatch("error: standard output.* cannot be .*written: No space.*\n", done.stderr)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_the_caller_closed_are_no_error(closed):
    command = f"{sys.executable} -m armorm data list {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


UNEXPECTED = """
from armorm.cli import application, main
@application.app.command()
def fail():
    raise ZeroDivisionError("of mine \\x1b[31m")
main(["fail"])
"""


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_one_line_and_its_traceback_is_kept(debug):
    done = subprocess.run(
        [sys.executable, "-c", UNEXPECTED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ARMORM_DEBUG": "1" if debug else ""},
    )
    assert done.returncode == 1
    assert r"error: ZeroDivisionError: of mine \x1b[31m" in done.stderr
    kept = re.search(r"traceback in (\S+)", done.stderr)
    assert kept is not None
    file = Path(kept[1])
    assert "in fail" in file.read_text(encoding="utf-8")
    file.unlink()
    assert ("Traceback" in done.stderr) == debug


def test_control_characters_and_hidden_ones_become_escapes():
    assert clean("a\tb\nc é 日本 👩‍💻") == "a\tb\nc é 日本 👩‍💻"
    assert clean("\x1b[2J\x07\x9b\x7f\u202e\u200b\ud800\r") == (
        r"\x1b[2J\x07\x9b\x7f\u202e\u200b\ud800\r"
    )


ESCAPES = "\x1b]0;owned\x07\x1b[31m \x9b2J \u202e"


def assert_harmless(done: subprocess.CompletedProcess[str]) -> None:
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", done.stdout + done.stderr)


def test_data_does_not_control_the_terminal(model_folder, tmp_path):
    rows = [{"prompt": "hello", "chosen": "ok", "rejected": "no", "subset": f"s{ESCAPES}"}]
    pairs = write(tmp_path / "pairs.jsonl", rows)
    done = armorm("benchmark", model_folder, pairs)
    assert r"\x1b]0;owned" in done.stdout
    assert_harmless(done)
    assert_harmless(armorm("benchmark", model_folder, pairs, "--json"))
    assert_harmless(armorm("data", "check", pairs))
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "hello", "chosen": ESCAPES}])
    assert_harmless(armorm("data", "check", bad))
    failed = armorm("benchmark", model_folder, bad)
    assert failed.returncode == 3
    assert_harmless(failed)


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", f"no{ESCAPES}", "in.jsonl", "-o", "out.jsonl"),
        ("score", "no", f"in{ESCAPES}.jsonl", "-o", "out.jsonl"),
        ("train", f"{ESCAPES}.yaml", "-o", "run"),
        ("data", "show", f"x{ESCAPES}"),
        ("train", "recipes/quickstart.yaml", "-o", "run", "--set", f"{ESCAPES}=1"),
    ],
)
def test_names_in_errors_do_not_control_the_terminal(arguments):
    done = armorm(*arguments)
    assert done.returncode in (1, 2)
    assert "error: " in done.stderr
    assert_harmless(done)


@pytest.mark.parametrize(
    "arguments",
    [
        ("score", "", "in.jsonl", "-o", "out.jsonl"),
        ("score", "model", "", "-o", "out.jsonl"),
        ("score", "model", "in.jsonl", "-o", ""),
        ("train", "recipes/quickstart.yaml", "-o", " "),
        ("export", "model", "-o", "out", "--push-to-hub", ""),
        ("data", "check", ""),
        ("data", "show", ""),
        ("benchmark", "model", ""),
        ("head", "errors", ""),
    ],
)
def test_an_empty_name_is_wrong_usage(arguments):
    done = armorm(*arguments)
    assert done.returncode == 2
    assert "empty name" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("scor",), "score"),
        (("score", "m", "i", "--ouput", "x"), "--output"),
        (("data", "prepar"), "prepare"),
    ],
)
def test_a_misspelt_command_or_option_is_answered_with_the_nearest(arguments, suggestion):
    done = armorm(*arguments)
    assert done.returncode == 2
    assert re.search("Did you mean|Possible options", done.stderr)
    assert suggestion in done.stderr


@pytest.mark.parametrize("items", [("a=1", "a=2"), ("a",), ("=1",), ("a={",)])
def test_an_engine_option_is_given_once_and_with_a_value(model_folder, tmp_path, items):
    source = write(tmp_path / "in.jsonl", [])
    flags = [word for item in items for word in ("--engine-option", item)]
    done = armorm("score", model_folder, source, "-o", tmp_path / "out.jsonl", *flags)
    assert done.returncode == 2
    assert "error: --engine-option" in done.stderr


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_each_command_has_an_example_in_its_help(command):
    text = " ".join(invoke(*command, "--help").split())
    assert f"Example: armorm {' '.join(command)}" in text


def test_the_help_lists_commands_by_their_purpose():
    text = invoke("--help")
    for panel in (
        *("Train", "Judge", "Training data for policies"),
        *("Data and heads", "Hand over", "Files and formats"),
    ):
        assert re.search(rf"─ {panel} ─", text)
    assert "─ Commands ─" not in text
