#!/usr/bin/env bash
# Instructions per simulation in a worker, counted by callgrind in benches/worker_path.rs:
# everything a worker does for a simulation except the network, set-up left out. Each table is
# played at two lengths and the difference taken, so that what happens once (first use of memory,
# lazily bound symbols) drops out too. Exact and repeatable, whatever else the machine does. Fails
# when the default table (4 players x 5 cards, 3 worlds x 30 simulations) takes more than the limit.
#
#     scripts/instructions.sh            all tables
#     scripts/instructions.sh --profile  also where the default table's instructions go, by function
set -euo pipefail
cd "$(dirname "$0")/.."

limit=2000
folder=target/callgrind

if ! command -v valgrind >/dev/null; then
    echo "valgrind is missing; installing it" >&2
    { apt-get update && apt-get install -y valgrind; } >&2
fi
bench=$(cargo bench --no-run --bench worker_path --message-format=json |
    sed -n 's/.*"name":"worker_path".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)
[ -x "$bench" ] || { echo "instructions.sh: benches/worker_path.rs did not build" >&2; exit 1; }
mkdir -p "$folder"

# count OUT PLAYERS CARDS WORLDS SIMULATIONS LEAVES ROUNDS -> "instructions simulations decisions"
count() {
    local out=$1 printed log
    shift
    printed=$(valgrind --tool=callgrind --callgrind-out-file="$out" --log-file="$out.log" \
        --collect-atstart=no '--toggle-collect=worker_path::worker_pass*' "$bench" "$@")
    log=$(sed -n 's/.*Collected : //p' "$out.log")
    echo "$log $(sed 's/.*decisions \([0-9]*\) simulations \([0-9]*\).*/\2 \1/' <<<"$printed")"
}

# measure NAME PLAYERS CARDS WORLDS SIMULATIONS LEAVES ROUNDS: sets `per`, prints a line
measure() {
    local name=$1 out=$folder/${1// /_}.out long short
    shift
    local table=("${@:1:5}") rounds=$6 counted
    counted=$(count "$out.short" "${table[@]}" "$rounds")
    read -ra short <<<"$counted"
    counted=$(count "$out" "${table[@]}" $((3 * rounds)))
    read -ra long <<<"$counted"
    local instructions=$((long[0] - short[0])) simulations=$((long[1] - short[1]))
    if [ "$instructions" -le 0 ] || [ "$simulations" -le 0 ]; then
        echo "instructions.sh: nothing was counted for $name; see $out.log" >&2
        exit 1
    fi
    per=$(((instructions + simulations / 2) / simulations))
    printf '%-34s %6d per simulation, %8d per decision (%d simulations)\n' "$name" "$per" \
        $((instructions / (long[2] - short[2]))) "$simulations"
}

measure "4x5 3 worlds x 30"           4 5 3 30 1 64
default=$per
measure "8x6 3 worlds x 30"           8 6 3 30 1 32
measure "3x17 3 worlds x 30"          3 17 3 30 1 32
measure "4x5 3 worlds x 30, 10 leaves" 4 5 3 30 10 64
measure "4x5 1 world x 90"            4 5 1 90 1 64
measure "4x5 5 worlds x 50"           4 5 5 50 1 48
if [ "${1-}" = --profile ]; then
    # Only whole functions of ours: those that callgrind lists with the program they are in.
    callgrind_annotate --inclusive=yes --auto=no --threshold=95 "$folder/4x5_3_worlds_x_30.out" |
        sed -n 's| \[.*/worker_path-.*\]$||p' | grep ringmaster::
fi

echo "instructions per simulation: $default"
if [ "$default" -gt $limit ]; then
    echo "instructions.sh: more than $limit" >&2
    exit 1
fi
