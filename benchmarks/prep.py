"""How fast corpora are prepared, against what a user would run instead.

    python -m benchmarks.prep             # on the documentation of the installed libraries, see --megabytes
    python -m benchmarks.prep wiki.jsonl  # on texts of your own, JSON lines with the field "text"

The same text and the same byte-level BPE tokenizer go through, each as a command of its own, timed from its
start to its end, with as many processes:

    ours            data_prep shard: read, clean, filter, deduplicate, tokenize, shuffle, pack, write
    ours, fast      the same with the gigatoken backend, if it is installed
    bare            nothing but encode_batch_fast in single-threaded processes; the tokens are thrown away
    datasets        load_dataset, map with the tokenizer, map with group_texts, save_to_disk, as in the
                    masked-language-modelling example of Hugging Face transformers

They take turns for --rounds rounds; the ratios are medians over the rounds.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from importlib import metadata
from importlib.util import find_spec
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psutil

from benchmarks.output import tell
from data_prep.format import read_manifest
from data_prep.parallel import available_cores

_LENGTH = 512
_VOCAB_SIZE = 32_768
_BATCH = 200  # its best: with 1,000 documents at once it is a quarter slower
_POLL_SECONDS = 0.05


class Timing(NamedTuple):
    seconds: float
    peak_worker_mb: float


def timed(command: list[str]) -> Timing:
    """Run a command; its wall time, and the largest memory of any process it started."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = [0.0]
    watcher = threading.Thread(target=_watch, args=(process.pid, peak), daemon=True)
    watcher.start()
    output, _ = process.communicate()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} ended with {process.returncode}:\n{output}")
    watcher.join()
    return Timing(seconds, peak[0])


def _watch(pid: int, peak: list[float]) -> None:
    try:
        process = psutil.Process(pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            for child in process.children(recursive=True):
                try:
                    peak[0] = max(peak[0], child.memory_info().rss / 2**20)
                except psutil.NoSuchProcess:
                    continue
            time.sleep(_POLL_SECONDS)
    except psutil.NoSuchProcess:
        return


def write_documents(sample: Path, out: Path, megabytes: int) -> None:
    """Deal the sample's paragraphs to new documents, again and again, up to a size: none is a duplicate."""
    documents = [json.loads(line)["text"].split("\n\n") for line in sample.open(encoding="utf-8")]
    paragraphs = [paragraph for document in documents for paragraph in document]
    generator = random.Random(0)
    with out.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 1_000_000:
            generator.shuffle(paragraphs)
            dealt = iter(paragraphs)
            for document in documents:
                text = "\n\n".join(islice(dealt, len(document)))
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def run_bare(text: Path, tokenizer_dir: Path, workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    size = text.stat().st_size
    borders = [size * index // workers for index in range(workers + 1)]
    shares = [(text, tokenizer_dir, start, end) for start, end in pairwise(borders)]
    with context.Pool(workers) as pool:
        pool.starmap(_encode_share, shares)


def _encode_share(text: Path, tokenizer_dir: Path, start: int, end: int) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    batch: list[str] = []
    with text.open("rb") as file:
        file.seek(max(start - 1, 0))
        if start:
            file.readline()
        while file.tell() < end and (line := file.readline()):
            batch.append(json.loads(line)["text"])
            if len(batch) == _BATCH:
                tokenizer.encode_batch_fast(batch, add_special_tokens=False)
                batch = []
    tokenizer.encode_batch_fast(batch, add_special_tokens=False)


def run_datasets(text: Path, tokenizer_dir: Path, workers: int, out: Path) -> None:
    from itertools import chain

    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_dir))

    def tokenize(examples: dict) -> dict:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict) -> dict:
        joined = {name: list(chain(*examples[name])) for name in examples}
        total = len(joined["input_ids"]) // _LENGTH * _LENGTH
        return {
            name: [tokens[start : start + _LENGTH] for start in range(0, total, _LENGTH)]
            for name, tokens in joined.items()
        }

    raw = datasets.load_dataset("json", data_files=str(text), split="train", cache_dir=str(out / "cache"))
    tokenized = raw.map(tokenize, batched=True, num_proc=workers, remove_columns=raw.column_names)
    tokenized.map(group_texts, batched=True, num_proc=workers).save_to_disk(str(out / "grouped"))


