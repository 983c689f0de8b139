"""Flags derived from options classes, and the registration of commands.

A command takes an options class as one parameter::

    def score(loading: Annotated[BackboneOptions, Flags("device", "dtype")]) -> None: ...

and :func:`add_command` gives the command line one flag for each of these fields, with the type,
the bounds, the default and the help that the field declares.
"""

from __future__ import annotations

import copy
import functools
import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from armorm.cli.process import reader_left, signals
from armorm.errors import RecipeError
from armorm.settings import Options, Setting, settings_of

Command = Callable[..., None]


class Flags:
    """Fields of an options class that a command offers as flags.

    Args:
        *names: Names of the fields; default all of them.
        panel: Heading of these flags in the command's help.
        prefix: Word before the name of each flag, for a command with several classes of options.
        **defaults: Defaults of the command, where they differ from those of the class.
    """

    def __init__(
        self, *names: str, panel: str | None = None, prefix: str = "", **defaults: Any
    ) -> None:
        self.names = names
        self.panel = panel
        self.prefix = f"{prefix}_" if prefix else ""
        self.defaults = defaults

    def parameters(self, options: type[Options]) -> Iterator[inspect.Parameter]:
        """Yield a parameter for each flag."""
        settings = {setting.name: setting for setting in settings_of(options)}
        for name in self.names or settings:
            yield self._parameter(settings[name])

    def _parameter(self, setting: Setting) -> inspect.Parameter:
        default = self.defaults.get(setting.name, setting.default)
        kind, names = setting.type, []
        flag = self.prefix + setting.name
        metavar = None if kind is bool or len(setting.choices) == 2 else setting.name.upper()
        one = f"--{flag.removesuffix('s').replace('_', '-')}"
        if typing.get_origin(kind) is dict:  # such as engine_options: --engine-option NAME=VALUE
            kind, default, metavar = list[str], None, "NAME=VALUE"
            names = [one]
        elif typing.get_origin(kind) is tuple:  # repeatable: --text length --text markup
            kind, default, metavar = list[str], list(default), "NAME"
            names = [one]
        option = typer.Option(
            *names,
            help=setting.help,
            min=setting.bounds.get("ge"),
            max=setting.bounds.get("le"),
            metavar=metavar,
            rich_help_panel=self.panel,
        )
        annotation: Any = Annotated[kind | None if default is None else kind, option]
        return inspect.Parameter(
            flag, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
        )

    def options(self, options: type[Options], values: dict[str, Any]) -> Options:
        """Take the values of the flags out of those of the command; return the options."""
        given = {}
        for setting in settings_of(options):
            value = values.pop(self.prefix + setting.name, None)
            if value is not None and typing.get_origin(setting.type) is dict:
                value = parse_assignments(value, f"--{setting.name.removesuffix('s')}")
            if value is not None:
                given[setting.name] = value
        return options.validated(given)


def parse_assignments(items: Sequence[str], flag: str) -> dict[str, Any]:
    """Parse ``NAME=VALUE`` items of a repeatable flag; the values are YAML.

    Raises:
        RecipeError: an item is not of this form, or a name is given twice.
    """
    flag = flag.replace("_", "-")
    values: dict[str, Any] = {}
    for item in items:
        name, separator, text = item.partition("=")
        if not separator or not name:
            raise RecipeError(f"{flag} {item}: write it as NAME=VALUE.")
        if name in values:
            raise RecipeError(f"{flag} {name} is given twice.")
        try:
            values[name] = yaml.safe_load(text)
        except (yaml.YAMLError, RecursionError) as error:
            raise RecipeError(f"{flag} {item}: {text!r} is not YAML: {error}") from error
    return values


def add_command(
    app: typer.Typer,
    function: Command,
    *,
    name: str | None = None,
    panel: str | None = None,
    example: str,
    resumable: bool = False,
) -> None:
    """Add a function to an application as a command.

    Args:
        app: The application, or a group of commands.
        function: Its docstring is the help; parameters marked with :class:`Flags` become flags.
        name: Name of the command; default the function's.
        panel: Heading that the command is listed under.
        example: A call of the command that works, for its help.
        resumable: An interrupted run resumes when the same command is given again.
    """
    name = name or function.__name__.replace("_", "-")
    again = "An interrupted run is resumed by giving the same command again." if resumable else ""
    app.command(
        name,
        rich_help_panel=panel,
        epilog="\n\n".join(part for part in (again, f"Example:  {example}") if part),
    )(_with_flags(function, resumable))


def _with_flags(function: Command, resumable: bool) -> Command:
    """Return the command with flags in place of its parameters of options classes."""
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type[Options], Flags]] = {}
    for parameter in signature.parameters.values():
        options, *marks = typing.get_args(parameter.annotation) or (None,)
        flags = next((mark for mark in marks if isinstance(mark, Flags)), None)
        if flags is None:
            parameters.append(_checked(parameter))
        else:
            groups[parameter.name] = (options, flags)
            parameters.extend(flags.parameters(options))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        signals.resumable = resumable
        for name, (options, flags) in groups.items():
            values[name] = flags.options(options, values)
        try:
            function(**values)
        except BrokenPipeError as error:
            # typer takes every broken pipe for standard output's and ends in silence.
            raise SystemExit(141) if reader_left() else RuntimeError(error) from error

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _checked(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return the parameter of a path or a name as one that refuses an empty string."""
    kind, *marks = typing.get_args(parameter.annotation) or (parameter.annotation,)
    members = {kind, *typing.get_args(kind)}
    named = any(getattr(mark, "metavar", None) in NAMES for mark in marks)
    parse = parse_path if Path in members else parse_name if named else None
    checked = [copy.copy(mark) for mark in marks]
    for mark in checked:
        if parse is not None:
            mark.parser = parse
    annotation = Annotated[(kind, *checked)] if checked else kind
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)


NAMES = ("MODEL", "MODEL... NAME...", "NAME", "REPO")
"""Placeholders of arguments that name something, so that an empty string is a mistake."""


def parse_path(text: str | Path) -> Path:
    """Return a path; an empty one, which would mean the working directory, is refused."""
    return Path(parse_name(str(text)))


def parse_name(text: str) -> str:
    """Return the text if it can name something."""
    if not text.strip() or "\0" in text:
        raise typer.BadParameter("an empty name" if not text.strip() else "a name with a NUL byte")
    return text
