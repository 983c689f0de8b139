"""Pages in a browser: what steering does there is what it does in the model."""

from __future__ import annotations

import json

import pytest

from armorm import Steering
from armorm.workbench.answers import Answers, Candidates
from armorm.workbench.pages import write_page
from tests.hostile_texts import HOSTILE
from tests.scored_row import ROW

PROMPT = ({"role": "user", "content": "what is the capital of France ?"},)
TEXTS = ("Paris", "Lyon , a very long answer one two three", "yes please", "no")
STEERINGS = [
    {"factors": {"tone": 0.3, "safe": 2.0}},
    {"factors": {"safe": 0.0}, "renormalise": True},
    {"weights": {"tone": 1.0}},
    {"weights": {"tone": 0.4, "safe": 0.6}, "mixture": 0.3, "factors": {"tone": 2.0}},
    {"debiasing": 0.25, "add": {"verbosity": 0.2}},
    {"debiasing": {"tone": 0.5}},
]


@pytest.fixture(scope="module")
def answers(model):
    other = ({"role": "user", "content": "hello"},)
    rows = [Candidates(PROMPT, TEXTS, "one"), Candidates(other, ("ok", "thanks"), "two", 2)]
    return Answers.of(model, rows, tokens=True)


@pytest.fixture(scope="module")
def compared(model):
    return Answers.of(model, [Candidates(PROMPT, TEXTS)], tokens=True)


@pytest.fixture
def show(open_tab, tmp_path):
    def opened(scored, **options):
        write_page(tmp_path / "page.html", scored, "Title")
        tab = open_tab(**options)
        tab.page.goto((tmp_path / "page.html").as_uri())
        return tab

    return opened


def set_slider(page, knob: str, value: float) -> None:
    page.locator(f"[data-knob={knob}]").evaluate(
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }", value
    )


def order(page) -> list[str]:
    page.evaluate("() => new Promise(requestAnimationFrame)")
    return page.locator(".ranking li .open").all_inner_texts()


def test_the_page_weighs_as_the_model_does(show, answers, model):
    tab = show(answers.scored())
    script = """
        (steerings) => {
          const payload = JSON.parse(document.getElementById("payload").textContent);
          return steerings.map((steering) => {
            const scored = new Scored(payload);
            const knobs = knobsOf(steering, {}, scored.names);
            scored.steer(knobs);
            return {
              scores: [...scored.scores],
              steering: steeringOf(knobs, scored.names),
              front: [...scored.front(0)],
              chance: scored.probability(scored.scores[0] - scored.scores[1]),
            };
          });
        }"""
    found = tab.page.evaluate(script, STEERINGS)
    for steering, shown in zip(STEERINGS, found, strict=True):
        steered = model.steer(Steering.from_dict(steering))
        rewards = steered.weigh(answers.predictions)
        assert shown["scores"] == pytest.approx(rewards.score.tolist(), abs=1e-5), steering
        assert Steering.from_dict(shown["steering"]) == Steering.from_dict(steering)
        first, _ = rewards.split([4, 2])
        assert tuple(shown["front"]) == steered.ranking(first).front
        chance = steered.preference_probability(float(first.score[0] - first.score[1]))
        assert shown["chance"] == (None if chance is None else pytest.approx(chance, abs=1e-4))
    assert tab.problems == []


def test_a_slider_reorders_and_reset_restores(show, compared, model):
    tab = show(compared.scored())
    tab.context.set_offline(True)
    page = tab.page
    plain = [TEXTS[i] for i in compared.weigh().ranking()]
    assert order(page) == plain
    page.get_by_text("Coefficients to add").click()
    set_slider(page, "add-2", 0.5)
    set_slider(page, "factor-1", 0)
    steered = model.steer({"safe": 0.0}, add={"verbosity": 0.5})
    expected = [TEXTS[i] for i in steered.weigh(compared.predictions).ranking()]
    assert expected != plain
    assert order(page) == expected
    assert page.locator(".tag.moved").count() > 0
    assert page.locator(".flags").inner_text() == "--steer safe=0 --steer add.verbosity=0.5"
    page.get_by_role("button", name="Reset").click()
    assert order(page) == plain
    assert (tab.problems, len(tab.requests)) == ([], 1)


