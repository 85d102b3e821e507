"""Stands for `cosyvoice.utils`."""
