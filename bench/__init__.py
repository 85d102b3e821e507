"""The figures that the project keeps, each beside what a stock Pipecat bot reaches.

`make bench` measures both sides in one run on one machine, prints a table and writes
`bench/results.json`. Nothing here is a test: a figure that misses its bound is shown as such.
"""