def test_a_veto_puts_a_response_last(show, compared):
    page = show(compared.scored()).page
    best = order(page)[0]
    scored = compared.scored()
    floor = max(float(scored.rewards[:, 0].max()), 0.0)
    page.evaluate(
        "() => document.querySelectorAll('.knobs details').forEach((one) => (one.open = true))"
    )
    set_slider(page, "floor-0", min(1.0, floor + 0.1))
    after = order(page)
    vetoed = page.locator(".tag.veto").count()
    assert vetoed == sum(scored.rewards[:, 0] < round(min(1.0, floor + 0.1) * 20) / 20)
    assert (after[0] == best) == (vetoed in (0, len(TEXTS)))


def test_what_would_flip_it_flips_it(show, compared):
    page = show(compared.scored()).page
    before = order(page)
    flips = page.locator(".flips button")
    for a in range(len(TEXTS)):
        for b in range(len(TEXTS)):
            if not flips.count() and a != b:
                script = "([a, b]) => { view.select(a); view.other = b; view.update(); }"
                page.evaluate(script, [a, b])
    verdict = page.locator("[aria-label=Comparison] .sentence").inner_text()
    flips.first.click()
    assert order(page) != before
    assert page.locator("[aria-label=Comparison] .sentence").inner_text() != verdict


def test_the_keyboard_reaches_everything(show, compared):
    page = show(compared.scored()).page
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.dataset.key || document.activeElement.id"))
    assert {"response-0", "ratings", "mode-waterfall", "other", "armorm-factor-0"} <= seen
    second = order(page)[1]
    page.locator(".ranking li .open").nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator(".ranking [aria-pressed=true]").inner_text() == second
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.locator("#armorm-factor-0").focus()
    page.keyboard.press("ArrowLeft")
    page.evaluate("() => new Promise(requestAnimationFrame)")
    assert page.locator("output[for=armorm-factor-0]").inner_text() == "× 0.99"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(show, answers, scheme):
    tab = show(answers.scored(), viewport={"width": 390, "height": 800}, color_scheme=scheme)
    assert tab.width() <= 390
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(json.loads(f"[{ground[4:-1]}]")) < 200) == (scheme == "dark")
    assert tab.problems == []


def test_a_file_is_searched_sorted_and_explained_by_a_click(show, answers):
    page = show(answers.scored()).page
    assert page.locator(".rows tbody tr").count() == 6
    page.get_by_role("button", name="Length").click()
    assert "a very long answer" in page.locator(".rows tbody tr").first.inner_text()
    page.get_by_label("Source").select_option("two")
    page.locator(".rows tbody tr").nth(2).wait_for(state="detached")
    assert page.locator(".rows tbody tr").count() == 2
    page.get_by_label("Search in prompts").fill("thanks")
    page.locator(".rows tbody tr").nth(1).wait_for(state="detached")
    x, y, i = page.evaluate("view.scatter.points[0]")
    page.locator(".scatter").click(position={"x": x, "y": y})
    assert page.evaluate("view.selected") == i == 5
    assert "thanks" in page.locator(".ranking [aria-pressed=true]").inner_text()


def test_hostile_texts_are_shown_as_they_are(open_tab, tmp_path):
    from armorm.workbench.reading import read_scored
    from tests.commands import write

    tame = [text for text in HOSTILE if "\ud800" not in text]
    rows = [{**ROW, "prompt": text, "response": text, "source": text} for text in tame]
    write_page(tmp_path / "page.html", read_scored(write(tmp_path / "s.jsonl", rows)), tame[0])
    tab = open_tab()
    tab.page.on("dialog", lambda dialog: tab.problems.append(dialog.message))
    tab.page.goto((tmp_path / "page.html").as_uri())
    assert tab.page.locator("h1").evaluate("one => one.textContent") == tame[0]
    for i, text in enumerate(tame):
        tab.page.evaluate("(i) => view.select(i)", i)
        assert tab.page.locator(".said .text").last.evaluate("one => one.textContent") == text
    assert tab.page.locator("img, iframe, a").count() == 0
    assert (tab.problems, len(tab.requests)) == ([], 1)
