#!/usr/bin/env bash
# A soak: self-play for so many seconds, with resident memory and open descriptors of every process
# sampled all the while. Prints per process the first and last sample and the slope of a straight
# line through all but the first tenth; nothing should grow. With RENEW=N the weights are replaced
# every N seconds, so that loading and letting go of networks is soaked, too.
#   scripts/soak.sh [SECONDS, 3600] [flags of selfplay ...]
# with RINGMASTER=path/of/binary and RENEW=seconds in the environment.
set -euo pipefail
. "$(dirname "$0")/binary.sh"
seconds=${1:-3600}
[ $# -eq 0 ] || shift
# Interrupted in order, not killed.
trap 'kill -TERM ${pid:-} 2>/dev/null && wait ${pid:-} || true; rm -rf "$dir"' EXIT
renewed=0
renew() { # puts other weights where the run looks for them, at one stroke
    "$RINGMASTER" weights init --seed "$renewed" --out "$dir/next" > /dev/null
    mv "$dir/next" "$dir/weights.safetensors"
    renewed=$((renewed + 1))
}
if [ -n "${RENEW:-}" ]; then
    renew
    set -- --weights "$dir/weights.safetensors" "$@"
fi
"$RINGMASTER" selfplay --rounds 1000000000 --workers 2 --out "$dir/replay" "$@" \
    > /dev/null 2> "$dir/log" &
pid=$!
sleep 2
every=$(((seconds + 99) / 100))
begin=$SECONDS
while [ $((SECONDS - begin)) -lt "$seconds" ]; do
    [ -z "${RENEW:-}" ] || [ $((SECONDS - begin)) -lt $((renewed * RENEW)) ] || renew
    kill -0 "$pid" 2>/dev/null || { echo "the run has ended:"; tail -3 "$dir/log"; exit 1; }
    for process in $pid $(cat "/proc/$pid/task/$pid/children"); do
        name=$(tr '\0' ' ' < "/proc/$process/cmdline" |
            awk '{print $2 ($3 == "--index" ? $4 : "")}')
        memory=$(awk '/^VmRSS/ {print $2}' "/proc/$process/status")
        descriptors=$(find "/proc/$process/fd" -mindepth 1 | wc -l)
        echo "$((SECONDS - begin)) $name $memory $descriptors"
    done >> "$dir/samples"
    sleep "$every"
done
awk '
    { if (!($2 in n)) { order[++names] = $2; first[$2] = $3; files[$2] = $4 } }
    { n[$2]++; last[$2] = $3; last_files[$2] = $4 }
    $1 >= seconds / 10 { m[$2]++; x[$2] += $1; y[$2] += $3; xx[$2] += $1 * $1; xy[$2] += $1 * $3 }
    END {
        printf "%-12s %8s %12s %12s %16s %12s\n", "process", "samples", "first KiB",
            "last KiB", "slope KiB/min", "descriptors"
        for (i = 1; i <= names; i++) {
            p = order[i]; d = m[p] * xx[p] - x[p] * x[p]
            slope = d > 0 ? 60 * (m[p] * xy[p] - x[p] * y[p]) / d : 0
            printf "%-12s %8d %12d %12d %16.1f %5d -> %d\n", p, n[p], first[p], last[p],
                slope, files[p], last_files[p]
        }
    }' seconds="$seconds" "$dir/samples"
[ -z "${RENEW:-}" ] ||
    echo "$(grep -c 'play from round' "$dir/log" || true) times new weights were taken up"
grep -Eo '^[0-9]+/' "$dir/log" | tail -1 | sed 's|/| rounds played|'
