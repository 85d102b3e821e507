"""The worker: `python -m services.worker --engine piper --port 7001`."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Sequence

from loguru import logger

from services import catalog, serve
from services.errors import EngineError
from services.models import models
from services.process import freeze_garbage, limit_arenas
from services.settings import SettingsError, blame, revealed, secrets_of
from services.stt.engine import HearingEngine
from services.tts.engine import SpeechEngine
from services.tts.voices import Progress
from services.worker import settings as worker_settings
from services.worker.app import create_app
from services.worker.leases import LeaseKeeper, connect
from services.worker.settings import WorkerSettings
from services.worker.worker import Worker


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop.

    Args:
        argv: The arguments after the program's name.

    Returns:
        The exit code: 0 after a stop that was asked for, 2 for a setting that is wrong.
    """
    limit_arenas()
    try:
        settings = worker_settings.load(argv, _choices())
        serve.log_to_stderr(settings.log_level, secrets_of(settings))
        with serve.listen(settings.host, settings.port) as listener:
            asyncio.run(_run(settings, listener))
    except (SettingsError, EngineError) as error:
        print(f"parley: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _choices() -> dict[str, Sequence[str]]:
    named = catalog.choices()
    return {"engine": named["tts"], "stt": named["stt"]}


async def _run(settings: WorkerSettings, listener: socket.socket) -> None:
    """Load the engines, and serve them."""
    ttl_s = settings.ttl_ms / 1000 if settings.ttl_ms else None
    models.limit(settings.resident_cap, ttl_s)
    with serve.progress() as progress:
        speaks, hears = await asyncio.to_thread(_load, settings, progress)
    freeze_garbage()
    port = listener.getsockname()[1]
    worker = Worker(settings, settings.url(port), speaks, hears)
    token = revealed(settings.worker_token) or None
    if settings.open_to_all:
        logger.warning(
            "--host {}: whoever reaches it can use it; set PARLEY_WORKER_TOKEN", settings.host
        )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(worker.host.close)
        if settings.wyoming_port is not None:
            from services.worker.wyoming import WyomingServer

            wyoming = WyomingServer(
                worker.host, host=settings.wyoming_host, port=settings.wyoming_port
            )
            await wyoming.start()
            stack.push_async_callback(wyoming.stop)
        tasks = [asyncio.create_task(worker.keep_models(), name="models")]
        keeper: LeaseKeeper | None = None
        if settings.redis:
            with blame("--redis"):
                keeper = LeaseKeeper(connect(settings.redis), worker.lease)
        stack.push_async_callback(_end, tasks)

        def ready() -> None:
            lease = worker.lease()
            does = [
                *([f"speaks with {lease.engine}"] if lease.engine else []),
                *([f"hears with {lease.hears}"] if lease.hears else []),
            ]
            logger.info("{} at {}", " and ".join(does), lease.url)
            if keeper is not None:
                # Not sooner: whoever finds the lease connects at once.
                tasks.append(asyncio.create_task(keeper.run(), name="lease"))

        app = create_app(
            worker.host, worker.sockets, worker.lease, token=token, address=settings.host
        )
        await serve.serve(app, listener, ready=ready, drain=worker.drain)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _load(
    settings: WorkerSettings, progress: Progress
) -> tuple[SpeechEngine | None, HearingEngine | None]:
    """The engines that the settings name. Blocks."""
    hears = None
    if settings.stt:
        # First: pocketsphinx starts a process, which costs least before models are loaded.
        loaded = catalog.load_ear(settings, settings.stt, settings.language, progress)
        logger.info("hears with {} {}: {}", loaded.engine.name, loaded.model, loaded.source)
        hears = loaded.engine
    if not settings.engine:
        return None, hears
    voice = catalog.load_voice(
        settings, settings.engine, settings.tts_voice, progress, flag="--engine"
    )
    logger.info("speaks with {} {}: {}", voice.engine.name, voice.model, voice.source)
    for name in settings.preload:
        with blame("--preload"):
            voice.engine.load(name)
    return voice.engine, hears


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
