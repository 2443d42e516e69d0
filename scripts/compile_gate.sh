#!/bin/sh
# Makes the kernels' PTX from kernels/ with the NVRTC of CUDA 12.0, the oldest whose PTX every
# supported driver (525 and later) takes, and fails where kernels/ptx has another; has ptxas of CUDA
# 12.0 and of CUDA 13 compile it for every architecture that loads it, prints registers, shared
# memory, stack and spills, and fails past the budget that compile_gate.py states. All from pinned
# Python wheels: no GPU, no CUDA toolkit, no driver needed.
# Usage: scripts/compile_gate.sh [--write]
# --write puts the PTX into kernels/ptx. Needs python3 with venv and pip; installs under
# target/compile-gate.
set -eu
cd "$(dirname "$0")/.."

CUDA=13.0.88
CUDA_12=12.0.140
home=target/compile-gate
stamp=$home/installed-$CUDA-$CUDA_12

if [ ! -f "$stamp" ]; then
    rm -rf "$home"
    mkdir -p "$home"
    python3 -m venv "$home/venv"
    "$home/venv/bin/pip" install --quiet --disable-pip-version-check \
        "nvidia-cuda-nvcc==$CUDA" "nvidia-nvvm==$CUDA" \
        "nvidia-cuda-nvrtc-cu12==$CUDA_12" "nvidia-cuda-nvcc-cu12==$CUDA_12"
    touch "$stamp"
fi

"$home/venv/bin/python" scripts/compile_gate.py "$@"
