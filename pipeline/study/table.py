"""A study's results as Markdown, aligned so that a terminal shows it as well: table.md."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.study.comparison import PairedDifference, Sensitivity, Spread
from pipeline.study.measure import At, Measure
from pipeline.study.results import CellResult, RunResult, StudyResults

_UNDEFINED = "-"
_MOST_NAMED = 6  # cells in a note
_ARM_HEADER = ("cells", "best", "median", "worst", "std", "runs", "diverged")
_ABOVE_UNIGRAM = "above the unigram loss"
_OTHER: dict[At, At] = {"end": "time", "steps": "time", "time": "end"}  # where else differences are told of
_OTHER_HEADER = {"time": "at equal time", "end": "at the end"}


def render_study(results: StudyResults) -> str:
    """The table of cells, that of the arms if there are other axes, and what must be known to read them."""
    axes, measure = [axis.name for axis in results.axes], results.measure
    rows = [[*cell.labels, *_cell_row(cell, measure)] for cell in results.cells]
    parts = [
        f"Final {measure.name} ({measure.unit}) and difference from the baseline{measure.where}:",
        aligned_table([*axes, *_cell_header(measure)], rows, len(axes)),
    ]
    if len(results.settings) > 1:
        header = [*_ARM_HEADER, *([_ABOVE_UNIGRAM] if measure.is_loss else [])]
        rows = [[arm, *_arm_row(sensitivity)[: len(header)]] for arm, sensitivity in results.arms.items()]
        parts += [
            f"Over {', '.join(axes[1:])} (each cell's mean over seeds):",
            aligned_table([axes[0], *header], rows, 1),
        ]
    return "\n\n".join([*parts, "\n".join(f"- {note}" for note in _notes(results))]) + "\n"


def _cell_header(measure: Measure) -> list[str]:
    figures = ["runs", f"final {measure.figure}", "difference", "95 % interval", "%", "p", measure.better]
    if measure.task is None:
        figures += ["steps to target", "time to target", _OTHER_HEADER[_OTHER[measure.at]]]
    return [*figures, "formed at"]


def _cell_row(cell: CellResult, measure: Measure) -> list[str]:
    num_finished = 0 if cell.final_value is None else cell.final_value.num
    figures = [
        f"{num_finished} of {len(cell.runs)}",
        render_spread(cell.final_value, 4),
        *_difference(cell.difference_at(measure.at), measure),
    ]
    if measure.task is None:
        other = cell.difference_at(_OTHER[measure.at])
        figures += [
            _reach(cell.steps_fraction, cell.num_compared),
            _reach(cell.seconds_fraction, cell.num_compared),
            _UNDEFINED if other is None else f"{other.mean:+.4f}",
        ]
    return [*figures, _formed(cell)]


def _difference(difference: PairedDifference | None, measure: Measure) -> list[str]:
    if difference is None:
        return [_UNDEFINED] * 5
    interval, percent = difference.interval, difference.relative_percent
    num_better = difference.num_lower if measure.better == "lower" else difference.num_higher
    return [
        f"{difference.mean:+.4f}",
        _UNDEFINED if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}",
        _UNDEFINED if percent is None else f"{percent:+.2f}",
        _UNDEFINED if difference.p_value is None else f"{difference.p_value:.2g}",
        f"{num_better} of {difference.num_pairs}",
    ]


def _reach(fraction: Spread | None, num_compared: int) -> str:
    """The mean over runs that reached it says nothing without how many did not."""
    if num_compared == 0:
        return _UNDEFINED
    if fraction is None:
        return "never"
    text = render_spread(fraction, 3)
    return text if fraction.num == num_compared else f"{text} ({fraction.num} of {num_compared})"


def _formed(cell: CellResult) -> str:
    """The mean step, and of how many runs that are there if not of all."""
    there = [run.curve for run in cell.runs if run.curve.state != "missing"]
    steps = [curve.formed_step for curve in there if curve.formed_step is not None]
    if not steps:
        return _UNDEFINED
    mean = f"{sum(steps) / len(steps):,.0f}"
    return mean if len(steps) == len(there) else f"{mean} ({len(steps)} of {len(there)})"


def render_spread(spread: Spread | None, digits: int) -> str:
    """Mean and standard deviation, as far as there are any."""
    if spread is None:
        return _UNDEFINED
    std = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:.{digits}f}{std}"


def _arm_row(arm: Sensitivity) -> list[str]:
    numbers = [_UNDEFINED if x is None else f"{x:.4f}" for x in (arm.best, arm.median, arm.worst, arm.std)]
    above = _UNDEFINED if arm.num_above_unigram is None else f"{arm.num_above_unigram} of {arm.num_runs}"
    return [str(arm.num_cells), *numbers, str(arm.num_runs), str(arm.num_diverged), above]


def _notes(results: StudyResults) -> Iterator[str]:
    first, measure = results.axes[0], results.measure
    side = "below" if measure.better == "lower" else "above"
    yield (
        f"The baseline is {first.name} = {first.labels[0]}, with the same choices on all other axes. "
        f"Differences are cell minus baseline, paired by seed; {side} zero is better."
    )
    if len(results.seeds) == 1:
        yield "One seed: there is no spread, no interval and no test."
    else:
        num_tests = sum(cell.difference_at(measure.at) is not None for cell in results.cells)
        yield (
            "± is the standard deviation over seeds; interval and p are those of a paired t-test"
            + (f", p not corrected for {num_tests} comparisons." if num_tests > 1 else ".")
        )
    yield _about_task(measure) if measure.task is not None else _about_curves(measure)
    if results.unigram_loss is not None:
        yield f"The unigram loss is {results.unigram_loss:.4f}; diverged runs count as above it."
    if len({arm.num_cells for arm in results.arms.values()}) > 1:
        yield "Arms differ in how many of their cells have a finished run: best to std are not comparable."
    yield from _incomplete(results.cells)
    nameless = [
        run
        for c in results.cells
        for run in c.runs
        if run.curve.state == "finished" and run.final_value is None
    ]
    if nameless:
        yield f"{_num_runs(len(nameless))} finished and without a finite {measure.name}, in no mean."


_FORMED_AT = "Formed at: the step at which the patterns counted as formed."


def _about_curves(measure: Measure) -> str:
    end, long = "or at its end if that was sooner", "trained for as long as its baseline in all"
    at_equal = {
        "end": f"At equal time: the difference when a run has {long}, {end}.",
        "time": f"Differences are those when a run has {long}, {end}; at the end: those of the final values.",
        "steps": (
            f"Differences are those when a run has taken as many steps as its baseline in all, {end}; at "
            f"equal time: when it has {long}."
        ),
    }[measure.at]
    return (
        f"The target is the baseline's final {measure.figure} with the same seed. Steps and time to it are "
        "those until a run first has it, as a share of all that the baseline took; evaluations and "
        f"checkpoints are not in the time. {at_equal} {_FORMED_AT}"
    )


def _about_task(measure: Measure) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in measure.settings.items())
    given = f" with {settings}" if settings else ""
    return f"Task {measure.task} of `evaluate`{given}, on the weights at a run's end. {_FORMED_AT}"


def _incomplete(cells: Sequence[CellResult]) -> Iterator[str]:
    """Runs without a final loss, which are in none of the means."""
    states = Counter(run.curve.state for cell in cells for run in cell.runs)
    for state in ("diverged", "unfinished", "missing"):
        if states[state]:
            yield f"{_num_runs(states[state])} {state}, in no mean and no difference: {_named(cells, state)}."


def _num_runs(num: int) -> str:
    return "1 run is" if num == 1 else f"{num} runs are"


def _named(cells: Sequence[CellResult], state: str) -> str:
    """`a (seeds 0, 2); b (seed 1 at step 40)`."""
    named = []
    for cell in cells:
        runs = [run for run in cell.runs if run.curve.state == state]
        if runs:
            seeds = ", ".join(map(_seed, runs))
            named.append(f"{cell.name} ({'seed' if len(runs) == 1 else 'seeds'} {seeds})")
    more = len(named) - _MOST_NAMED
    return "; ".join(named[:_MOST_NAMED]) + (f"; and {more} more cells" if more > 0 else "")


def _seed(run: RunResult) -> str:
    return str(run.seed) if run.curve.state == "missing" else f"{run.seed} at step {run.step:,}"


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]], num_names: int) -> str:
    """A Markdown table with columns of equal width; the first are names, the others figures, to the right."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if column < num_names else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths))
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        "-" * width if column < num_names else "-" * (width - 1) + ":" for column, width in enumerate(widths)
    ]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])