def main() -> None:
    arguments = parse_arguments()
    if arguments.role:
        text, tokenizer, out = (Path(path) for path in arguments.role[1:])
        if arguments.role[0] == "bare":
            run_bare(text, tokenizer, arguments.workers)
        else:
            run_datasets(text, tokenizer, arguments.workers, out)
        return
    with TemporaryDirectory(dir=arguments.work, prefix="bench-prep-") as folder:
        measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    prepare = [sys.executable, "-m", "data_prep"]
    text, tokenizer = arguments.text, folder / "tokenizer"
    if text is None:
        subprocess.run([*prepare, "sample", str(folder / "sample.jsonl")], check=True)
        text = folder / "docs.jsonl"
        write_documents(folder / "sample.jsonl", text, arguments.megabytes)
    train = [*prepare, "tokenizer", str(text), "--out", str(tokenizer), "--vocab-size", str(_VOCAB_SIZE)]
    subprocess.run(train, check=True)
    workers = ["--workers", str(arguments.workers)]
    out = folder / "out"

    def ours(backend: str) -> Timing:
        shutil.rmtree(out, ignore_errors=True)
        options = ["--tokenizer", str(tokenizer), "--out", str(out), "--length", str(_LENGTH)]
        return timed([*prepare, "shard", str(text), *options, "--backend", backend, *workers])

    def other(role: str) -> Timing:
        shutil.rmtree(out, ignore_errors=True)
        role_arguments = ["--role", role, str(text), str(tokenizer), str(out)]
        return timed([sys.executable, "-m", "benchmarks.prep", *role_arguments, *workers])

    timings: dict[str, list[Timing]] = {}
    fast = find_spec("gigatoken") is not None
    for number in range(arguments.rounds):
        timings.setdefault("bare", []).append(other("bare"))
        timings.setdefault("ours", []).append(ours("huggingface"))
        if fast:
            timings.setdefault("ours, fast", []).append(ours("gigatoken"))
        timings.setdefault("datasets", []).append(other("datasets"))
        print(f"round {number + 1} of {arguments.rounds} done", file=sys.stderr)
    ours("huggingface")  # once more, for its manifest
    report(arguments, text, timings, read_manifest(out).splits["train"].tokens)


def report(arguments: argparse.Namespace, text: Path, timings: dict[str, list[Timing]], tokens: int) -> None:
    megabytes = text.stat().st_size / 1e6
    print(f"{megabytes:.1f} MB of text, {tokens:,} tokens, {arguments.workers} processes, rows of {_LENGTH}")
    print(f"  {'':12}{'seconds':>9}{'MB/s':>8}{'tokens/s':>12}{'peak MB per process':>21}")
    for name, runs in timings.items():
        seconds = median(run.seconds for run in runs)
        peak = max(run.peak_worker_mb for run in runs)
        print(f"  {name:12}{seconds:9.1f}{megabytes / seconds:8.1f}{tokens / seconds:12,.0f}{peak:21.0f}")

    def ratio(other: str, ours: str) -> float | None:
        """How many times as fast as the other ours is; the runs of a round are compared with each other."""
        if ours not in timings:
            return None
        return round(median(b.seconds / a.seconds for b, a in zip(timings[other], timings[ours])), 3)

    # Imports torch, which the processes that are timed have no use for.
    from pipeline.runs.run_dir import describe_machine

    result = {
        "vs_encode_batch": ratio("bare", "ours"),
        "vs_datasets_map": ratio("datasets", "ours"),
        "vs_datasets_map_fast": ratio("datasets", "ours, fast"),
        "peak_worker_mb": round(max(run.peak_worker_mb for run in timings["ours"])),
        "tokens_per_second": {
            name: round(tokens / median(run.seconds for run in runs)) for name, runs in timings.items()
        },
        "text_mb": round(megabytes, 1),
        "workers": arguments.workers,
        "machine": describe_machine(),
        "versions": {
            name: metadata.version(name) for name in ("tokenizers", "datasets", "transformers", "pyarrow")
        },
    }
    tell(result, arguments.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "text", type=Path, nargs="?", help='JSON lines with the field "text" (default: sample)'
    )
    parser.add_argument("--megabytes", type=int, default=96, help="of text made of the sample (default: 96)")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--work", type=Path, help="where temporary files go (default: the system's folder)")
    parser.add_argument("--out", type=Path, help="also write the last line to this file")
    parser.add_argument("--role", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
