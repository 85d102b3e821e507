#!/bin/sh
# Fetches CosyVoice's source to the folder $1: one commit, unmodified, and of its submodules the
# one that it cannot run without.
set -eu
source=https://github.com/FunAudioLLM/CosyVoice.git
commit=${COSYVOICE_COMMIT:-ace7c47f41bbd303aa6bf1ea80e6f9fbd595cd40}
git init --quiet "$1"
cd "$1"
git fetch --quiet --depth 1 "$source" "$commit"
git checkout --quiet --detach "$commit"
git submodule --quiet update --init --depth 1 third_party/Matcha-TTS
rm -rf .git third_party/Matcha-TTS/.git
