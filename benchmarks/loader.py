"""How fast one process makes training batches from a prepared corpus, and what memory it holds for that.

    python -m benchmarks.loader [CORPUS] [--lengths 128,512] [--rows 32] [--global-batch-size 256]

The code is the one that training runs (CorpusSplit.read, RowBatcher.batch, StepBatches), on one core, without
loader workers. Rows come at random and in the training order; a batch is complete with masks, labels and the
borders of its documents. Tokens are real ones, padding is left out.

    reading   rows out of the mapped shards, with their document borders
    masking   choosing and replacing the tokens to predict
    order     which rows a step takes; per row, so it weighs less in longer rows
    rest      what complete batches take beyond these, mostly fresh memory for a whole step

"cores" is CPU time over time: below 1.00, other programs wanted the core too, and the figures are too low.

Memory is what the kernel says of this process before the corpus is opened and after every row was read and
masked: "private" is anonymous memory, where a copy of the shards would have to be; "mapped" are pages of the
files, which all processes of a machine share and the kernel takes back when it needs them.

Without CORPUS, documentation of the installed libraries is tokenized once per length, and its shards are
copied until they hold --megabytes, in a temporary directory; all takes half a minute. The last line is one
JSON object; its `tokens_per_second` is that of complete batches in the training order, at the slowest length.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.output import tell
from data_prep.format import Manifest, read_manifest
from pipeline.accounting.resident import resident_bytes
from pipeline.build import Corpus
from pipeline.config.schema import Recipe
from pipeline.data.batches import Batch, BatchGeometry, RowBatcher, StepBatches
from pipeline.data.corpus import read_vocabulary
from pipeline.data.draws import RowKeys
from pipeline.data.order import rows_of_step
from pipeline.errors import UserError
from pipeline.runs.run_dir import describe_machine

_SEED = 0
_SAMPLE_BYTES = 4_000_000  # of text; twice what its shards will be
_VOCAB_SIZE = 8192
_MEBIBYTE = 2**20


def prepare(*arguments: object) -> None:
    """Run one of data_prep's commands; what it says is shown only if it fails."""
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    if finished.returncode:
        raise SystemExit(f"{finished.stderr}error: {' '.join(command)} ended with {finished.returncode}")


def make_corpora(directory: Path, lengths: list[int], num_bytes: int) -> list[Corpus]:
    """A corpus of at least `num_bytes` for each row length, below `directory`."""
    documents, tokenizer = directory / "documents.jsonl", directory / "tokenizer"
    prepare("sample", documents, "--max-bytes", _SAMPLE_BYTES)
    prepare("tokenizer", documents, "--out", tokenizer, "--vocab-size", _VOCAB_SIZE)
    corpora = []
    for length in tqdm(lengths, desc="preparing corpora", disable=not sys.stderr.isatty()):
        path = directory / f"rows-of-{length}"
        prepare("shard", documents, "--tokenizer", tokenizer, "--out", path, "--length", length)
        manifest = repeat_shards(path, read_manifest(path), num_bytes)
        corpora.append(Corpus(path, manifest, read_vocabulary(path)))
    return corpora


