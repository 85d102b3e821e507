"""What can go wrong in an engine or in finding one."""


class EngineError(Exception):
    """An engine cannot do what it was asked; the message says why and the cure, in one line."""


class UnknownVoiceError(EngineError):
    """The engine has no voice of that name and knows nowhere to get it."""


class MissingExtraError(EngineError):
    """The package that an engine needs is not installed."""


class UnavailableError(EngineError):
    """A model or voice is not on this machine, and cannot be fetched."""


class BusyError(EngineError):
    """Whoever would do it has as much to do as it can do well; ask again, or ask another."""


def one_line(said: object) -> str:
    """What an error or a peer says, on one line of bearable length; at the least its class."""
    return " ".join(str(said).split())[:200] or type(said).__name__
