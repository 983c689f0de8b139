"""Pages of scored files: what is read, what is refused, and that no text becomes markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from armorm import RewardModel, SteeringProfile
from armorm.errors import InputError, RecipeError
from armorm.workbench.answers import Answers, Candidates
from armorm.workbench.pages import ASSETS, render_page
from armorm.workbench.reading import read_scored
from tests.commands import armorm, invoke, write
from tests.hostile_texts import HOSTILE
from tests.scored_row import ROW
from tests.tiny_models import make_heads


@pytest.fixture(scope="module")
def model_folder(tiny_backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view") / "model"
    RewardModel(tiny_backbone, make_heads()).save_pretrained(folder)
    return folder


class Elements(HTMLParser):
    """Elements of a page, with their attributes, and the text of the JSON element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple]] = []
        self.payload = ""
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(attrs)))
        self.inside = dict(attrs).get("id", "")

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "payload":
            self.payload += data


def numbers(text: str, k: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, k)


def page_of(tmp_path: Path, rows: list[dict]) -> str:
    return render_page(read_scored(write(tmp_path / "scored.jsonl", rows)), "Title")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_becomes_markup(text, tmp_path):
    tame = Elements(page_of(tmp_path, [ROW]))
    titled = render_page(read_scored(write(tmp_path / "scored.jsonl", [ROW])), text, text)
    assert Elements(titled).found == tame.found
    names = {**ROW, **{part: {text: 0.5} for part in ("rewards", "gating", "coefficients")}}
    if "\ud800" in text:
        with pytest.raises(InputError, match=r"rewards = .*: not the name of an objective"):
            page_of(tmp_path, [names])
    else:
        row = {**ROW, "response": text, "prompt": text, "source": text}
        page = Elements(page_of(tmp_path, [row]))
        assert page.found == tame.found
        shown = json.loads(page.payload)
        assert shown["responses"]["text"] == shown["responses"]["source"] == [text]
        page = Elements(page_of(tmp_path, [names]))
        assert page.found == tame.found
        assert json.loads(page.payload)["objectives"][0]["name"] == text


def test_the_page_loads_nothing_and_runs_only_its_own_script(tmp_path):
    page = page_of(tmp_path, [ROW])
    assert not re.search(r"(src|href|action)=", page)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; ")
    for element, directive in (("script", "script-src"), ("style", "style-src")):
        text = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)[-1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy


def test_the_scripts_write_no_markup():
    for script in ASSETS.glob("*.js"):
        text = script.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text
        )
        assert "</script" not in text


def test_a_scored_file_is_read_as_it_was_written(model_folder, tmp_path):
    rows = [{"prompt": "hello", "response": text} for text in ("ok", "yes", "ok")]
    rows.append({"prompt": "bye", "response": "ok", "source": "other"})
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    invoke("score", model_folder, source, "-o", output)
    scored = read_scored(output, model_folder)
    written = [json.loads(line) for line in output.open()]
    assert scored.owners == (0, 0, 0, 1)
    assert scored.sources == (None, None, None, "other")
    payload = scored.payload("Title")
    assert numbers(payload["responses"]["score"], 1)[:, 0].tolist() == [r["score"] for r in written]
    rewards = [list(row["rewards"].values()) for row in written]
    assert numbers(payload["responses"]["rewards"], 3).tolist() == rewards
    model = RewardModel.from_pretrained(model_folder, device="cpu", dtype="float32")
    assert payload["transform"] == model.heads.transform.tolist()
    assert [one["name"] for one in payload["objectives"]] == list(model.objectives.names)


def test_annotated_files_explanations_and_comparisons_are_read(model_folder, tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "hello", "responses": ["ok", "yes please"]}])
    invoke("annotate", model_folder, source, "-o", tmp_path / "annotated.jsonl")
    row = json.loads((tmp_path / "annotated.jsonl").read_text())
    scored = read_scored(tmp_path / "annotated.jsonl", model_folder)
    assert scored.texts == ("ok", "yes please")
    assert scored.scores.tolist() == row["rewards"]
    texts = ("--prompt", "hello", "--a", "ok", "--b", "yes please")
    (tmp_path / "two.json").write_text(invoke("compare", model_folder, *texts, "--json"))
    compared = read_scored(tmp_path / "two.json", model_folder)
    assert compared.owners == (0, 0)
    assert compared.scores == pytest.approx(scored.scores, abs=1e-6)
    assert compared.rewards == pytest.approx(scored.rewards, abs=1e-6)
    texts = ("--prompt", "hello", "--response", "ok")
    (tmp_path / "one.json").write_text(invoke("explain", model_folder, *texts, "--json"))
    explained = read_scored(tmp_path / "one.json", model_folder)
    assert explained.rewards == pytest.approx(scored.rewards[:1], abs=1e-6)
    assert explained.gating is not None


