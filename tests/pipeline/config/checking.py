"""Check recipes and say what their problems should be."""

from pipeline.config.checks import World, check_recipe
from pipeline.config.load import Problem
from pipeline.config.schema import Recipe

ONE_CPU = World(world_size=1, on_cuda=False)


def check(recipe: Recipe, world: World = ONE_CPU) -> list[Problem]:
    return check_recipe(recipe, world)


def only_problem(recipe: Recipe, world: World = ONE_CPU) -> Problem:
    problems = check(recipe, world)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return problems[0]


def assert_told(problem: Problem, keys: set[str], *words: str) -> None:
    """The problem names these keys, and its text the values, limits and what to write."""
    assert set(problem.keys) == keys
    missing = [word for word in words if word not in problem.message]
    assert not missing, f"{missing} not in: {problem.message}"
