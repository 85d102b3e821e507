"""The command line that a class of settings makes: `--help`, flags, and errors in a line."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.settings import PLACE, URL, Key, SettingsError, has_flag, masked

S = TypeVar("S", bound=BaseSettings)


@dataclass(frozen=True, slots=True)
class Program:
    """What `--help` says of a program whose settings are fields of a class.

    Attributes:
        name: How it is started: `python bot/main.py`.
        description: What it is, in a sentence.
        epilog: What to know besides the settings.
    """

    name: str
    description: str
    epilog: str


def parser(
    settings: type[BaseSettings], program: Program, choices: Mapping[str, Sequence[str]]
) -> argparse.ArgumentParser:
    """The command line: one flag for each setting, those of the class before those it inherits.

    Args:
        settings: The class whose fields are made with `setting` and `secret`.
        program: What it is a command line of.
        choices: The values that a setting may take, for settings whose choice grows with the
            catalog: `{"tts": ["piper"], …}`.
    """
    parser = _Parser(
        prog=program.name,
        usage=f"{program.name} [settings]",
        description=program.description,
        epilog=program.epilog,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=38, width=100),
    )
    groups: dict[str, Any] = {}
    for name, field in _own_first(settings).items():
        if not has_flag(field):
            continue
        assert isinstance(field.json_schema_extra, dict)
        title = str(field.json_schema_extra["group"])
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        default = field.get_default(call_default_factory=True)
        silent = default is None or default is False or default == []
        shown = "" if silent else f" (default: {default})"
        text = f"{field.description}{shown}".replace("%", "%%")
        if field.annotation is bool:
            group.add_argument(_flag(name), dest=name, action="store_true", help=text)
        else:
            group.add_argument(
                _flag(name), dest=name, metavar=_placeholder(name, field, choices), help=text
            )
    return parser


def load(
    settings: type[S],
    program: Program,
    argv: Sequence[str],
    choices: Mapping[str, Sequence[str]],
) -> S:
    """The settings that the command line, the environment and `.env` make.

    Args:
        settings: As for `parser`.
        program: As for `parser`.
        argv: The arguments after the program's name.
        choices: As for `parser`; those of a `Place` are what it may be besides addresses.

    Raises:
        SettingsError: A flag is unknown or a value is wrong.
        SystemExit: `--help` was asked for and printed.
    """
    flags, rest = parser(settings, program, choices).parse_known_args(argv)
    if rest:
        # What follows may be a secret.
        wrong = rest[0].split("=")[0]
        fields = settings.model_fields
        known = [_flag(name) for name, field in fields.items() if has_flag(field)]
        if secret_ := next((name for name in fields if _flag(name) == wrong), None):
            cure = f"a secret is set in the environment or in .env: {_variable(settings, secret_)}"
        else:
            near = difflib.get_close_matches(wrong, known, n=1)
            cure = f"did you mean {near[0]}?" if near else "see --help"
        raise SettingsError(f"{wrong}: there is no such flag; {cure}")
    given = vars(flags)
    try:
        loaded = settings(**given)
    except ValidationError as error:
        raise SettingsError(_one_line(settings, error, given)) from None
    except UnicodeDecodeError:
        raise SettingsError(".env: it is not UTF-8 text; save it as such") from None
    for name, allowed in choices.items():
        value = getattr(loaded, name)
        if value is None or ("://" in value and PLACE in settings.model_fields[name].metadata):
            continue
        if value not in allowed:
            raise SettingsError(
                f"{_spelling(settings, name, given)}: {value!r} is not one of {', '.join(allowed)}"
            )
    return loaded


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SettingsError(message)


def _own_first(settings: type[BaseSettings]) -> dict[str, FieldInfo]:
    fields = settings.model_fields
    inherited = {name for base in settings.__bases__ for name in getattr(base, "model_fields", ())}
    own = {name: field for name, field in fields.items() if name not in inherited}
    return own | fields  # A key that is there already keeps its place.


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _variable(settings: type[BaseSettings], name: str) -> str:
    alias = settings.model_fields[name].validation_alias
    return str(alias or settings.model_config["env_prefix"] + name.upper())


def _placeholder(name: str, field: FieldInfo, choices: Mapping[str, Sequence[str]]) -> str:
    if name in choices:
        return "{" + ",".join(choices[name]) + "}"
    annotation = field.annotation
    if URL in field.metadata:
        return "URL"
    if get_origin(annotation) is Literal:
        return "{" + ",".join(map(str, get_args(annotation))) + "}"
    if get_origin(annotation) is list:
        return "LIST"
    types = get_args(annotation) or (annotation,)
    # A text among a type's annotations is how the type is shown.
    shown = (m for t in types for m in getattr(t, "__metadata__", ()) if isinstance(m, str))
    names = {int: "N", float: "X", Path: "PATH", str: "NAME", Key: "SECRET"}
    return next(shown, None) or next((names[t] for t in types if t in names), "URL")


def _spelling(settings: type[BaseSettings], name: str, given: Mapping[str, Any]) -> str:
    """How the person spelled the setting: the flag, or the variable."""
    return _flag(name) if name in given else _variable(settings, name)


def _one_line(settings: type[BaseSettings], error: ValidationError, given: dict[str, Any]) -> str:
    first = error.errors()[0]
    location = str(first["loc"][0])
    by_alias = {_variable(settings, name): name for name in settings.model_fields}
    name = by_alias.get(location, location)
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    shown = ""
    field = settings.model_fields[name]
    if has_flag(field) and Key not in get_args(field.annotation):
        shown = f" (it is {masked(repr(first['input']))})"
    return f"{_spelling(settings, name, given)}: {message}{shown}"
