"""The peer: a voice bot as Pipecat 1.14's own templates write it, with the services that we use.

    python -m bench.stock_bot --port 7860

It follows `pipecat/cli/templates/server/bot_cascade.py.jinja2`: Pipecat's runner, its default VAD
and turn strategies, its services for Piper, Whisper and OpenAI. Voice, Whisper model and language
model are the same as on our side, and so is the greeting: a fixed text that is spoken as soon as
the caller is connected, which is sooner than what the template has the language model say.
"""

import os
from pathlib import Path

from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.frames.frames import TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.runner.types import RunnerArguments, WebSocketRunnerArguments
from pipecat.runner.utils import create_transport
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.services.piper.tts import PiperTTSService
from pipecat.services.whisper.stt import WhisperSTTService
from pipecat.transports.base_transport import BaseTransport, TransportParams
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pipecat.workers.runner import WorkerRunner

VOICE = "BENCH_VOICE"
"""The environment variable with the voice's `.onnx`."""

WHISPER = "BENCH_WHISPER"
"""The environment variable with the Whisper model's folder."""

GREETING = "BENCH_GREETING"
"""The environment variable with what the bot says first."""


async def run_bot(transport: BaseTransport, runner_args: RunnerArguments) -> None:
    """Run the voice bot for one session."""
    voice = Path(os.environ[VOICE])
    stt = WhisperSTTService(settings=WhisperSTTService.Settings(model=os.environ[WHISPER]))
    tts = PiperTTSService(
        download_dir=voice.parent, settings=PiperTTSService.Settings(voice=voice.stem)
    )
    llm = OpenAILLMService(
        api_key=os.environ["OPENAI_API_KEY"],
        settings=OpenAILLMService.Settings(
            system_instruction="You are a helpful assistant in a voice conversation."
        ),
    )
    context = LLMContext()
    user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
        context, user_params=LLMUserAggregatorParams(vad_analyzer=SileroVADAnalyzer())
    )
    pipeline = Pipeline(
        [
            transport.input(),
            stt,
            user_aggregator,
            llm,
            tts,
            transport.output(),
            assistant_aggregator,
        ]
    )
    params = PipelineParams(enable_metrics=True, enable_usage_metrics=True)
    if isinstance(runner_args, WebSocketRunnerArguments):
        # As the template has it for telephones.
        params.audio_in_sample_rate = params.audio_out_sample_rate = 8000
    worker = PipelineWorker(pipeline, params=params)
    runner = WorkerRunner(handle_sigint=runner_args.handle_sigint)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(_: BaseTransport, _client: object) -> None:
        await worker.queue_frames([TTSSpeakFrame(os.environ[GREETING])])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(_: BaseTransport, _client: object) -> None:
        await runner.cancel()

    await runner.run()


async def bot(runner_args: RunnerArguments) -> None:
    """Pipecat's entry point: carry one call."""
    transport = await create_transport(
        runner_args,
        {
            "webrtc": lambda: TransportParams(audio_in_enabled=True, audio_out_enabled=True),
            "twilio": lambda: FastAPIWebsocketParams(audio_in_enabled=True, audio_out_enabled=True),
        },
    )
    await run_bot(transport, runner_args)


if __name__ == "__main__":
    from pipecat.runner.run import main

    main()
