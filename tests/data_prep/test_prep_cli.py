"""The command line as a batch system sees it: exit codes, stderr, no torch."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import data_prep.__main__ as cli
from data_prep.parallel import available_cores

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize("command", ["sample", "tokenizer", "shard", "merge", "repack", "inspect", "verify"])
def test_help_teaches_by_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"python -m data_prep {command} corpora" in capsys.readouterr().out.replace("'", "")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["shrad"], "invalid choice: 'shrad'"),
        (["shard", "a.txt"], "the following arguments are required: --tokenizer, --out, --length"),
        (["shard", "a", "--packing", "tight"], "invalid choice: 'tight'"),
        (["shard", "a", "--max-symbols", "2"], "'2' is not a number from 0 to 1"),
        (
            ["shard", "a", "--tokenizer", "t", "--out", "o", "--length", "7"],
            "'7' is not a whole number from 8 to",
        ),
        (["shard", "a", "--tokenizer", "t", "--out", "o", "--length", "65536"], "from 8 to 65535"),
        (["shard", "a", "--valid-fraction", "1"], "'1' is not a number from 0 to below 1"),
        (["shard", "a", "--valid-fraction", "nan"], "'nan' is not a number from 0"),
        (["shard", "a", "--workers", "0"], "'0' is not a whole number of 1 or more"),
        (["tokenizer", "a", "--encoding", "base64"], "'base64' is not the encoding of a text file"),
        (["shard", "a", "--encoding", "latin-99"], "such as utf-8, cp1252, utf-16-le or shift_jis, or auto"),
        (["sample", "a", "--max-bytes", "x"], "'x' is not a whole number"),
        (["tokenizer", "a", "--out", "o", "--kind", "unigram"], "invalid choice: 'unigram'"),
    ],
)
def test_a_wrong_command_line_exits_64(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 64
    error = capsys.readouterr().err
    assert told in error
    assert "--help" in error


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (
            OSError(28, "No space left on device", "x.arrow"),
            74,
            "error: [Errno 28] No space left on device: 'x.arrow'; make room\n",
        ),
        (RuntimeError("a defect"), 70, "RuntimeError: a defect"),
    ],
)
def test_exit_codes_of_what_goes_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    raised: BaseException,
    code: int,
    told: str,
) -> None:
    def go_wrong(arguments: object, command: str) -> None:
        raise raised

    monkeypatch.setattr(cli.verify, "run", go_wrong)
    assert cli.main(["verify", "x"]) == code
    error = capsys.readouterr().err
    assert told in error
    assert ("Traceback" in error) == (code == 70)


def test_a_users_mistake_is_one_line_on_stderr(run_cli: Run, tmp_path: Path) -> None:
    result = run_cli("verify", str(tmp_path))
    assert result.returncode == 65
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: corpus {tmp_path} has no manifest.json")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("place", ["input", "pattern", "list", "out", "tokenizer"])
def test_an_argument_that_is_not_utf8(
    run_cli: Run, documents_file: Path, tokenizer_dir: Path, tmp_path: Path, place: str
) -> None:
    names = {"input": str(documents_file), "tokenizer": str(tokenizer_dir), "out": str(tmp_path / "out")}
    wrong = str(tmp_path / "caf\udce9")
    key, value = {"pattern": ("input", f"{wrong}*"), "list": ("input", f"@{wrong}")}.get(
        place, (place, wrong)
    )
    names[key] = value
    options = ["--tokenizer", names["tokenizer"], "--out", names["out"], "--length", "64"]
    result = run_cli("shard", names["input"], *options)
    assert (result.returncode, result.stdout) == (64, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert "caf\\xe9" in line
    assert "not UTF-8" in line
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_is_not_utf8(run_cli: Run, tokenizer_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "caf\udce9.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "mix.yaml").write_text(f"- {{name: a, inputs: {tmp_path / 'in'}}}\n")
    out = tmp_path / "out"
    options = ["--tokenizer", str(tokenizer_dir), "--out", str(out), "--length", "64"]
    for inputs in ([str(tmp_path / "in")], ["--mix", str(tmp_path / "mix.yaml")]):
        result = run_cli("shard", *inputs, *options)
        assert result.returncode == 65
        assert "in/caf\\xe9.jsonl: the name is not UTF-8" in result.stderr
        assert "Traceback" not in result.stderr
        assert not out.exists()


def test_what_a_directory_holds_besides_is_told(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, mixture = tmp_path / "in", tmp_path / "mix.yaml"
    folder.mkdir()
    for name in ("a.txt", "labels.txt", "wiki_00"):
        (folder / name).write_text("karo miten\n" * 50)
    (folder / "b.txt").write_text(
        "\u65e5\u672c\u8a9e\u306e\u6587\u3067\u3059\u3002 karo\n" * 20, encoding="shift_jis"
    )
    mixture.write_text(f"- {{name: a, inputs: {folder}, encoding: auto}}\n")
    shard = ["--tokenizer", str(tokenizer_dir), "--length", "64", "--workers", "1", "--valid-fraction", "0"]
    shard += ["--max-repetition", "1"]
    tokenizer = ["tokenizer", "--out", str(tmp_path / "tok"), "--vocab-size", "300"]
    for command in (
        ["shard", str(folder), "--encoding", "auto", "--out", str(tmp_path / "1"), *shard],
        ["shard", "--mix", str(mixture), "--out", str(tmp_path / "2"), *shard],
        [*tokenizer, "--mix", str(mixture)],
    ):
        assert cli.main(command) == 0
        told = capsys.readouterr().err
        assert f"warning: not read: 1 file of {folder}, because the endings are unknown: wiki_00;" in told
        assert f"note: {folder / 'labels.txt'}: read as documents; move away what is none\n" in told
        assert f"note: {folder / 'b.txt'}: read as cp932, judging by the beginning;" in told
    assert cli.main([*tokenizer, "--mix", str(mixture), "--encoding", "cp1252"]) == 64
    assert "--encoding is a key of the --mix file: encoding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("signal_number", "code", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "stopped by SIGTERM")],
)
def test_a_signal_stops_everything_at_once(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: Callable[..., list[str]],
    repository: Path,
    signal_number: signal.Signals,
    code: int,
    told: str,
) -> None:
    """A terminal sends SIGINT to the whole process group, workers included; a batch system SIGTERM."""
    long_file = tmp_path / "long.jsonl"
    long_file.write_bytes(documents_file.read_bytes() * 80)  # many seconds of work
    arguments = shard_command(
        long_file, tokenizer_dir, tmp_path / "out", "--keep-duplicates", "--workers", "2"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "data_prep", *arguments],
        cwd=repository,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Under nohup or in the background of a script, SIGINT is ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not any((tmp_path / "out").glob(".work/parts/*.part")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal_number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert error == f"{told}; what is finished is kept, and the same command goes on\n"
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_closed_pipe_is_no_error(made_corpus: Path, repository: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "data_prep", "inspect", str(made_corpus), "--sample", "2000"],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 0


def test_torch_is_never_imported(
    documents_file: Path,
    tokenizer_dir: Path,
    tmp_path: Path,
    shard_command: Callable[..., list[str]],
    repository: Path,
) -> None:
    """Preparation runs on nodes without it, and in as many processes as there are cores."""
    arguments = shard_command(documents_file, tokenizer_dir, tmp_path / "out", "--workers", "1")
    script = (
        "import sys\n"
        "from data_prep.__main__ import main\n"
        "if __name__ == '__main__':\n"
        f"    assert main({arguments!r}) == 0\n"
        f"    assert main(['verify', {str(tmp_path / 'out')!r}]) == 0\n"
        f"    assert main(['inspect', {str(tmp_path / 'out')!r}]) == 0\n"
        f"    assert main(['tokenizer', {str(documents_file)!r}, '--out', {str(tmp_path / 't')!r}, "
        "'--vocab-size', '300']) == 0\n"
        "    import data_prep.sample\n"
        "    print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])\n"
    )
    path = tmp_path / "script.py"
    path.write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    result = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("[]\n")


def test_available_cores_respects_affinity() -> None:
    assert available_cores() == len(os.sched_getaffinity(0))
