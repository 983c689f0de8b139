"""The workbench: a local page on which a model's scores are read, compared and steered (Gradio)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.conversations import (
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.data.sources import file_rows
from armorm.errors import ArmormError, InputError, MissingExtraError, RecipeError
from armorm.model.profiles import SteeringProfile, named_profile
from armorm.workbench.answers import Answers, Candidates
from armorm.workbench.pages import SCRIPTS, Asset, render_page

if TYPE_CHECKING:
    from armorm.model import RewardModel

MOST_RESPONSES = 8
"""Boxes for responses."""

MOST_ROWS = 2000
"""Rows of a file that are scored while somebody waits; `armorm score` has no such limit."""


class Workbench:
    """Actions of the page on one model.

    Args:
        model: The model.
        name: Its name, for people.
        profiles: Folder that profiles are saved in; ``None`` hands them out as downloads.
    """

    def __init__(self, model: RewardModel, name: str, profiles: Path | None = None) -> None:
        self.model = model
        self.name = name
        self.profiles = profiles

    def compare(self, prompt: str | None, *responses: str | None) -> tuple[Answers, dict[str, Any]]:
        """Score typed responses; boxes that are empty are left out."""
        typed = [text for text in responses if text and text.strip()]
        if not typed:
            raise InputError("response 1", "", "empty", "Write at least one response.")
        candidates = Candidates(validate_typed(prompt or ""), tuple(typed))
        return self._show(Answers.of(self.model, [candidates], tokens=True))

    def open_file(self, file: str) -> tuple[Answers, dict[str, Any]]:
        """Score the rows of a file."""
        return self._show(Answers.of(self.model, read_candidates(Path(file))))

    def _show(self, answers: Answers) -> tuple[Answers, dict[str, Any]]:
        return answers, answers.scored().payload(self.name)

    def profile_names(self) -> list[str]:
        """Return the names of the model's profiles."""
        return list(self.model.profiles)

    def open_profile(self, answers: Answers | None, name: str) -> dict[str, Any]:
        """Return the present answers under a profile of the model."""
        profile = named_profile(self.model.profiles, name)
        return _given(answers).scored(profile).payload(self.name)

    def save_profile(self, name: str, state: str) -> tuple[dict[str, str] | None, str]:
        """Save the knobs as a profile; return the file to download, if any, and what was done."""
        profile = self._judging(state, name.strip())
        profile.check(self.model.objectives)
        if self.profiles is None:
            file = {"name": f"{profile.name}.yaml", "type": "text/yaml", "text": profile.to_yaml()}
            return file, f"Use it with --profile {profile.name}.yaml."
        target = self.profiles / f"{profile.name}.yaml"
        if profile.name in self.model.profiles:
            raise RecipeError(f"There is a profile {profile.name!r} already. Give another name.")
        profile.write(target)
        self.model = self.model.with_profiles(profile)
        return None, f"Saved with the model: --profile {profile.name} judges by it."

    def export_page(self, answers: Answers | None, state: str) -> dict[str, str]:
        """Return the page of the present answers, as a file."""
        scored = _given(answers).scored(self._judging(state))
        page = render_page(scored, f"Scores by {self.name}")
        return {"name": "explanation.html", "type": "text/html", "text": page}

    def export_json(self, answers: Answers | None, state: str) -> dict[str, str]:
        """Return the explanation of each response to one prompt, or the scored rows of a file."""
        answers, judging = _given(answers), self._judging(state)
        if len(answers.candidates) == 1:
            text = json.dumps(answers.explained(judging), indent=2, allow_nan=False)
            return {"name": "explanation.json", "type": "application/json", "text": text}
        rows = "".join(json.dumps(row, allow_nan=False) + "\n" for row in answers.rows(judging))
        return {"name": "scored.jsonl", "type": "application/jsonl", "text": rows}

    def _judging(self, state: str, name: str = "workbench") -> SteeringProfile:
        """Return the knobs of the page as a profile."""
        knobs = json.loads(state or "null") or {"steering": {}, "floors": {}}
        return SteeringProfile(name=name, steering=knobs["steering"], floors=knobs["floors"])


def _given(answers: Answers | None) -> Answers:
    if answers is None:
        raise ArmormError("Nothing is scored yet: write a prompt and a response.")
    return answers


def validate_typed(prompt: str) -> Any:
    """Return the messages of a typed prompt: text of the user, or JSON messages."""
    text = prompt.strip()
    if text.startswith("[") and text.endswith("]"):
        try:
            return located_in("prompt", validate_prompt, json.loads(text))
        except ValueError:
            pass  # a text that happens to stand in brackets
    return located_in("prompt", validate_prompt, prompt)


def read_candidates(file: Path) -> list[Candidates]:
    """Return the prompts of a file with their responses.

    Args:
        file: Rows with ``prompt`` and ``responses``, ``prompt`` and ``response``, or ``messages``.

    Raises:
        InputError: A row cannot be read, or there are too many.
    """
    found = []
    for raw in file_rows(file):
        try:
            if isinstance(raw.fields, InputError):
                raise raw.fields
            found.append(_candidates(raw.row, raw.fields))
        except InputError as error:
            raise error.at(Path(raw.file).name, raw.row) from None
        if len(found) > MOST_ROWS:
            raise InputError(
                "file",
                file.name,
                f"more than {MOST_ROWS:,} rows",
                "Score it by `armorm score`, and look at the result by `armorm view`.",
            )
    if not found:
        raise InputError("file", file.name, "no row", "Give rows with prompt and responses.")
    return found


