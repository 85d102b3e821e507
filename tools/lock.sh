#!/bin/sh
# Pins every dependency, for all platforms and Pythons, without naming a registry. $1 is uv.
set -eu
compile() {
    out=$1
    shift
    "$uv" pip compile --quiet --universal --no-header --no-emit-index-url --no-annotate \
        --output-file "$out" "$@"
}
uv=$1
compile requirements.lock pyproject.toml --extra piper --extra whisper --extra pocketsphinx \
    --extra wyoming --extra daily --extra livekit
compile requirements-test.lock --group test --constraint requirements.lock
compile requirements-models.lock pyproject.toml --group models --constraint requirements.lock
# torch's CPU build needs none of the CUDA packages; pip adds them where the other build is taken.
sed -i -E '/^(nvidia-|cuda-|triton)/d' requirements-models.lock
"$uv" pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-emit-index-url --no-annotate --output-file docker/cosyvoice.lock \
    pyproject.toml docker/cosyvoice.in
