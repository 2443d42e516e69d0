#!/usr/bin/env bash
# What deaths cost: a run at the default settings in which a random child (evaluator, a worker) gets
# SIGKILL at even intervals, after an undisturbed run of the same length. Prints the rounds a minute
# of both, their ratio, and whether both have the same digest once they are played to the same
# number of rounds.
#   scripts/deaths.sh [SECONDS BETWEEN TWO KILLS, 3] [SECONDS OF THE RUN, 180]
# with RINGMASTER=path/of/binary and SEED=n in the environment.
set -euo pipefail
. "$(dirname "$0")/binary.sh"
every=${1:-3}
seconds=${2:-180}
RANDOM=${SEED:-1}

of() { sed "s/.*\"$1\":\([0-9.]*\).*/\1/" "$dir/$2.json"; }
# Endless: only time ends it.
run() {
    exec "$RINGMASTER" selfplay --rounds 0 --seconds "$seconds" --json --out "$dir/$1" \
        > "$dir/$1.json" 2> "$dir/log"
}

(run calm)
run deadly &
pid=$!
kills=0
while sleep "$every" && kill -0 "$pid" 2>/dev/null; do
    read -ra children <<< "$(cat "/proc/$pid/task/$pid/children" 2>/dev/null || true)"
    [ ${#children[@]} -gt 0 ] || continue
    kill -9 "${children[RANDOM % ${#children[@]}]}" 2>/dev/null && kills=$((kills + 1))
done
wait "$pid" || { tail -3 "$dir/log"; exit 1; }
pid=
awk -v a="$(of rounds calm)" -v b="$(of rounds deadly)" -v s="$seconds" -v k="$kills" \
    -v r="$(of restarts deadly)" 'BEGIN {
    printf "undisturbed     %.0f rounds a minute\n", a * 60 / s
    printf "deaths          %d kills, %d restarts: %.0f rounds a minute\n", k, r, b * 60 / s
    printf "ratio           %.2f\n", b / a
}'
# To the highest round that either has.
last() { "$RINGMASTER" replay show "$dir/$1" | tail -1 | sed 's/.*"round":\([0-9]*\).*/\1/'; }
rounds=$(($(printf '%s\n' "$(last deadly)" "$(last calm)" | sort -n | tail -1) + 1))
for run in deadly calm; do
    "$RINGMASTER" selfplay --resume --rounds "$rounds" --seconds 0 --json --out "$dir/$run" \
        > "$dir/$run.json" 2> "$dir/log" \
        || { tail -3 "$dir/log"; exit 1; }
    [ "$(of rounds_in_replay "$run")" = "$rounds" ] ||
        { echo "$run: not all of $rounds rounds"; exit 1; }
done
digest() { "$RINGMASTER" replay digest "$dir/$1"; }
cmp -s <(digest deadly) <(digest calm) || { echo "digest          differs"; exit 1; }
echo "digest          equal, $rounds rounds"
