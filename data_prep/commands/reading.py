"""The sources that a command line names."""

import argparse

from data_prep.errors import UsageError
from data_prep.inputs.fields import check_fields
from data_prep.inputs.sources import Source, plain_source


def read_inputs(arguments: argparse.Namespace) -> list[Source]:
    """The sources of `arguments.add_inputs`, looked at as far as their fields.

    Raises:
        UsageError: Both or neither of INPUT and --mix are given, or an ending is unknown.
        DataError: An input does not exist or lacks the text field.
    """
    if bool(arguments.inputs) == (arguments.mix is not None):
        raise UsageError("name either INPUT files or a --mix file")
    if arguments.mix is None:
        fields = arguments.text_field or ["text"]
        sources = [plain_source(arguments.inputs, fields, arguments.text_documents, arguments.quoting)]
    else:
        if arguments.text_field or arguments.text_documents != "file" or arguments.quoting != "standard":
            raise UsageError("--text-field, --text-documents and --quoting are keys of the --mix file")
        from data_prep.inputs.mixture import read_mixture

        sources = read_mixture(arguments.mix)
    check_fields(sources)
    return sources
