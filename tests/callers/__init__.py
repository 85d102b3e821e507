"""Clients that call the agent over a real wire, for tests and benchmarks alike."""
