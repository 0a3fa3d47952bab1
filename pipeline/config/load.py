"""From a YAML file and `--set` overrides to a checked Recipe, or to one message with every problem."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.schema import DEFAULT_OBJECTIVE, Recipe
from pipeline.config.section import ObjectiveSection
from pipeline.errors import RecipeError, UsageError
from pipeline.objectives import OBJECTIVES, load_settings

RECIPES_DIR = Path(__file__).parents[1] / "recipes"


@dataclass(frozen=True)
class Problem:
    """Something wrong with a recipe: the keys involved (dotted) and what to write instead."""

    keys: tuple[str, ...]
    message: str

    def __str__(self) -> str:
        return f"{', '.join(self.keys)}: {self.message}"


def raise_problems(source: str, problems: list[Problem]) -> None:
    """Raise one RecipeError that lists the problems, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise RecipeError(f"recipe {source} has {count}:\n{lines}")


def find_recipe(name: str) -> Path:
    """A recipe's file: a path, or the name of a recipe that comes with the project."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = RECIPES_DIR / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    names = ", ".join(sorted(recipe.stem for recipe in RECIPES_DIR.glob("*.yaml")))
    raise UsageError(f"no recipe {name!r}: neither a file nor one of the recipes that come along ({names})")


def read_settings(path: Path, overrides: list[str]) -> dict[str, Any]:
    """The recipe file's content with the overrides ("section.key=value") put in, not yet checked."""
    try:
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable YAML: {error}") from error
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise RecipeError(f"{path}: expected 'key: value' lines at the top, found {type(settings).__name__}")
    for override in overrides:
        _apply_override(settings, override)
    return settings


def parse_recipe(settings: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """Check types, bounds and key names.

    Returns:
        The recipe and the problems. With problems, the recipe has its defaults in the broken places (so
        that the remaining rules can be checked too), or is None if that is not possible.
    """
    try:
        return Recipe.model_validate(settings), []
    except ValidationError as error:
        problems = _merge(error.errors(), _objective_kind(settings))
        repaired = {"run_dir": "", "corpus": "", **_without(settings, [p.keys[0] for p in problems])}
    try:
        return Recipe.model_validate(repaired), problems
    except ValidationError:
        return None, problems


def parse_value(text: str) -> Any:
    """A value as recipes have it; a yaml.YAMLError if it is none."""
    return yaml.load(text, Loader=_StrictLoader)


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not re.fullmatch(r"[\w+-]+(\.[\w+-]+)*", key):
        raise UsageError(f"--set {override!r}: write it as section.key=value, for example guidance.weight=0")
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(settings.get(parent), dict):
            settings[parent] = {}
        settings = settings[parent]
    try:
        settings[last] = parse_value(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override!r}: the value is not readable YAML: {error}") from error


def _objective_kind(settings: dict[str, Any]) -> str:
    """The kind whose keys the section `objective` has: the default one if it is not legible."""
    section = settings.get("objective")
    kind = section.get("kind") if isinstance(section, dict) else None
    return kind if isinstance(kind, str) and kind in OBJECTIVES else DEFAULT_OBJECTIVE


def _merge(errors: list[ErrorDetails], objective: str) -> list[Problem]:
    """One problem per key: a union reports a failure for each of its members."""
    problems: dict[str, Problem] = {}
    for error in errors:
        location = [part for part in error["loc"] if not (isinstance(part, str) and "[" in part)]
        key = ".".join(str(part) for part in location)
        problems.setdefault(key, Problem((key,), _explain(error, key, objective)))
    return list(problems.values())


def _explain(error: ErrorDetails, key: str, objective: str) -> str:
    if error["type"] == "missing":
        return "is required; add it"
    if error["type"] == "extra_forbidden":
        return "unknown key" + _suggest(key, objective)
    message = error["msg"].replace("Input should be", "should be")
    if error["type"] == "model_type":
        message = "should be a section: keys and values below it"
    return f"found {error['input']!r}, {message}"


def _suggest(key: str, objective: str) -> str:
    """The nearest key of the same section, or of the whole recipe with an objective of this kind."""
    key = re.sub(r"\.\d+(?=\.)", "", key)  # the sections of a list have the same keys
    section, _, name = key.rpartition(".")
    known = list(_known_keys(Recipe, objective))
    if key in known:  # written with its dot, in the file
        return f"; write {name} in the section {section}, indented below '{section}:'"
    # By their own names: what they share, the section's, would make any two of them look alike.
    siblings = {k.rpartition(".")[2]: k for k in known if k.rpartition(".")[0] == section}
    if near := difflib.get_close_matches(name, siblings, n=1, cutoff=0.6):
        return f"; did you mean {siblings[near[0]]}?"
    if elsewhere := [k for k in known if k.rpartition(".")[2] == name]:
        return f"; did you mean {elsewhere[0]}?"
    names = ", ".join(siblings)
    return f"; {section or 'a recipe'} has {names}" if names else ""


def _known_keys(model: type[BaseModel], objective: str, prefix: str = "") -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for section in (field.annotation, *get_args(field.annotation)):
            if isinstance(section, type) and issubclass(section, BaseModel):
                section = load_settings(objective) if section is ObjectiveSection else section
                keys += _known_keys(section, objective, f"{prefix}{name}.")
    return keys


def _without(settings: dict[str, Any], keys: list[str]) -> dict[str, Any]:
    """A copy without the given dotted keys; of a list element, the whole list goes."""
    kept = {}
    for name, value in settings.items():
        inner = [key.partition(".")[2] for key in keys if key.partition(".")[0] == name]
        if not inner:
            kept[name] = value
        elif isinstance(value, dict) and all(inner):
            kept[name] = _without(value, inner)
    return kept


class _StrictLoader(yaml.SafeLoader):
    """YAML as people mean it: 5e-4 is a number, and a key written twice is an error."""


_StrictLoader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            problem = f"{key!r} is not a name; a key is a word before a colon"
            if isinstance(key, int):
                problem += f" (a single layer is the range {key}-{key})"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        if key in mapping:
            raise yaml.MarkedYAMLError(
                problem=f"key {key!r} is written twice", problem_mark=key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
