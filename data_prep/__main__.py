"""`python -m data_prep COMMAND`: runs a command and turns its outcome into an exit code."""

import argparse
import os
import shlex
import sys
import traceback
from collections.abc import Iterator

from data_prep.arguments import build_parser
from data_prep.errors import EXIT_DONE, EXIT_FILES, EXIT_INTERNAL, EXIT_INTERRUPTED, UserError

# A command's modules are imported by the command: --help and mistakes answer at once.


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit code; the one place where errors become messages."""
    argv = sys.argv[1:] if argv is None else argv
    arguments = build_parser().parse_args(argv)
    try:
        _COMMANDS[arguments.command](arguments, shlex.join(["python", "-m", "data_prep", *argv]))
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not flush it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FILES
    except Exception:
        traceback.print_exc()
        return EXIT_INTERNAL
    return EXIT_DONE


def _sample(arguments: argparse.Namespace, command: str) -> None:
    from data_prep.sample import write_sample

    num_documents, num_bytes = write_sample(arguments.out, arguments.max_bytes)
    print(f"{arguments.out}: {num_documents:,} documents, {num_bytes / 1e6:.1f} MB")


def _tokenizer(arguments: argparse.Namespace, command: str) -> None:
    from data_prep.documents import find_inputs, read_documents
    from data_prep.progress import progress_bar
    from data_prep.tokenizer import TokenizerOptions, check_tokenizer_out, save_tokenizer, train_tokenizer

    check_tokenizer_out(arguments.out)
    paths = find_inputs(arguments.inputs)
    total_bytes = sum(path.stat().st_size for path in paths)

    def texts() -> Iterator[str]:
        finished_bytes = 0
        with progress_bar("read", total_bytes, "B") as bar:
            for path in paths:
                for text, position in read_documents(path, arguments.text_field, arguments.text_documents):
                    bar.update(finished_bytes + position - bar.n)
                    yield text
                finished_bytes += path.stat().st_size
                bar.update(finished_bytes - bar.n)

    options = TokenizerOptions(
        kind=arguments.kind,
        vocab_size=arguments.vocab_size,
        min_frequency=arguments.min_frequency,
        lowercase=arguments.lowercase,
    )
    tokenizer = train_tokenizer(texts, options)
    save_tokenizer(tokenizer, arguments.kind, arguments.out, arguments.overwrite)
    num_entries = tokenizer.get_vocab_size()
    print(f"{arguments.out}: {arguments.kind} tokenizer with {num_entries:,} entries")
    if num_entries < arguments.vocab_size:
        print(
            f"warning: {arguments.vocab_size:,} were asked for; the text has no more pairs seen at least "
            f"{arguments.min_frequency} times",
            file=sys.stderr,
        )


def _shard(arguments: argparse.Namespace, command: str) -> None:
    from data_prep.parallel import available_cores
    from data_prep.shard import ShardOptions, shard_corpus

    options = ShardOptions(
        length=arguments.length,
        valid_fraction=arguments.valid_fraction,
        text_field=arguments.text_field,
        text_documents=arguments.text_documents,
        shard_rows=arguments.shard_rows,
        keep_duplicates=arguments.keep_duplicates,
        min_chars=arguments.min_chars,
    )
    workers = arguments.workers or available_cores()
    shard_corpus(arguments.inputs, arguments.tokenizer, arguments.out, options, workers, command)


def _inspect(arguments: argparse.Namespace, command: str) -> None:
    from data_prep.inspect import inspect_corpus

    inspect_corpus(arguments.corpus, arguments.rows, arguments.seed)


def _verify(arguments: argparse.Namespace, command: str) -> None:
    from data_prep.verify import verify_corpus

    verify_corpus(arguments.corpus)


_COMMANDS = {
    "sample": _sample,
    "tokenizer": _tokenizer,
    "shard": _shard,
    "inspect": _inspect,
    "verify": _verify,
}

if __name__ == "__main__":
    sys.exit(main())
