"""What makes the things that the project ships or tests with."""
