"""The tests: unit, integration, and end to end."""
