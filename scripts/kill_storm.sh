#!/usr/bin/env bash
# A storm of kills: for so many seconds SIGKILL or SIGSTOP/SIGCONT hits a random process of a run (evaluator, a worker, now and then
# the coordinator, which is then started again with --resume), several times a second; then the run goes on in peace. Ends with the
# comparison with an undisturbed run, and with what may be left: segments, processes, descriptors, temporary files.
#   scripts/kill_storm.sh [SECONDS, 60] [ROUNDS, enough for them]      (RINGMASTER=path/of/binary, SEED=n)
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
rounds=${2:-$((seconds * 100 + 1000))}
RANDOM=${SEED:-1}
if [ -z "${RINGMASTER:-}" ]; then
    cargo build --release --locked --quiet
    RINGMASTER=target/release/ringmaster
fi
dir=$(mktemp -d)
pid=
trap 'kill -9 ${pid:-} 2>/dev/null || true; rm -rf "$dir"' EXIT
printf 'max_restarts = 100000\nhang_timeout_s = 5\n' > "$dir/settings.toml"
"$RINGMASTER" weights init --width 32 --depth 1 --ffn 32 --seed 1 --out "$dir/small.safetensors" > /dev/null
flags=(selfplay --rounds "$rounds" --simulations 40 --in-flight 4 --seed 77 --weights "$dir/small.safetensors"
    --config "$dir/settings.toml" --json)

children() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }
started() { # starts the coordinator with these flags
    "$RINGMASTER" "${flags[@]}" --workers 3 --out "$dir/stormy" "$@" > "$dir/report.json" 2>> "$dir/log" &
    pid=$!
    coordinators+=("$pid")
}

coordinators=()
descriptors=0
declare -A count=([killed]=0 [stopped]=0 [coordinator]=0)
started
end=$((SECONDS + seconds))
while [ $SECONDS -lt "$end" ] && kill -0 "$pid" 2>/dev/null; do
    sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
    open=$(find "/proc/$pid/fd" -mindepth 1 2>/dev/null | wc -l || true)
    descriptors=$((open > descriptors ? open : descriptors))
    read -ra victims <<< "$(children "$pid")"
    [ ${#victims[@]} -gt 0 ] || continue
    victim=${victims[RANDOM % ${#victims[@]}]}
    case $((RANDOM % 20)) in
    0) # everything: the coordinator, and whoever it leaves ends by itself
        [ -e "$dir/stormy/manifest.json" ] || continue
        kill -9 "$pid"
        wait "$pid" 2>/dev/null || true
        count[coordinator]=$((count[coordinator] + 1))
        # The folder's lock goes with the dead; its children need a moment.
        sleep 0.3
        started --resume ;;
    [1-5])
        kill -STOP "$victim" 2>/dev/null || continue
        sleep "0.$((RANDOM % 10))"
        kill -CONT "$victim" 2>/dev/null || true
        count[stopped]=$((count[stopped] + 1)) ;;
    *)
        kill -9 "$victim" 2>/dev/null || continue
        count[killed]=$((count[killed] + 1)) ;;
    esac
done
zombies=0
for child in $(children "$pid"); do
    grep -q ') Z ' "/proc/$child/stat" 2>/dev/null && zombies=$((zombies + 1))
done
wait "$pid" || { echo "the run failed:"; tail -3 "$dir/log"; exit 1; }
pid=
echo "storm         $((SECONDS - end + seconds)) s: ${count[killed]} killed, ${count[stopped]} stopped, coordinator killed ${count[coordinator]} times"
echo "panics        $(grep -c panicked "$dir/log" || true)"
echo "descriptors   at most $descriptors of a coordinator during the storm; $zombies zombies after it"

"$RINGMASTER" "${flags[@]}" --workers 2 --out "$dir/calm" > "$dir/calm.json" 2> /dev/null
failed=0
check() { # what, found, wanted
    if [ "$2" = "$3" ]; then echo "$1$2"; else echo "$1$2, expected $3"; failed=1; fi
}
check "digest        " "$("$RINGMASTER" replay digest "$dir/stormy")" "$("$RINGMASTER" replay digest "$dir/calm")"
check "rounds        " "$("$RINGMASTER" replay verify --json "$dir/stormy" | sed 's/.*"rounds":\([0-9]*\).*/\1/')" "$rounds"
left=0
for coordinator in "${coordinators[@]}"; do
    left=$((left + $(find /dev/shm -maxdepth 1 -name "ringmaster-$coordinator-*" | wc -l)))
done
check "segments left " "$left" 0
check "processes left " "$( (pgrep -f "segment /ringmaster-($(IFS='|'; echo "${coordinators[*]}"))-" || true) | wc -l)" 0
check "parts left    " "$(find "$dir/stormy" -name '*.part' | wc -l)" 0
exit $failed
