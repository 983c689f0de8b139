"""Commands that examine what a reward pays for, and what changed: audit, diff."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from armorm.cli.flags import Flags, add_command
from armorm.cli.options import (
    BenchmarkLoading,
    From,
    Json,
    Profile,
    Quiet,
    SkipInvalid,
    Steer,
    show_progress,
)
from armorm.cli.scorers import Scorers, backbone_options, open_model
from armorm.cli.terminal import print_json, print_line
from armorm.errors import ArmormError, RecipeError
from armorm.evaluation.audit.options import AuditOptions

if TYPE_CHECKING:
    from armorm.conversations import PreferencePair
    from armorm.evaluation.audit import AuditReport, DiffReport, RuleResult, Sentence
    from armorm.training.influence import InfluentialRow

RULE_FAILED = 4
"""Exit code of a command whose rule is broken."""

Preferences = Annotated[
    list[str],
    typer.Argument(
        help="Preference pairs: a file, a pattern, DATASET@SPLIT of the hub, or a benchmark.",
        metavar="PREFERENCES...",
        show_default=False,
    ),
]
FailOn = Annotated[
    list[str] | None,
    typer.Option(
        help="Exit with 4 if the whole interval of a figure is beyond a bound: "
        "'length_correlation>0.2', 'flip_rate(markdown)>0.1'. Repeatable.",
        metavar="RULE",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Also fail if only the estimate is beyond the bound, or unknown."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    add_command(
        app,
        audit,
        panel="Judge",
        example="armorm audit runs/quickstart/model pairs.jsonl -o audit",
        resumable=True,
    )
    add_command(
        app,
        diff,
        panel="Judge",
        example="armorm diff runs/old/model runs/new/model pairs.jsonl -o diff",
        resumable=True,
    )


def audit(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder or hub id, or anything else that `armorm benchmark` scores with.",
            metavar="MODEL",
            show_default=False,
        ),
    ],
    preferences: Preferences,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for audit.json, report.html and scores.jsonl.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    fail_on: FailOn = None,
    strict: Strict = False,
    change: Annotated[
        list[str] | None,
        typer.Option(help="Only this change of the text. Repeatable.", metavar="NAME"),
    ] = None,
    size: Annotated[
        AuditOptions, Flags("rows", "changed_rows", "probed_rows", "seed", panel="Size")
    ] = AuditOptions(),  # noqa: B008 (frozen)
    root: From = None,
    skip_invalid: SkipInvalid = False,
    steer: Steer = None,
    profile: Profile = None,
    *,
    scoring: Scorers,
    loading: BenchmarkLoading,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Report what a reward pays for: length, markup, flattery, the wording of the prompt.

    Writes audit.json for programs and report.html for people, and prints a summary.
    """
    from armorm.evaluation.audit import (
        Rule,
        apply_rules,
        check_audit_folder,
        in_words,
        write_audit,
    )
    from armorm.evaluation.audit import audit as run_audit
    from armorm.evaluation.audit.changes import chosen_changes
    from armorm.evaluation.audit.rules import check_kinds, check_names
    from armorm.evaluation.audit.running import FIGURES, figure_names
    from armorm.evaluation.audit.statistics import UNKNOWN

    rules = [Rule.parse(text) for text in fail_on or ()]
    check_kinds(rules, FIGURES)
    options = size.model_copy(update={"changes": tuple(change or ())})
    chosen_changes(options.changes)
    check_audit_folder(output)
    pairs = read_pairs(preferences, root, skip_invalid, quiet)
    names = figure_names(pairs, options)
    check_names(rules, names)
    scorer = open_model(model, scoring, loading, steer, profile)
    output.mkdir(parents=True, exist_ok=True)
    report = run_audit(scorer, pairs, output, options, show_progress=show_progress(quiet))
    figures = dict.fromkeys(names, UNKNOWN) | report.figures
    results = apply_rules(rules, figures, strict=strict)
    write_audit(output, report, results, _suspects(model))
    files = str(output / "report.html")
    show_result(report, in_words(report), files, results, as_json=as_json)


def _suspects(model: str) -> dict[str, tuple[InfluentialRow, ...]]:
    """Return training rows with a doubtful rating, if the model lies in its run folder."""
    run = Path(model).parent
    if (
        not Path(model).is_dir()
        or not (run / "head" / "statistics").is_dir()
        or not (run / "features" / "rated").is_dir()
    ):
        return {}
    from armorm.training import label_suspects

    try:
        return label_suspects(run, top=3)
    except ArmormError as error:
        print_line(f"No doubtful ratings of training rows: {error}", error=True)
        return {}


