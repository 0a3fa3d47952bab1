"""What is predicted. An objective is a module in a file of its own, named in OBJECTIVES."""

from pipeline.objectives.mlm import MaskedLanguageModeling

OBJECTIVES = {"mlm": MaskedLanguageModeling}
