"""The workbench in a browser: write, compare, steer, export, and save a profile."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from armorm import SteeringProfile
from armorm.workbench.app import Workbench, launch
from armorm.workbench.reading import read_scored
from tests.commands import write

TEXTS = ("Paris", "<script>alert(1)</script> <img src=x onerror=alert(2)> yes")


@pytest.fixture(scope="module")
def profiles(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


@pytest.fixture(scope="module")
def address(model, profiles):
    app = launch(Workbench(model, "tiny", profiles), "127.0.0.1", None)
    yield app.local_url
    app.close()


@pytest.fixture
def compared(open_tab, address):
    def opened(**options):
        tab = open_tab(**options)
        page = tab.page
        page.on("dialog", lambda dialog: tab.problems.append(dialog.message))
        page.goto(address)
        page.get_by_label("Prompt").fill("what is the capital of France ?")
        page.get_by_label("Response 1").fill(TEXTS[0])
        page.get_by_label("Response 2").fill(TEXTS[1])
        page.get_by_role("button", name="Score and explain").click()
        page.locator(".ranking").wait_for()
        return tab

    return opened


def saved(page, button: str, folder: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def set_slider(page, knob: str, value: float) -> None:
    page.locator(f"[data-knob={knob}]").evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", value
    )


def test_write_compare_steer_and_export(compared, address, model, tmp_path):
    tab = compared()
    page = tab.page
    shown = page.locator(".ranking li .open").all_inner_texts()
    scores = model.score_responses("what is the capital of France ?", list(TEXTS))
    assert shown == [TEXTS[i] for i in scores.ranking()]
    assert page.locator(".heat span").count() > 1
    asked = len(tab.requests)
    set_slider(page, "factor-0", 0)
    page.wait_for_function("document.querySelector('.flags').textContent === '--steer tone=0'")
    assert len(tab.requests) == asked
    exported = json.loads(saved(page, "Export as JSON", tmp_path).read_text())
    steered = model.steer({"tone": 0.0}).score_responses(
        "what is the capital of France ?", list(TEXTS)
    )
    assert [one["score"] for one in exported["responses"]] == pytest.approx(
        steered.score.tolist(), abs=1e-5
    )
    assert read_scored(tmp_path / "explanation.json").texts == TEXTS
    file = saved(page, "Export as a page", tmp_path)
    again = page.context.new_page()
    again.goto(file.as_uri())
    assert again.locator(".flags").inner_text() == "--steer tone=0"
    assert tab.problems == []
    outside = [url for url in tab.requests if urlsplit(url).scheme not in ("blob", "data", "file")]
    assert all(url.startswith(address) for url in outside)


def test_a_profile_is_saved_and_opened_again(compared, profiles):
    page = compared().page
    set_slider(page, "factor-1", 2)
    page.get_by_label("Name of a new profile").fill("safer")
    page.get_by_role("button", name="Save the knobs").click()
    page.get_by_label("Profile", exact=True).wait_for()
    profile = SteeringProfile.read(profiles / "safer.yaml")
    assert profile.steering.as_dict() == {"factors": {"safe": 2.0}}
    page.get_by_role("button", name="Save the knobs").click()
    page.get_by_text("There is a profile 'safer' already").first.wait_for()


def test_a_file_of_rows_is_opened(open_tab, address, tmp_path):
    page = open_tab().page
    page.goto(address)
    page.get_by_role("tab", name="Open a file").click()
    rows = [{"prompt": text, "responses": ["ok", "yes please"]} for text in ("hello", "thanks")]
    page.locator("input[type=file]").set_input_files(write(tmp_path / "rows.jsonl", rows))
    page.locator(".rows").wait_for()
    assert page.locator(".rows tbody tr").count() == 4


def test_what_is_missing_is_said(open_tab, address):
    page = open_tab().page
    page.goto(address)
    page.get_by_label("Prompt").fill("hello")
    page.get_by_role("button", name="Score and explain").click()
    page.get_by_text("Write at least one response").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_the_workbench(compared, scheme):
    tab = compared(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    assert tab.width() <= 390
    color = tab.page.locator(".armorm .card").first.evaluate("e => getComputedStyle(e).color")
    assert (sum(json.loads(f"[{color[4:-1]}]")) > 400) == (scheme == "dark")
