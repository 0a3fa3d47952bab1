"""What a study comes to: study_results.json, table.md and figures, from its run directories."""

from pathlib import Path

from data_prep.files import write_atomically
from pipeline.study.figures import draw_study
from pipeline.study.grid import Grid
from pipeline.study.measure import HELD_OUT_LOSS, Measure
from pipeline.study.results import ScoreOf, StudyResults, gather_results, write_results
from pipeline.study.table import render_study


def write_study(
    study_dir: Path,
    grid: Grid,
    unigram_loss: float | None = None,
    measure: Measure = HELD_OUT_LOSS,
    score_of: ScoreOf | None = None,
) -> StudyResults:
    """Gather STUDY/runs, as far as they are, and write the results beside them.

    Args:
        study_dir: with runs/<cell>/seed-<n>/ in it.
        grid: of the study.
        unigram_loss: held-out, of the corpus that all cells share; None if unknown or if they do not.
        measure: what runs are compared by.
        score_of: the value of a finished run, for a measure that is a task's; see `score_run`.

    Raises:
        DataError: there is no run, or the recipe of one is damaged.
        UsageError: runs do not have the measure's figure.
    """
    results = gather_results(study_dir, grid, unigram_loss, measure, score_of)
    write_results(study_dir, results)
    write_atomically(study_dir / "table.md", render_study(results))
    draw_study(study_dir, results)
    return results
