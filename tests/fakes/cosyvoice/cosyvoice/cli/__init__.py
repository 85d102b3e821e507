"""Stands for `cosyvoice.cli`."""
