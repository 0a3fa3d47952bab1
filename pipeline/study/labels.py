"""What the figures of a study call things, and in which colors."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pipeline.study.results import StudyResults

_BASELINE_COLOR = "0.35"
_COLORS = [f"C{number}" for number in range(10) if number != 7]  # that one is gray, too
_LETTER_INCHES, _HANDLE_INCHES = 0.075, 0.6  # of a legend


def plain(text: str) -> str:
    """As it stands: "$" would start a formula."""
    return text.replace("$", r"\$")


def panel_grid(results: StudyResults) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Choices on the second axis, for rows, and on all further ones, for columns; an empty one for none."""
    settings = results.settings
    rows, columns = ([setting[:1] for setting in settings], [setting[1:] for setting in settings])
    return list(dict.fromkeys(rows)), list(dict.fromkeys(columns))


def arm_colors(results: StudyResults) -> dict[str, str]:
    """Gray for the baseline, a color for every other arm."""
    first, *others = results.axes[0].labels
    return {first: _BASELINE_COLOR, **dict(zip(others, cycle(_COLORS)))}


def figure_legend(figure: Figure, results: StudyResults, arms: Sequence[str], *further: Line2D) -> None:
    """Arms, and what else is drawn, above all panels, in as many columns as fit."""
    colors = arm_colors(results)
    name = results.axes[0].name
    handles = [Line2D([], [], color=colors[arm], lw=2.5, label=plain(f"{name} = {arm}")) for arm in arms]
    handles += further
    longest = max(len(str(handle.get_label())) for handle in handles)
    num_columns = int(figure.get_figwidth() / (_LETTER_INCHES * longest + _HANDLE_INCHES))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), max(1, num_columns)),
        frameon=False,
        fontsize=9,
    )
