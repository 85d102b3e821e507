"""Pipecat's test of a processor, without its haste."""

from functools import partial

from pipecat.tests import utils

run_test = partial(utils.run_test, start_timeout=60.0)
"""Pipecat's own gives a pipeline one second to start, which a busy machine may need for others."""
