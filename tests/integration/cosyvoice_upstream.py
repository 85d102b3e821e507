"""Checks of the CosyVoice engine on the real code, in an interpreter that has its packages.

    python tests/integration/cosyvoice_upstream.py REPO MODEL SCRATCH

The last line that it prints is a JSON object with what it found. `test_cosyvoice.py` runs it.
"""

import gc
import json
import sys
import threading
import time
import weakref
from pathlib import Path
from threading import Event
from typing import Any

from services.errors import EngineError
from services.models import models
from services.tts.cosyvoice import CosyVoiceEngine
from services.tts.cosyvoice_guard import Guard
from services.tts.references import find_references
from tests.fakes.clips import write_clip

SEVEN = "one two three four five six seven"
DELAYS = (0.0, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9, 1.2, 1.6)
"""Seconds after which utterances are stopped: before the first output, and while they are."""


def say(
    engine: CosyVoiceEngine,
    text: str,
    voice: str = "",
    speed: float = 1.0,
    stop: Event | None = None,
) -> int:
    """Speak, and count the samples."""
    chunks = engine.speak(text, voice, speed, stop or Event())
    return sum(len(chunk.pcm) // 2 for chunk in chunks)


def raw_first_outputs(made: Any) -> list[int]:
    """The first output of two utterances without the guard's care for the hop."""
    clip = next(name for name in made.frontend.spk2info if "anna.wav" in name)
    firsts = []
    for _ in range(2):
        stream = made.model.tts(
            **made.frontend.frontend_zero_shot(SEVEN, "", None, made.sample_rate, clip),
            stream=True,
        )
        sizes = [output["tts_speech"].shape[1] for output in stream]
        firsts.append(sizes[0])
    return firsts


def main() -> None:
    """Run the checks."""
    repo, folder, scratch = (Path(argument) for argument in sys.argv[1:])
    write_clip(scratch / "anna.wav", seconds=3.48, text=b"what is said in the clip")
    references = find_references(scratch)
    engine = CosyVoiceEngine(repo, str(folder), references=references, offline=True)
    engine.load()
    with models.use(engine._key, engine._load) as model:
        made = model._cosyvoice
        guard = model.guard
        del model
    upstream = made.model
    found: dict[str, Any] = {"first_outputs": [], "samples": [], "cancel_ms": [], "first_ms": []}

    outputs: list[int] = []
    run = Guard.run

    def counted(self: Guard, *args: Any) -> Any:
        for samples in run(self, *args):
            outputs.append(len(samples))
            yield samples

    Guard.run = counted  # type: ignore[method-assign]
    for _ in range(3):
        outputs.clear()
        began = time.perf_counter()
        chunks = engine.speak(SEVEN, "", 1.0, Event())
        first = next(chunks)
        found["first_ms"].append(round(1000 * (time.perf_counter() - began)))
        found["samples"].append(len(first.pcm) // 2 + sum(len(chunk.pcm) // 2 for chunk in chunks))
        found["first_outputs"].append(outputs[0])

    for delay in DELAYS:
        stop = Event()
        pressed = []

        def press(stop: Event = stop, pressed: list[float] = pressed) -> None:
            pressed.append(time.perf_counter())
            stop.set()

        timer = threading.Timer(delay, press)
        timer.start()
        say(engine, " ".join([SEVEN] * 4), stop=stop)
        found["cancel_ms"].append(round(1000 * (time.perf_counter() - pressed[0]), 1))
        timer.join()

    decoder = upstream.llm.llm_decoder.forward

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    upstream.llm.llm_decoder.forward = fail
    try:
        say(engine, SEVEN)
        found["failure"] = ""
    except EngineError as error:
        found["failure"] = str(error)
    upstream.llm.llm_decoder.forward = decoder
    found["after_failure"] = say(engine, "hello")
    found["half_speed"] = say(engine, SEVEN, speed=0.5)
    found["left"] = (
        len(upstream.tts_speech_token_dict)
        + len(upstream.llm_end_dict)
        + len(upstream.hift_cache_dict)
        + threading.active_count()
        - 1
    )

    instructed = CosyVoiceEngine(
        repo, str(folder), references=references, instruct="said in time", offline=True
    )
    found["instructed"] = [say(instructed, "hello", voice=name) for name in ("anna", "speaker")]
    found["speakers"] = [say(engine, "hello", voice=name) for name in ("anna", "speaker")]

    # As it would be without the guard, whose clock and hooks do nothing outside of its runs.
    upstream.llm_job = guard._llm_job
    upstream.llm.inference = type(upstream.llm).inference.__get__(upstream.llm)
    upstream.token_hop_len = 25
    found["raw_first_outputs"] = raw_first_outputs(made)

    gone = weakref.ref(upstream)
    del made, guard, upstream, decoder
    gc.collect()
    models.limit(cap=0, ttl_s=None)
    found["freed"] = gone() is None
    print(json.dumps(found))


if __name__ == "__main__":
    main()
