"""Faithful stand-ins for what cannot be had: first-class test code."""
