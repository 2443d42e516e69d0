#!/bin/sh
# Compiles every entry point of kernels/ for every architecture it serves, with NVRTC and ptxas of CUDA 13 from pinned Python wheels and with
# the NVRTC of CUDA 12, which older drivers need (no GPU, no CUDA toolkit, no driver needed), prints registers, shared memory, stack and spills, and fails on a spill or past the budget that
# compile_gate.py states. Usage: scripts/compile_gate.sh   (needs python3 with venv and pip; installs under target/compile-gate)
set -eu
cd "$(dirname "$0")/.."

CUDA=13.0.88
CUDA_12=12.8.93
home=target/compile-gate
stamp=$home/installed-$CUDA-$CUDA_12

if [ ! -f "$stamp" ]; then
    rm -rf "$home"
    mkdir -p "$home"
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check \
        "nvidia-cuda-nvrtc==$CUDA" "nvidia-cuda-nvcc==$CUDA" "nvidia-nvvm==$CUDA" \
        "nvidia-cuda-nvrtc-cu12==$CUDA_12"
    touch "$stamp"
fi

"$home/venv/bin/python" scripts/compile_gate.py "$@"
