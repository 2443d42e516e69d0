#!/bin/sh
# Checks and measures a ringmaster release binary on a machine with an NVIDIA GPU, in under 8
# minutes.
#
#   scripts/gpu_check.sh BINARY [FOLDER]
#
# Needs a driver, and python3 with numpy (PyTorch for the comparison; safetensors is not needed); no
# cargo. Writes to FOLDER (default: gpu_check): summary.txt (a table, also printed), one CSV per
# measurement, and logs. Ends with 0 if every check passed, 1 if one failed or there is no GPU, 2 if
# it was called wrongly. What each stage does is written in gpu_check.py beside this.
set -eu
binary=${1:-}
folder=${2:-gpu_check}
if [ -z "$binary" ] || [ ! -x "$binary" ]; then
    echo "usage: $0 BINARY [FOLDER]: BINARY is a ringmaster release build" \
        "${binary:+($binary is not one that can be run)}" >&2
    exit 2
fi
if ! command -v python3 >/dev/null 2>&1; then
    echo "$0: python3 is missing; install Python 3.9 or newer with numpy" \
        "(and PyTorch for the comparison)" >&2
    exit 2
fi
exec python3 "$(dirname "$0")/gpu_check.py" "$binary" "$folder" ${GPU_CHECK_FLAGS:-}
