import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from pipeline.errors import DataError
from pipeline.evaluation.fine_tuning.glue_data import DATA_SETS, pearson, present, read_splits, spearman

BY_NAME = {data_set.name: data_set for data_set in DATA_SETS}
# A row of each data set as it is distributed, its texts and its label's number.
OFFICIAL = {
    "CoLA": ("", 'gj04\t0\t*\tThe "box.', ['The "box.'], 0),
    "SST-2": ("sentence\tlabel", "a charming journey . \t1", ["a charming journey . "], 1),
    "MRPC": ("\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", '1\t10\t11\tHe said " no\tNo', None, 1),
    "STS-B": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tMSRvid\t2012test\t0001\tnone\tnone\tA plane.\tA jet.\t3.800",
        ["A plane.", "A jet."],
        3.8,
    ),
    "QQP": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "7\t1\t2\tWho?\tWhat?\t0", None, 0),
    "QNLI": ("index\tquestion\tsentence\tlabel", "0\tWho?\tHe.\tnot_entailment", ["Who?", "He."], 1),
    "RTE": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\tentailment", None, 0),
    "WNLI": ("index\tsentence1\tsentence2\tlabel", "0\tIt rains.\tIt is wet.\t1", None, 1),
}


def write(directory, name, header, rows, file="dev.tsv"):
    (directory / name).mkdir(exist_ok=True)
    for split in ("train.tsv", file):
        text = "".join(f"{line}\n" for line in [header, *rows] if line)
        (directory / name / split).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_rows_are_read_as_they_are_distributed(tmp_path, name):
    header, row, texts, label = OFFICIAL[name]
    write(tmp_path, name, header, [row, row, row])
    assert present(tmp_path) == [BY_NAME[name]]
    splits = read_splits(tmp_path, BY_NAME[name], limit=2)
    assert list(splits.dev) == [""]
    for split in (splits.train, splits.dev[""]):
        assert split.labels == [label] * 2
        assert texts is None or split.texts == [texts] * 2
    assert len(read_splits(tmp_path, BY_NAME[name], limit=None).train.labels) == 3


def test_pairs_are_of_the_two_columns_and_no_others(tmp_path):
    header, row, _, _ = OFFICIAL["MRPC"]
    write(tmp_path, "MRPC", header, [row])
    assert read_splits(tmp_path, BY_NAME["MRPC"], None).train.texts == [['He said " no', "No"]]


def test_mnli_has_two_development_sets(tmp_path):
    header = "index\tpromptID\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label"
    rows = [f"0\t1\t(x)\tIt rains.\tIt is wet.\tneutral\t{label}" for label in ("neutral", "contradiction")]
    write(tmp_path, "MNLI", header, rows, file="dev_matched.tsv")
    with pytest.raises(DataError, match=r"MNLI: no dev_mismatched\.tsv"):
        read_splits(tmp_path, BY_NAME["MNLI"], None)
    write(tmp_path, "MNLI", header, rows[1:], file="dev_mismatched.tsv")
    splits = read_splits(tmp_path, BY_NAME["MNLI"], None)
    assert {word: dev.labels for word, dev in splits.dev.items()} == {"matched": [2, 0], "mismatched": [0]}


def test_only_qqp_passes_over_broken_rows(tmp_path):
    header, row, _, _ = OFFICIAL["QQP"]
    write(tmp_path, "QQP", header, [row, "8\t1\t2\tbroken", row])
    assert read_splits(tmp_path, BY_NAME["QQP"], None).train.labels == [0, 0]
    header, row, _, _ = OFFICIAL["RTE"]
    write(tmp_path, "RTE", header, [row, "8\t1"])
    with pytest.raises(DataError, match=r"RTE/train\.tsv, line 3: 2 fields; expected 4"):
        read_splits(tmp_path, BY_NAME["RTE"], None)


@pytest.mark.parametrize(
    ("name", "header", "row", "message"),
    [
        ("SST-2", "sentence\tlabel", "x\t2", r"SST-2/train\.tsv, line 2: label is '2'; expected 0 or 1"),
        ("RTE", None, "0\ta\tb\t1", r"line 2: label is '1'; expected entailment or not_entailment"),
        ("CoLA", "", "s\tgood\t\tx", r"CoLA/train\.tsv, line 1: label is 'good'; expected 0 or 1"),
        (
            "WNLI",
            "index\tsentence1\tlabel",
            "0\ta\t1",
            "no column 'sentence2'; it has index, sentence1, label",
        ),
        ("STS-B", None, "\t" * 9 + "5.1", r"line 2: score is '5\.1'; expected a number from 0 to 5"),
        ("STS-B", None, "\t" * 9 + "nan", "line 2: score is 'nan'"),
        ("STS-B", None, "\t" * 9 + "high", "line 2: score is 'high'"),
        ("SST-2", "sentence\tlabel", "", r"train\.tsv: no example; expected rows with sentence, label"),
    ],
)
def test_mistakes_name_file_line_found_and_expected(tmp_path, name, header, row, message):
    write(tmp_path, name, OFFICIAL[name][0] if header is None else header, [row])
    with pytest.raises(DataError, match=message):
        read_splits(tmp_path, BY_NAME[name], None)


def test_a_directory_without_data_sets_is_told_what_belongs_there(tmp_path):
    (tmp_path / "sst2").mkdir()
    with pytest.raises(DataError, match=r"holds no GLUE data set; .* one or more of CoLA, SST-2"):
        present(tmp_path)


def test_correlations_are_scipys_and_zero_where_nothing_varies():
    true, predicted = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.5, 0.4, 3.0, 3.5])
    assert pearson(true, predicted) == pytest.approx(pearsonr(true, predicted).statistic)
    assert spearman(true, predicted) == pytest.approx(spearmanr(true, predicted).statistic)
    assert spearman(true, predicted) == pytest.approx(0.8)
    assert pearson(true, np.full(4, 2.5)) == spearman(np.full(4, 2.5), predicted) == 0.0


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        # Of four examples: one true positive, one false positive, one false negative, one true negative.
        ("MRPC", "f1", 0.5),
        ("MRPC", "accuracy", 0.5),
        ("CoLA", "matthews", 0.0),
        ("SST-2", "accuracy", 0.5),
    ],
)
def test_metrics_have_their_values_by_hand(name, metric, expected):
    measure = BY_NAME[name].metrics[metric]
    assert measure(np.array([1, 0, 1, 0]), np.array([1, 1, 0, 0])) == pytest.approx(expected)


def test_matthews_of_a_lopsided_table():
    # 2 true positives, 1 false positive, 0 false negatives, 1 true negative: 2 / sqrt(3 * 2 * 2 * 1).
    matthews = BY_NAME["CoLA"].metrics["matthews"]
    assert matthews(np.array([1, 1, 0, 0]), np.array([1, 1, 1, 0])) == pytest.approx(2 / 12**0.5)
