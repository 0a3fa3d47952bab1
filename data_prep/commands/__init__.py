"""The command lines: a file per command, with its arguments and what it does with them.

A command's other modules are imported when it runs: --help and mistakes answer at once.
"""
