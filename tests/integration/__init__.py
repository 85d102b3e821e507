"""Tests of real parts within one process."""
