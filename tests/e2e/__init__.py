"""Tests of the whole agent, called as people call it."""
