"""What tests of every kind share."""

import pytest

from tests.callers import recordings


@pytest.fixture(scope="session")
def recording() -> recordings.Recording:
    """Real speech, by name and sample rate."""
    return recordings.recording