def _candidates(number: int, row: Any) -> Candidates:
    source = row.get("source")
    source = source if isinstance(source, str) else None
    if "messages" in row:
        prompt, response = located_in("messages", validate_conversation, row["messages"])
        return Candidates(prompt, (response,), source, number)
    prompt = located_in("prompt", validate_prompt, row.get("prompt"))
    responses = row["responses"] if "responses" in row else [row.get("response")]
    if not isinstance(responses, list) or not responses:
        raise InputError("responses", responses, "not a list of responses", "Give a list.")
    texts = tuple(
        located_in(f"responses[{i}]", validate_response, one) for i, one in enumerate(responses)
    )
    return Candidates(prompt, texts, source, number)


def build_app(workbench: Workbench) -> Any:
    """Return the Gradio application of the workbench."""
    gr = import_gradio()

    def reporting(action: Any) -> Any:
        """Return the action with its errors as messages on the page."""

        def safe(*values: Any) -> Any:
            try:
                return action(*values)
            except ArmormError as error:
                raise gr.Error(str(error), print_exception=False) from None

        return safe

    with gr.Blocks(title=f"{workbench.name} · armorm", analytics_enabled=False) as app:
        gr.Markdown("# Workbench\nWrite a prompt and responses; see why each scores as it does.")
        answers, shown = gr.State(None), gr.State(2)
        state = gr.Textbox(visible="hidden", label="state")
        file = gr.JSON(visible="hidden", label="download")
        with gr.Tab("Write"):
            prompt = gr.Textbox(label="Prompt", lines=2, max_lines=12)
            with gr.Row():
                boxes = [
                    gr.Textbox(
                        label=f"Response {number}",
                        lines=3,
                        max_lines=16,
                        min_width=280,
                        visible=number <= 2,
                    )
                    for number in range(1, MOST_RESPONSES + 1)
                ]
            with gr.Row(elem_classes="actions"):
                score = gr.Button("Score and explain", variant="primary")
                more = gr.Button("Add a response")
        with gr.Tab("Open a file"):
            upload = gr.File(
                label="Rows with prompt and responses, or messages: JSON lines or Parquet",
                type="filepath",
            )
        view = gr.HTML(
            html_template='<div class="armorm"></div>',
            js_on_load=(
                "const show = () => window.armorm.show("
                "element.querySelector('.armorm'), props.value);"
                "show(); watch('value', show);"
            ),
            apply_default_css=False,
        )
        with gr.Column(visible=False) as keep:
            gr.Markdown("## Keep")
            with gr.Row(elem_classes="actions"):
                page = gr.Button("Export as a page")
                as_json = gr.Button("Export as JSON")
            with gr.Row(elem_classes="actions", equal_height=False):
                chosen = gr.Dropdown(workbench.profile_names(), label="Open a profile", value=None)
                name = gr.Textbox(label="Name of a new profile", max_lines=1)
                save = gr.Button("Save the knobs as a profile")
            done = gr.Textbox(label="Profile", interactive=False, visible=False)

        for event, scoring, inputs in (
            (score.click, workbench.compare, [prompt, *boxes]),
            (prompt.submit, workbench.compare, [prompt, *boxes]),
            (upload.upload, workbench.open_file, [upload]),
        ):
            event(reporting(scoring), inputs, [answers, view]).success(
                lambda: gr.update(visible=True), None, keep
            )

        def one_more(count: int) -> list[Any]:
            count = min(count + 1, MOST_RESPONSES)
            return [count, *(gr.update(visible=i < count) for i in range(MOST_RESPONSES))]

        def saved(name: str, state: str) -> tuple[Any, Any, Any]:
            download, said = reporting(workbench.save_profile)(name, state)
            names = gr.update(choices=workbench.profile_names())
            return download, gr.update(value=said, visible=True), names

        more.click(one_more, [shown], [shown, *boxes])
        chosen.input(reporting(workbench.open_profile), [answers, chosen], [view])
        with_state = "(given, state) => [given, window.armorm.state()]"
        offer = {"fn": None, "inputs": [file], "js": "(file) => window.armorm.save(file)"}
        for button, export in ((page, workbench.export_page), (as_json, workbench.export_json)):
            button.click(reporting(export), [answers, state], [file], js=with_state).success(
                **offer
            )
        save.click(saved, [name, state], [file, done, chosen], js=with_state).success(**offer)
    return app


def import_gradio() -> Any:
    """Return Gradio, which sends nothing home.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError as error:
        raise MissingExtraError("The workbench", "ui") from error
    return gradio


def launch(workbench: Workbench, host: str, port: int | None) -> Any:
    """Start the workbench in the background; return the running application."""
    gr = import_gradio()
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="blue",
        neutral_hue="slate",
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
    )
    app = build_app(workbench)
    script = Asset.of(*SCRIPTS, "workbench.js").text
    style = Asset.of("view.css", "workbench.css").text
    app.launch(
        server_name=host,
        server_port=port,
        share=False,
        inbrowser=False,
        quiet=True,
        prevent_thread_lock=True,
        ssr_mode=False,
        footer_links=[],
        theme=theme,
        # Not as css=, whose selectors Gradio rewrites at every comma, also inside of :is(…).
        head=f"<style>{style}</style><script>{script}</script>",
    )
    return app
