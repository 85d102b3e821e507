#!/bin/sh
# What a container is: SERVICE_MODE is bot (the agent), tts (a worker that speaks with TTS_ENGINE)
# or asr (a worker that hears with STT_ENGINE). Arguments are further flags of what is started,
# which takes this process's place, so that signals reach it.
set -eu
cd "$(dirname "$0")/.."
case "${SERVICE_MODE:-bot}" in
bot) exec python bot/main.py "$@" ;;
tts) exec python -m services.worker --engine "${TTS_ENGINE:-piper}" "$@" ;;
asr) exec python -m services.worker --stt "${STT_ENGINE:-whisper}" "$@" ;;
esac
echo "SERVICE_MODE: '$SERVICE_MODE' is not one of bot, tts, asr" >&2
exit 64