def without(*names: str) -> dict:
    return {name: value for name, value in ROW.items() if name not in names}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without("score"), "scored.jsonl, row 2: score = None: missing"),
        (without("rewards"), "row 2: rewards = None: missing"),
        (without("coefficients"), "row 2: coefficients = None: missing"),
        (without("prompt", "response"), "row 2: messages = None: missing; the row has score"),
        ({**ROW, "score": "high"}, "row 2: score = 'high': not a finite number"),
        ({**ROW, "score": True}, "row 2: score = True: not a finite number"),
        ({**ROW, "score": float("nan")}, "row 2: score = nan: not a finite number"),
        ({**ROW, "rewards": {"tone": None, "safe": 1}}, "rewards.tone = None: not a finite"),
        ({**ROW, "gating": {"tone": 1.0}}, "gating = ['tone']: not the objectives of the rewards"),
        ({**ROW, "steering": {"factors": {"tone": 2.0}}}, r"steering = .*: not that of row 1"),
        ({"prompt": "hello", "best": 0, "score": 1.0}, "armorm score"),
        ("{", "row 2: line = '{': not valid JSON"),
    ],
)
def test_rows_that_cannot_be_shown_are_named(row, message, tmp_path):
    file = write(tmp_path / "scored.jsonl", [ROW, row])
    with pytest.raises(InputError, match=message if ".*" in message else re.escape(message)):
        read_scored(file)


def test_a_file_is_not_shown_with_a_model_that_did_not_score_it(model_folder, tmp_path):
    file = write(tmp_path / "scored.jsonl", [ROW])
    with pytest.raises(RecipeError, match=r"was not scored by .*: its objectives are tone, safe"):
        read_scored(file, model_folder)
    parts = {name: {"tone": 0.5, "safe": 0.25, "verbosity": 0.25} for name in ("rewards", "gating")}
    row = {**ROW, **parts, "coefficients": {"tone": 9.0, "safe": 9.0, "verbosity": 9.0}}
    with pytest.raises(RecipeError, match="its debiasing gives other coefficients"):
        read_scored(write(tmp_path / "scored.jsonl", [row]), model_folder)
    empty = write(tmp_path / "empty.jsonl", [])
    assert armorm("view", empty, "-o", tmp_path / "page.html").returncode == 2
    assert not (tmp_path / "page.html").exists()


def test_answers_hold_what_the_model_said(model_folder):
    model = RewardModel.from_pretrained(model_folder, device="cpu", dtype="float32")
    prompt = ({"role": "user", "content": "hello"},)
    candidates = [Candidates(prompt, ("ok", "yes")), Candidates(prompt, ("ok",), "other", 2)]
    answers = Answers.of(model, candidates, tokens=True)
    scored = answers.scored()
    assert scored.owners == (0, 0, 1)
    assert scored.rows == (1, 1, 2)
    expected = model.score_responses("hello", ["ok", "yes"])
    assert scored.scores[:2].tolist() == expected.score.tolist()
    for i, detail in enumerate(scored.details):
        along = detail["trajectory"]
        total = numbers(along["changes"], 3).sum(axis=0) @ scored.coefficients[scored.owners[i]]
        start = answers.trajectories[i].start
        assert start + total == pytest.approx(scored.scores[i], abs=1e-5)
    profile = SteeringProfile(name="p", steering={"factors": {"tone": 0}}, floors={"tone": 0.5})
    steered = answers.scored(profile)
    assert steered.steering == {"factors": {"tone": 0.0}}
    assert steered.floors == {"tone": 0.5}
    expected = model.steer({"tone": 0.0}).score_responses("hello", ["ok"]).score
    assert steered.scores[0] == pytest.approx(float(expected), abs=1e-6)
