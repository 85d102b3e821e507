"""Runs one engine through what a test wants to know of it, in an environment that has torch.

    python -m tests.integration.torch_probe ENGINE MODEL

The tests' own environment has no torch: `test_torch_engines.py` starts this with the interpreter
that has, and reads the JSON that it prints last.
"""

import json
import os
import shutil
import sys
import tempfile
import threading
import time
import wave
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import wraps
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch

from services.models import models
from services.settings import EngineSettings
from services.tts.engine import Chunk
from services.tts.references import find_references

TEXT = "One, two."
LONG = "And so it goes on and on. " * 400


def write_clip(folder: Path) -> None:
    """Write a reference clip: two seconds of noise, named for a voice that speaks English."""
    noise = np.random.default_rng(0).normal(0, 3000, 2 * 24000).astype("<i2")
    with wave.open(str(folder / "en-anna.wav"), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    (folder / "en-anna.txt").write_text("This is how I sound.", "utf-8")


def failure(action: Callable[[], object]) -> dict[str, Any]:
    """What an action raises."""
    started = time.monotonic()
    try:
        action()
    except Exception as error:
        return {
            "kinds": [kind.__name__ for kind in type(error).__mro__],
            "message": str(error),
            "seconds": time.monotonic() - started,
        }
    return {"kinds": [], "message": "", "seconds": 0.0}


def heard(chunks: list[Chunk]) -> dict[str, Any]:
    """What was said."""
    return {
        "rates": sorted({chunk.sample_rate for chunk in chunks}),
        "longest_ms": max(len(chunk.pcm) / 2 / chunk.sample_rate for chunk in chunks) * 1000,
        "shortest": min(len(chunk.pcm) for chunk in chunks),
        "seconds": sum(len(chunk.pcm) / 2 / chunk.sample_rate for chunk in chunks),
        "loud": any(any(chunk.pcm) for chunk in chunks),
        "words": [[w.text, w.start, w.end, w.estimated] for c in chunks for w in c.words],
    }


def speaking(
    engine: Any, text: str, stop: Event, voice: str = "", speed: float = 1.0
) -> Generator[Chunk, None, None]:
    """An utterance, always the same one where the model draws lots."""
    torch.manual_seed(0)
    chunks: Generator[Chunk, None, None] = engine.speak(text, voice, speed, stop)
    return chunks


def first_second(engine: Any) -> float:
    """Seconds of an utterance of which at most one is asked for."""
    seconds = 0.0
    with closing(engine.speak(LONG, "", 1.0, Event())) as chunks:
        while seconds < 1.0:
            seconds += len(next(chunks).pcm) / 2 / 24000
    return seconds


def probe(engine: Any) -> dict[str, Any]:
    """What every engine has to do."""
    report: dict[str, Any] = {"before": engine.loaded()}
    engine.load()
    report["voices"] = [[info.name, info.language] for info in engine.voices()]
    report["after"] = engine.loaded()
    threads = threading.active_count()

    report["spoken"] = heard(list(speaking(engine, TEXT, Event())))
    other = engine.voices()[-1].name
    report["other"] = heard(list(speaking(engine, "Yes.", Event(), other)))
    report["nothing"] = len(list(speaking(engine, " … ", Event())))
    report["fast"] = heard(list(speaking(engine, TEXT, Event(), speed=2.0)))["seconds"]

    stop = Event()
    chunks = speaking(engine, LONG, stop)
    next(chunks)
    stop.set()
    started = time.monotonic()
    report["cancel"] = {"chunks": len(list(chunks)), "seconds": time.monotonic() - started}

    stop = Event()
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    list(speaking(engine, LONG, stop))
    report["cancel_early"] = time.monotonic() - started

    holder = speaking(engine, LONG, Event())
    next(holder)
    stop = Event()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: list(engine.speak(TEXT, "", 1.0, stop)))
        stop.set()
        report["waiting"] = len(waiting.result(timeout=30))
    holder.close()

    for _ in range(5):
        chunks = speaking(engine, LONG, Event())
        next(chunks)
        chunks.close()
    with ThreadPoolExecutor(3) as pool:
        report["together"] = list(pool.map(lambda _: first_second(engine), range(3)))
    report["threads"] = threading.active_count() - threads

    report["unknown voice"] = failure(lambda: list(engine.speak(TEXT, "nobody", 1.0, Event())))
    report["too fast"] = failure(lambda: list(engine.speak(TEXT, "", 9.0, Event())))
    return report


