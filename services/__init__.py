"""Engines that speak, hear and think, and the Pipecat services that put them into a pipeline."""