def diff(
    old: Annotated[
        str, typer.Argument(help="Model as it was.", metavar="MODEL", show_default=False)
    ],
    new: Annotated[
        str, typer.Argument(help="Model as it is now.", metavar="MODEL", show_default=False)
    ],
    preferences: Preferences,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for diff.json, diff.html, diff.md, old.jsonl and new.jsonl.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    fail_on: FailOn = None,
    strict: Strict = False,
    root: From = None,
    skip_invalid: SkipInvalid = False,
    *,
    scoring: Scorers,
    loading: BenchmarkLoading,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Report which preferences flipped between two models, and which objective or weight did it.

    Writes diff.json for programs, diff.html for people and diff.md for a pull request.
    """
    from armorm.evaluation.audit import (
        Rule,
        apply_rules,
        check_diff_folder,
        diff_in_words,
        write_diff,
    )
    from armorm.evaluation.audit import diff as run_diff
    from armorm.evaluation.audit.differences import FIGURES, figure_names
    from armorm.evaluation.audit.rules import check_kinds, check_names
    from armorm.evaluation.audit.statistics import UNKNOWN
    from armorm.evaluation.scorers.opening import check_scorer

    rules = [Rule.parse(text) for text in fail_on or ()]
    check_kinds(rules, FIGURES)
    check_diff_folder(output)
    pairs = read_pairs(preferences, root, skip_invalid, quiet)
    names = figure_names(pairs)
    check_names(rules, names)
    for name in (old, new):  # before the first one is scored, which may take long
        check_scorer(name, backbone_options(loading))
    output.mkdir(parents=True, exist_ok=True)
    report = run_diff(
        lambda: open_model(old, scoring, loading),
        lambda: open_model(new, scoring, loading),
        pairs,
        output,
        show_progress=show_progress(quiet),
    )
    figures = dict.fromkeys(names, UNKNOWN) | report.figures
    results = apply_rules(rules, figures, strict=strict)
    write_diff(output, report, results)
    files = f"{output / 'diff.html'}; text for a pull request: {output / 'diff.md'}"
    show_result(report, diff_in_words(report), files, results, as_json=as_json)


def read_pairs(
    names: Sequence[str], root: Path | None, skip_invalid: bool, quiet: bool
) -> list[PreferencePair]:
    """Read the pairs that names stand for: the first right response with each wrong one."""
    from armorm.conversations import PreferencePair
    from armorm.evaluation.benchmarks.suite import ALL, load_suite, named_benchmark

    for name in names:
        if name == ALL or named_benchmark(name) is None:
            raise RecipeError(
                f"{name!r} is neither a preference file (.jsonl, .parquet, .arrow), nor "
                "DATASET@SPLIT, nor a benchmark."
            )
    suite = load_suite(
        names, root, invalid="skip" if skip_invalid else "error", show_progress=show_progress(quiet)
    )
    pairs = []
    for benchmark, found in suite.loaded:
        for reason, count in found.skipped.items():
            print_line(f"{count:,} rows skipped: {reason}", error=True)
        if found.invalid:
            print_line(
                f"{len(found.invalid):,} invalid rows of {benchmark.name} skipped", error=True
            )
        pairs += [
            PreferencePair(row.prompt, row.responses[0], wrong, row.id, benchmark.name, row.subset)
            for row in found.rows
            for wrong in row.responses[row.right :]
        ]
    return pairs


def show_result(
    report: AuditReport | DiffReport,
    sentences: Sequence[Sentence],
    files: str,
    results: Sequence[RuleResult],
    *,
    as_json: bool,
) -> None:
    """Print a report and the verdicts of rules; exit if a rule is broken."""
    if as_json:
        print_json(report.as_dict() | {"rules": [one.as_dict() for one in results]})
    else:
        for sentence in sentences:
            mark = {"finding": "!", "fine": "✓", "note": " "}[sentence.kind]
            print_line(f"{mark} {sentence.text}")
        print_line(f"  Report: {files}")
    for one in results:
        print_line(str(one), error=as_json)
    if any(one.fails for one in results):
        raise typer.Exit(RULE_FAILED)
