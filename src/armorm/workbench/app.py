"""The workbench: a local page on which a model's scores are read, compared and steered (Gradio)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from armorm.conversations import (
    located_in,
    validate_conversation,
    validate_prompt,
    validate_response,
)
from armorm.data.sources import file_rows
from armorm.errors import ArmormError, InputError, MissingExtraError
from armorm.workbench.answers import Answers, Candidates
from armorm.workbench.pages import SCRIPTS, Asset, render_page

if TYPE_CHECKING:
    from armorm.model import RewardModel, Steering

MOST_RESPONSES = 8
"""Boxes for responses."""

MOST_ROWS = 2000
"""Rows of a file that are scored while somebody waits; `armorm score` has no such limit."""


@dataclass(frozen=True, slots=True)
class Weighing:
    """Steering and floors as the page holds them."""

    steering: Steering
    floors: dict[str, float]

    @classmethod
    def parse(cls, state: str) -> Weighing:
        """Return what the page sent."""
        from armorm.model import Steering

        values = json.loads(state or "null") or {"steering": {}, "floors": {}}
        return cls(Steering.from_dict(values["steering"]), values["floors"])


class Workbench:
    """Actions of the page on one model.

    Args:
        model: The model.
        name: Its name, for people.
    """

    def __init__(self, model: RewardModel, name: str) -> None:
        self.model = model
        self.name = name

    def compare(self, prompt: str, *responses: str) -> tuple[Answers, dict[str, Any]]:
        """Score typed responses; boxes that are empty are left out."""
        typed = [text for text in responses if text and text.strip()]
        if not typed:
            raise InputError("response 1", "", "empty", "Write at least one response.")
        candidates = Candidates(validate_typed(prompt), tuple(typed))
        return self._show(Answers.of(self.model, [candidates], tokens=True))

    def open_file(self, file: str) -> tuple[Answers, dict[str, Any]]:
        """Score the rows of a file."""
        return self._show(Answers.of(self.model, read_candidates(Path(file))))

    def _show(self, answers: Answers) -> tuple[Answers, dict[str, Any]]:
        return answers, answers.scored().payload(self.name)

    def export_page(self, answers: Answers | None, state: str) -> dict[str, str]:
        """Return the page of the present explanation, as a file."""
        weighing = Weighing.parse(state)
        scored = self._given(answers).scored(weighing.steering, weighing.floors)
        page = render_page(scored, f"Scores by {self.name}")
        return {"name": "explanation.html", "type": "text/html", "text": page}

    def export_json(self, answers: Answers | None, state: str) -> dict[str, str]:
        """Return the present explanation of every response, as a file."""
        weighing = Weighing.parse(state)
        answers = self._given(answers)
        rewards = answers.weigh(weighing.steering)
        rows = []
        texts = [(one, text) for one in answers.candidates for text in one.responses]
        for (one, text), scores in zip(texts, rewards.as_dicts(), strict=True):
            prompt = [dict(message) for message in one.prompt]
            rows.append({"prompt": prompt, "response": text, **scores})
        lines = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        return {"name": "explanation.jsonl", "type": "application/jsonl", "text": lines}

    def _given(self, answers: Answers | None) -> Answers:
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

    with gr.Blocks(title=f"armorm · {workbench.name}", analytics_enabled=False) as app:
        gr.Markdown("# Workbench")
        answers = gr.State(None)
        state = gr.Textbox(visible="hidden", label="state")
        file_out = gr.JSON(visible="hidden", label="file")
        with gr.Tab("Write"):
            prompt = gr.Textbox(label="Prompt", lines=2, max_lines=12, elem_id="prompt")
            boxes = []
            with gr.Row():
                for number in range(1, MOST_RESPONSES + 1):
                    boxes.append(
                        gr.Textbox(
                            label=f"Response {number}",
                            lines=3,
                            max_lines=16,
                            min_width=280,
                            visible=number <= 2,
                            elem_id=f"response-{number}",
                        )
                    )
            shown = gr.State(2)
            with gr.Row():
                score = gr.Button("Score and explain", variant="primary", elem_id="score")
                more = gr.Button("Add a response", elem_id="add-response")
        with gr.Tab("Open a file"):
            upload = gr.File(
                label="Rows with prompt and responses, or messages (.jsonl, .parquet)",
                type="filepath",
                elem_id="file",
            )
        view = gr.HTML(
            value=None,
            html_template='<div class="armorm"></div>',
            js_on_load=(
                "const show = () => window.armorm.show("
                "element.querySelector('.armorm'), props.value);"
                "show(); watch('value', show);"
            ),
            apply_default_css=False,
            elem_id="view",
        )
        with gr.Row():
            page = gr.Button("Export as a page (HTML)", elem_id="export-page")
            as_json = gr.Button("Export as JSON", elem_id="export-json")

        score.click(reporting(workbench.compare), [prompt, *boxes], [answers, view])
        upload.upload(reporting(workbench.open_file), [upload], [answers, view])

        def one_more(count: int) -> list[Any]:
            count = min(count + 1, MOST_RESPONSES)
            return [count, *(gr.update(visible=i < count) for i in range(MOST_RESPONSES))]

        more.click(one_more, [shown], [shown, *boxes])
        with_state = "(answers, state) => [answers, window.armorm.state()]"
        for button, action in ((page, workbench.export_page), (as_json, workbench.export_json)):
            button.click(reporting(action), [answers, state], [file_out], js=with_state).success(
                None, [file_out], None, js="(file) => window.armorm.save(file)"
            )
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
