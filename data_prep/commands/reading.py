"""The sources that a command line names."""

import argparse
import sys
from pathlib import Path

from data_prep.errors import UsageError
from data_prep.inputs.fields import check_fields
from data_prep.inputs.guesses import guessed_encodings
from data_prep.inputs.passed_over import PassedOver, listed_names, seem_no_documents
from data_prep.inputs.sources import Source, find_files, plain_source

# Options that a mixture gives for each of its sources, with their defaults.
_OPTIONS_OF_A_SOURCE = {
    "text_field": None,
    "text_documents": "file",
    "quoting": "standard",
    "encoding": "utf-8",
}


def read_inputs(arguments: argparse.Namespace) -> list[Source]:
    """The sources of `arguments.add_inputs`, looked at as far as their fields; tells what is not read.

    Raises:
        UsageError: Both or neither of INPUT and --mix are given, or an ending is unknown.
        DataError: An input does not exist or lacks the text field.
    """
    if bool(arguments.inputs) == (arguments.mix is not None):
        raise UsageError("name either INPUT files or a --mix file")
    passed_over = PassedOver()
    sources = _sources(arguments, passed_over)
    for line in passed_over.told():
        print(f"warning: {line}", file=sys.stderr)
    for source in sources:
        _tell_what_is_guessed(source)
    check_fields(sources)
    return sources


def _sources(arguments: argparse.Namespace, passed_over: PassedOver) -> list[Source]:
    if arguments.mix is None:
        return [
            plain_source(
                find_files(arguments.inputs, passed_over),
                arguments.text_field or ["text"],
                arguments.text_documents,
                arguments.quoting,
                arguments.encoding,
            )
        ]
    for name, default in _OPTIONS_OF_A_SOURCE.items():
        if getattr(arguments, name) != default:
            raise UsageError(f"--{name.replace('_', '-')} is a key of the --mix file: {name}")
    from data_prep.inputs.mixture import read_mixture

    return read_mixture(arguments.mix, passed_over)


def _tell_what_is_guessed(source: Source) -> None:
    """Names that may be no documents', and encodings that may be others."""
    if strange := seem_no_documents(source.files):
        _note(strange, "read as documents; move away what is none")
    for encoding, files in guessed_encodings(source).items():
        _note(files, f"read as {encoding}, judging by the beginning; if it is another one, name it")


def _note(files: list[Path], told: str) -> None:
    print(f"note: {listed_names(files)}: {told}", file=sys.stderr)
