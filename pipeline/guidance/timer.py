"""Time spent in the guidance operator, forward and backward."""

from pipeline.accounting.clock import Clock

SPAN = "guidance"
CLOCK = Clock(SPAN)  # one for the process: an operator's arguments are tensors and numbers
