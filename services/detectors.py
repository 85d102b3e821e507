"""Silero VAD and smart-turn on ONNX sessions that all calls share.

Pipecat's analyzers each load a session of their own, which costs a call about 40 MB and a tenth of
a second of blocked event loop. The sessions hold no state between runs, so calls can share them;
the state of a call stays in its analyzer.
"""

import asyncio
from importlib.resources import as_file, files

import onnxruntime
from pipecat.audio.turn.smart_turn.base_smart_turn import BaseSmartTurn, SmartTurnParams
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroOnnxModel, SileroVADAnalyzer
from pipecat.audio.vad.vad_analyzer import VADAnalyzer, VADParams

from services.models import models


def _session(package: str, name: str) -> onnxruntime.InferenceSession:
    """A single-threaded CPU session for a model that Pipecat carries."""

    def load() -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = 1
        with as_file(files(package).joinpath(name)) as path:
            return onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )

    return models.get(f"{package}/{name}", load)


def preload() -> None:
    """Load and warm both models, so that no call waits for them.

    Blocks; call it in a thread that runs no event loop.
    """
    vad = SharedSileroVADAnalyzer()
    vad.set_sample_rate(16000)
    vad.voice_confidence(bytes(2 * vad.num_frames_required()))
    turn = SharedSmartTurnAnalyzer()
    turn.set_sample_rate(16000)
    turn.append_audio(bytes(2 * 16000), is_speech=True)
    asyncio.run(turn.analyze_end_of_turn())


class _SharedSileroModel(SileroOnnxModel):
    """One call's recurrent state on the session that all calls share."""

    def __init__(self) -> None:
        self.session = _session("pipecat.audio.vad.data", "silero_vad.onnx")
        self.sample_rates = [8000, 16000]
        self.reset_states()


class SharedSileroVADAnalyzer(SileroVADAnalyzer):
    """Pipecat's Silero analyzer on the shared session."""

    def __init__(self, *, params: VADParams | None = None) -> None:
        """Make one call's analyzer.

        Args:
            params: When speech counts as started and as stopped.
        """
        # Skips SileroVADAnalyzer's own constructor, which loads a session.
        VADAnalyzer.__init__(self, params=params)
        self._model = _SharedSileroModel()
        self._windows_since_reset = 0
        self._low_confidence_windows = 0


class SharedSmartTurnAnalyzer(LocalSmartTurnAnalyzerV3):
    """Pipecat's smart-turn v3.2 analyzer on the shared session."""

    def __init__(self, *, params: SmartTurnParams | None = None) -> None:
        """Make one call's analyzer.

        Args:
            params: How long a silence ends a turn that the model believes unfinished.
        """
        # Skips LocalSmartTurnAnalyzerV3's own constructor, which loads a session.
        BaseSmartTurn.__init__(self, params=params)
        self._log_data = False
        self._session = _session("pipecat.audio.turn.smart_turn.data", "smart-turn-v3.2-cpu.onnx")
