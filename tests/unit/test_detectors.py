"""The shared detectors decide as Pipecat's own do, on sessions that all calls share."""

import numpy as np
import pytest
from pipecat.audio.turn.smart_turn.local_smart_turn_v3 import LocalSmartTurnAnalyzerV3
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.metrics.metrics import TurnMetricsData

from services.detectors import SharedSileroVADAnalyzer, SharedSmartTurnAnalyzer
from tests.callers.recordings import Recording

RATE = 16000


@pytest.fixture(scope="module")
def pcm(recording: Recording) -> bytes:
    """Two seconds of a person who speaks, at `RATE`."""
    return recording("goforward", RATE)[: 2 * RATE].tobytes()


def confidences(analyzer: SileroVADAnalyzer, pcm: bytes) -> list[float]:
    analyzer.set_sample_rate(RATE)
    step = 2 * analyzer.num_frames_required()
    windows = [pcm[i : i + step] for i in range(0, len(pcm) - step, step)]
    return [np.float32(analyzer.voice_confidence(window)).item() for window in windows]


def test_vad_agrees_with_pipecats(pcm: bytes) -> None:
    """Window for window the confidence is that of Pipecat's analyzer with a session of its own."""
    ours = confidences(SharedSileroVADAnalyzer(), pcm)
    assert ours == confidences(SileroVADAnalyzer(), pcm)
    assert max(ours) > 0.9


def test_two_callers_do_not_hear_each_other(pcm: bytes) -> None:
    """A caller's confidence does not depend on what another says between its windows."""
    alone, beside, other = (SharedSileroVADAnalyzer() for _ in range(3))
    expected = confidences(alone, pcm)
    for analyzer in (beside, other):
        analyzer.set_sample_rate(RATE)
    noise = np.random.default_rng(0).integers(-9000, 9000, 512, np.int16).tobytes()
    step = 2 * beside.num_frames_required()
    heard = []
    for i in range(0, len(pcm) - step, step):
        other.voice_confidence(noise)
        heard.append(np.float32(beside.voice_confidence(pcm[i : i + step])).item())
    assert heard == expected
    assert alone._model.session is beside._model.session


async def test_smart_turn_agrees_with_pipecats(pcm: bytes) -> None:
    """The verdict and its probability are those of Pipecat's analyzer."""
    verdicts = []
    for analyzer in (SharedSmartTurnAnalyzer(), LocalSmartTurnAnalyzerV3()):
        analyzer.set_sample_rate(RATE)
        analyzer.append_audio(pcm, is_speech=True)
        state, metrics = await analyzer.analyze_end_of_turn()
        assert isinstance(metrics, TurnMetricsData)
        verdicts.append((state, metrics.probability))
        await analyzer.cleanup()
    assert verdicts[0] == verdicts[1]
