"""A mixture: a YAML file that names several sources and how often each is seen."""

import difflib
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from data_prep.errors import DataError, UserError
from data_prep.inputs.encodings import text_encoding
from data_prep.inputs.passed_over import PassedOver
from data_prep.inputs.sources import Quoting, Source, TextDocuments, find_files, identity

_EXAMPLE = "- {name: books, inputs: [corpora/books], repeat: 2}"

Name = Annotated[str, Field(min_length=1)]
Names = Name | Annotated[list[Name], Field(min_length=1)]


class _Entry(BaseModel):
    """One source as it is written in a mixture."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    name: Name
    inputs: Names
    text_field: Names = "text"
    text_documents: TextDocuments = "file"
    quoting: Quoting = "standard"
    encoding: Annotated[str, AfterValidator(text_encoding)] = "utf-8"
    repeat: Annotated[float, Field(gt=0, le=1000)] = 1.0


def read_mixture(path: Path, passed_over: PassedOver | None = None) -> list[Source]:
    """The sources of a mixture: a YAML list, or one under the key 'sources', of entries like

        name: books                   # required, each only once
        inputs: [corpora/books]       # required; as on the command line
        text_field: [title, body]     # default: text
        text_documents: block         # default: file
        quoting: none                 # default: standard
        encoding: utf-16              # default: utf-8
        repeat: 2.0                   # default: 1

    Args:
        path: The YAML file.
        passed_over: As in `find_files`.

    Raises:
        DataError: Tells all problems at once, each with its entry and key.
    """
    entries = _entries(path)
    problems: list[str] = []
    sources: list[Source] = []
    name_of_file: dict[str, str] = {}
    names: set[str] = set()
    for number, value in enumerate(entries, start=1):
        label = _label(number, value)
        try:
            entry = _Entry.model_validate(value)
        except ValidationError as error:
            problems += [f"{label}: {problem}" for problem in _explain_all(error)]
            continue
        if entry.name in names:
            problems.append(f"{label}: name: another entry has this name; give each its own")
        names.add(entry.name)
        try:
            files = find_files(_as_list(entry.inputs), passed_over)
        except UserError as error:
            problems.append(f"{label}: inputs: {error}")
            continue
        shared = {str(file): name_of_file.get(identity(file)) for file in files}
        problems += [
            f"{label}: inputs: {file} is also in entry {name!r}; use repeat to see it more often"
            for file, name in shared.items()
            if name is not None
        ][:3]
        name_of_file |= {identity(file): entry.name for file in files}
        fields = tuple(dict.fromkeys(_as_list(entry.text_field)))
        sources.append(
            Source(
                name=entry.name,
                files=tuple(files),
                text_fields=fields,
                text_documents=entry.text_documents,
                repeat=float(entry.repeat),
                quoting=entry.quoting,
                encoding=entry.encoding,
            )
        )
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError(
            f"mixture {path} has {count}:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
    return sources


def _entries(path: Path) -> list[Any]:
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"mixture {path} is not readable YAML: {error}") from error
    except RecursionError as error:
        raise DataError(f"mixture {path} is not readable YAML: nested too deeply") from error
    except OSError as error:
        raise DataError(f"mixture {path}: cannot be read: {error.strerror}") from error
    if isinstance(value, dict) and list(value) == ["sources"]:
        value = value["sources"]
    if not isinstance(value, list) or not value:
        found = "nothing" if not value else f"a {type(value).__name__}"
        if isinstance(value, dict):
            found = f"the keys {', '.join(map(str, value))}"
        raise DataError(f"mixture {path}: expected a list of sources, like '{_EXAMPLE}'; found {found}")
    return value


def _label(number: int, value: Any) -> str:
    name = value.get("name") if isinstance(value, dict) else None
    return f"entry {number} ({name})" if isinstance(name, str) and name else f"entry {number}"


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _explain_all(error: ValidationError) -> list[str]:
    """One line per key: a union reports a failure for each of its members."""
    lines: dict[str, str] = {}
    for details in error.errors():
        key = str(details["loc"][0]) if details["loc"] else ""
        lines.setdefault(key, _explain(details, key))
    return list(lines.values())


def _explain(error: ErrorDetails, key: str) -> str:
    if error["type"] == "missing":
        return f"{key}: is required; add it"
    if error["type"] == "extra_forbidden":
        known = list(_Entry.model_fields)
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"an entry has {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if not key:
        return f"found {error['input']!r}, should be keys and values, like '{_EXAMPLE}'"
    if key in ("inputs", "text_field"):
        return f"{key}: found {error['input']!r}, should be a text or a list of texts, none of them empty"
    if key == "encoding" and error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}"
    return f"{key}: found {error['input']!r}, {error['msg'].replace('Input should be', 'should be')}"


class _StrictLoader(yaml.SafeLoader):
    """A key written twice is an error, rather than the last one winning in silence."""


def _construct_mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    mapping = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in mapping:
            problem = f"key {key!r} is written twice" if isinstance(key, str) else f"{key!r} is not a name"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key_node.start_mark)
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


_StrictLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