def repeat_shards(corpus_dir: Path, manifest: Manifest, num_bytes: int) -> Manifest:
    """Copy the training shards, each copy a file of its own, until they hold `num_bytes`."""
    shards = manifest.shards_of("train")
    copies = -(-num_bytes // sum(shard.bytes for shard in shards))
    repeated = [
        shard.model_copy(update={"name": f"copy-{copy:05d}-{shard.name}"})
        for copy in range(copies)
        for shard in shards
    ]
    for index, shard in enumerate(repeated):
        shutil.copy(corpus_dir / shards[index % len(shards)].name, corpus_dir / shard.name)
    return manifest.model_copy(update={"shards": [*repeated, *manifest.shards_of("valid")]})


def private_and_mapped() -> dict[str, int]:
    """This process's resident memory, {"private": anonymous, "mapped": of files}."""
    found = resident_bytes()
    return {"private": found["RssAnon"], "mapped": found["RssFile"]}


def touch_every_row(batcher: RowBatcher, num_rows: int) -> None:
    """Read and mask the whole split, `num_rows` at a time."""
    for start in range(0, batcher.split.num_rows, num_rows):
        batcher.batch(np.arange(start, min(start + num_rows, batcher.split.num_rows)), 0)


@dataclass(frozen=True)
class Trial:
    """The rows of one corpus, and how they are dealt into batches."""

    batcher: RowBatcher
    geometry: BatchGeometry

    def time_step(self, step: int) -> dict[str, float]:
        """Tokens of an optimizer step, and the seconds of each way to read or batch its rows.

        Every way takes rows of its own, or it would find them in the caches of the way before.
        """
        split = self.batcher.split
        size, micro = self.geometry.global_batch_size, self.geometry.micro_batch_size
        dealt = self.geometry.rows_of_rank()
        generator = np.random.default_rng((_SEED, step))
        clock = time.perf_counter
        found: dict[str, float] = {}

        random_rows = generator.integers(0, split.num_rows, (2, size // micro, micro))
        started = clock()
        for rows in random_rows[0]:
            split.read(rows)
        found["random_reading"] = clock() - started
        started = clock()
        random_batches = [self.batcher.batch(rows, 0) for rows in random_rows[1]]
        found["random"] = clock() - started
        found["random_tokens"] = count_tokens(random_batches)

        started = clock()
        batches = StepBatches(self.batcher, self.geometry, _SEED)[2 * step]
        found["complete"] = clock() - started
        found["tokens"] = count_tokens(batches)

        started = clock()
        rows, epochs = rows_of_step(2 * step + 1, size, split.num_rows, _SEED)
        found["order"] = clock() - started
        found["reading"] = found["masking"] = 0.0
        for chosen in dealt:
            started = clock()
            read = split.read(rows[chosen])
            read_at = clock()
            self.batcher.draw(read, RowKeys(self.batcher.seed, epochs[chosen], rows[chosen]))
            found["masking"] += clock() - read_at
            found["reading"] += read_at - started
        return found


def count_tokens(batches: list[Batch]) -> int:
    return sum(int(batch.lengths.sum()) for batch in batches)


def measure_memory(corpus: Corpus, rows: int) -> tuple[RowBatcher, dict[str, Any]]:
    """Open a corpus and touch every row; returns its batcher and what the process's memory grew by."""
    recipe = Recipe(run_dir="", corpus=str(corpus.path), seed=_SEED)
    # Libraries load parts of themselves at their first use: let that be on other rows, the held-out ones.
    touch_every_row(corpus.batcher(recipe, "valid"), rows)
    shard_bytes = sum(
        (corpus.path / shard.name).stat().st_size for shard in corpus.manifest.shards_of("train")
    )
    before = private_and_mapped()
    batcher = corpus.batcher(recipe, "train")
    touch_every_row(batcher, rows)
    after = private_and_mapped()
    return batcher, {
        "shard_bytes": shard_bytes,
        "private_growth_bytes": after["private"] - before["private"],
        "mapped_growth_bytes": after["mapped"] - before["mapped"],
    }


def measure_speed(trial: Trial, rounds: int, seconds: float) -> dict[str, Any]:
    """Median over the rounds of tokens per second, and of each phase's share of complete batches."""
    lines: list[dict[str, float]] = []
    step = 0
    for _ in tqdm(range(rounds), desc="rounds", disable=not sys.stderr.isatty()):
        total: dict[str, float] = {}
        ends, cpu, wall = time.monotonic() + seconds, time.process_time(), time.monotonic()
        while time.monotonic() < ends:
            for name, value in trial.time_step(step).items():
                total[name] = total.get(name, 0.0) + value
            step += 1
        total["cores"] = (time.process_time() - cpu) / (time.monotonic() - wall)
        lines.append(total)

    def median(numerator: str, denominator: str) -> float:
        return statistics.median(line[numerator] / line[denominator] for line in lines)

    shares = {name: median(name, "complete") for name in ("reading", "masking", "order")}
    shares["rest"] = max(0.0, 1.0 - sum(shares.values()))
    return {
        "tokens_per_second": round(median("tokens", "complete")),
        "reading_tokens_per_second": round(median("tokens", "reading")),
        "random_tokens_per_second": round(median("random_tokens", "random")),
        "random_reading_tokens_per_second": round(median("random_tokens", "random_reading")),
        "shares": {name: round(share, 3) for name, share in shares.items()},
        "cores_used": round(max(line["cores"] for line in lines), 2),
    }


def measure(corpus: Corpus, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one corpus."""
    batcher, memory = measure_memory(corpus, arguments.rows)
    geometry = BatchGeometry(
        global_batch_size=arguments.global_batch_size,
        micro_batch_size=arguments.rows,
        world_size=1,
        rank=0,
    )
    speed = measure_speed(Trial(batcher, geometry), arguments.rounds, arguments.seconds)
    return speed | {"corpus_rows": batcher.split.num_rows, "memory": memory}


def print_table(results: dict[int, dict[str, Any]]) -> None:
    print(f"\n{'':<8}{'million tokens per second':^44}  {'share of complete batches':^36}")
    print(f"{'':<8}{'random rows':^22}{'training order':^22}")
    print(
        f"{'length':<8}{'reading':>10}{'complete':>12}{'reading':>10}{'complete':>12}  "
        f"{'reading':>9}{'masking':>9}{'order':>9}{'rest':>9}{'cores':>9}"
    )
    for length, result in results.items():
        reading, complete, ordered_reading, ordered = (
            result[f"{name}tokens_per_second"] / 1e6
            for name in ("random_reading_", "random_", "reading_", "")
        )
        shares = "".join(f"{share:>9.2f}" for share in result["shares"].values())
        print(
            f"{length:<8}{reading:>10.2f}{complete:>12.2f}{ordered_reading:>10.2f}{ordered:>12.2f}  {shares}"
            f"{result['cores_used']:>9.2f}"
        )
    print(f"\n{'length':<8}{'shards MiB':>12}{'private memory, MiB more':>28}{'mapped files, MiB more':>26}")
    for length, result in results.items():
        shards, private, mapped = (value / _MEBIBYTE for value in result["memory"].values())
        print(f"{length:<8}{shards:>12.1f}{private:>28.1f}{mapped:>26.1f}")


def comma_separated(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "corpus",
        nargs="?",
        type=Path,
        help="a directory made by 'python -m data_prep shard'; default: make one for each of --lengths",
    )
    parser.add_argument(
        "--lengths",
        type=comma_separated,
        default=[128, 512],
        metavar="T,T",
        help="tokens per row of the corpora made here (default 128,512)",
    )
    parser.add_argument(
        "--megabytes", type=int, default=64, help="of shards in each corpus made here (default 64)"
    )
    parser.add_argument("--rows", type=int, default=32, help="of a micro-batch (default 32)")
    parser.add_argument("--global-batch-size", type=int, default=256, help="rows of a step (default 256)")
    parser.add_argument("--rounds", type=int, default=7, help="whose median is reported (default 7)")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a round (default 1)")
    parser.add_argument("--out", type=Path, help="also write the JSON to this file")
    arguments = parser.parse_args()
    if not Path("/proc/self/status").is_file():
        parser.error("memory is read from /proc/self/status, which this system does not have")
    if min(arguments.megabytes, arguments.rows, arguments.rounds, arguments.global_batch_size) < 1:
        parser.error("--megabytes, --rows, --rounds and --global-batch-size must be at least 1")
    if arguments.global_batch_size % arguments.rows:
        parser.error(
            f"--global-batch-size {arguments.global_batch_size} must be a multiple of --rows {arguments.rows}"
        )
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="lodestar-loader-") as directory:
        try:
            if arguments.corpus is None:
                num_bytes = arguments.megabytes * 1_000_000
                corpora = make_corpora(Path(directory), arguments.lengths, num_bytes)
            else:
                corpora = [Corpus.open(str(arguments.corpus))]
            results = {corpus.manifest.sequence_length: measure(corpus, arguments) for corpus in corpora}
        except UserError as error:
            parser.exit(error.exit_code, f"error: {error}\n")
    print_table(results)
    slowest = min(results, key=lambda length: results[length]["tokens_per_second"])
    document = {
        "benchmark": "loader",
        "device": "cpu",
        "length": slowest,
        "rows": arguments.rows,
        "global_batch_size": arguments.global_batch_size,
        **results[slowest],
        "by_length": results,
        "machine": describe_machine(),
    }
    tell(document, arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