def break_down(engine: Any, owner: Any, name: str) -> dict[str, Any]:
    """What comes of an utterance whose model fails on the way, and of the next one."""
    real, calls = getattr(owner, name), 0

    @wraps(real)
    def failing(*arguments: Any, **settings: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise RuntimeError("out of\n   memory")
        return real(*arguments, **settings)

    setattr(owner, name, failing)
    try:
        result = failure(lambda: list(speaking(engine, LONG, Event())))
    finally:
        setattr(owner, name, real)
    with closing(speaking(engine, "Yes.", Event())) as chunks:
        result["next"] = len(next(chunks).pcm)
    return result


def resident(engine: Any) -> Any:
    """The engine's model in the store."""
    (key,) = (key for key in models.resident() if key.startswith(engine.name))
    with models.use(key, lambda: None) as found:
        return found.model  # type: ignore[attr-defined]


def settings(**given: Any) -> EngineSettings:
    """Settings out of no file."""
    return EngineSettings(_env_file=None, **given)


def wrong_settings(module: Any, model: dict[str, Any], given: dict[str, Any]) -> list[Any]:
    """What `build` says of a model, a voice and a folder of clips that are not there."""
    clips = {**given, "tts_references": Path("./nowhere")}
    return [
        failure(lambda: module.build(settings(**model), None, None)),
        failure(lambda: module.build(settings(**given), "nobody", None)),
        failure(lambda: module.build(settings(**clips), None, None)),
    ]


def damaged(model: Path, file: str) -> Path:
    """A copy of a model's folder in which a file is nonsense."""
    copy = Path(tempfile.mkdtemp()) / "model"
    shutil.copytree(model, copy)
    (copy / file).write_bytes(b"nonsense")
    return copy


def pocket(model: Path, clips: Path) -> dict[str, Any]:
    """Pocket TTS."""
    import services.tts.pocket as module

    engine = module.PocketEngine(str(model), references=find_references(clips))
    report = probe(engine)
    report["broken"] = break_down(engine, resident(engine).flow_lm, "_sample_next_latent")
    report["decoder broken"] = break_down(engine, resident(engine).mimi, "decode_from_latent")
    copy = damaged(model.parent, model.with_suffix(".safetensors").name)
    config = (copy / model.name).read_text("utf-8").replace(str(model.parent), str(copy))
    (copy / model.name).write_text(config, "utf-8")
    report["damaged"] = failure(
        module.PocketEngine(str(copy / model.name), references=find_references(clips)).load
    )
    report["no model"] = failure(lambda: module.PocketEngine("./nowhere"))
    report["no clip"] = failure(lambda: module.PocketEngine(str(model)))
    given = {"pocket_model": str(model), "tts_references": clips}
    report["cuda"] = failure(lambda: module.build(settings(**given, tts_device="cuda"), None, None))
    built = module.build(settings(**given), "en-anna", None)
    report["built"] = [built.engine.name, built.model, built.source]
    report["settings"] = wrong_settings(module, {**given, "pocket_model": "klingon"}, given)
    resident(engine).has_voice_cloning = False
    report["no cloning"] = failure(
        lambda: engine._prepare(
            resident(engine), engine.voices()[0], find_references(clips)["en-anna"]
        )
    )
    report["offline"] = failure(
        lambda: module.build(settings(offline=True, tts_references=clips), None, None)
    )
    return report


def sesame(model: Path, clips: Path) -> dict[str, Any]:
    """CSM."""
    import services.tts.sesame as module

    engine = module.SesameEngine(str(model), references=find_references(clips), device="cpu")
    report = probe(engine)
    csm = resident(engine)._model
    report["broken"] = break_down(engine, csm.depth_decoder, "forward")
    report["decoder broken"] = break_down(engine, csm.codec_model.quantizer, "decode")
    report["decoded"] = decode(module, csm.codec_model)
    report["no model"] = failure(lambda: module.SesameEngine("./nowhere"))
    report["damaged"] = failure(
        module.SesameEngine(str(damaged(model, "model.safetensors")), device="cpu").load
    )
    report["empty"] = failure(module.SesameEngine(tempfile.mkdtemp(), device="cpu").load)
    report["cuda"] = failure(
        lambda: module.build(settings(sesame_model=str(model), tts_device="cuda"), None, None)
    )
    built = module.build(settings(sesame_model=str(model), tts_device="cpu"), "speaker-1", None)
    report["built"] = [built.engine.name, built.model, built.source]
    report["settings"] = wrong_settings(
        module, {"sesame_model": "./nowhere"}, {"sesame_model": str(model)}
    )
    report["offline"] = failure(
        lambda: module.build(settings(offline=True, tts_device="cpu"), None, None)
    )
    return report


def decode(module: Any, codec: Any) -> list[dict[str, Any]]:
    """How far audio that is decoded in parts is from that decoded at once, beside its loudness.

    200 frames are 400 positions, more than the 250 that the codec's attention looks back.
    """
    torch.manual_seed(1)
    codes = torch.randint(0, codec.config.codebook_size, (200, codec.config.num_quantizers))
    with torch.inference_mode():
        whole = codec.decode(codes.T[None]).audio_values[0, 0]
    result = []
    for sizes in ([1] * 200, [3, 1, 7, 2, 27] * 5, [200]):
        decoder, parts, start = module.Decoder(codec), [], 0
        for size in sizes:
            parts.append(decoder.push(codes[start : start + size]))
            start += size
        audio = torch.from_numpy(np.concatenate(parts))
        result.append(
            {
                "samples": [len(audio), len(whole)],
                "error": float((audio - whole).abs().max()),
                "loud": float(whole.std()),
            }
        )
    return result


def xtts(model: Path, clips: Path) -> dict[str, Any]:
    """XTTS, of the package where it is installed, else of the fake."""
    try:
        import TTS.tts.models.xtts  # noqa: F401
    except ImportError:
        from tests.fakes import coqui_tts

        coqui_tts.install()
        coqui_tts.write_model(model)
    import services.tts.xtts as module

    engine = module.XttsEngine(model, references=find_references(clips), device="cpu")
    report = probe(engine)
    report["broken"] = break_down(engine, module._Wanted, "__call__")
    report["no model"] = failure(lambda: module.find_model("./nowhere", offline=False))
    report["empty"] = failure(lambda: module.find_model(tempfile.mkdtemp(), offline=False))
    report["damaged"] = failure(module.XttsEngine(damaged(model, "model.pth"), device="cpu").load)
    report["damaged voices"] = failure(
        lambda: module.XttsEngine(damaged(model, module.SPEAKERS), device="cpu")
    )
    report["language"] = failure(lambda: module.XttsEngine(model, device="cpu", language="tlh"))
    given = {"xtts_model": str(model), "tts_references": clips}
    report["cuda"] = failure(lambda: module.build(settings(**given, tts_device="cuda"), None, None))
    built = module.build(settings(**given, tts_device="cpu"), "Alan Turing", None)
    report["built"] = [built.engine.name, built.model, built.source]
    report["settings"] = wrong_settings(module, {"xtts_model": "./nowhere"}, given)
    name = settings().xtts_model
    os.environ.pop("COQUI_TOS_AGREED", None)
    report["terms"] = failure(lambda: module.find_model(name, offline=False))
    os.environ["COQUI_TOS_AGREED"] = "1"
    report["offline"] = failure(lambda: module.find_model(name, offline=True))
    return report


def main() -> None:
    """Print the report of the engine that is asked for."""
    name, model = sys.argv[1], Path(sys.argv[2]).resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        clips = Path(folder)
        write_clip(clips)
        report = {"pocket": pocket, "sesame": sesame, "xtts": xtts}[name](model, clips)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
