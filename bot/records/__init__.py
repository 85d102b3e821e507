"""The records of calls: kept, listed, deleted."""
