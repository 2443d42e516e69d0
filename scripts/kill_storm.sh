#!/usr/bin/env bash
# A storm of kills: for so many seconds, several times a second, a random process of a run
# (evaluator, a worker) gets SIGKILL, or SIGSTOP and later SIGCONT, or SIGSTOP for good, which its
# coordinator has to notice; now and then the coordinator gets SIGKILL, or all processes at once do,
# and the run is started again with --resume. Then it is interrupted, and resumed in peace to a
# thousand rounds more than it has. Ends with the comparison with an undisturbed run of as many
# rounds (which takes a good part of the storm's time), and with what may be left: segments,
# processes, zombies, descriptors, temporary files.
#   scripts/kill_storm.sh [SECONDS, 60]      (RINGMASTER=path/of/binary, SEED=n)
set -euo pipefail
. "$(dirname "$0")/binary.sh"
seconds=${1:-60}
RANDOM=${SEED:-1}
printf 'max_restarts = 100000\nhang_timeout_s = 3\n' > "$dir/settings.toml"
"$RINGMASTER" weights init --width 32 --depth 1 --ffn 32 --seed 1 \
    --out "$dir/small.safetensors" > /dev/null
flags=(selfplay --workers 3 --simulations 40 --in-flight 4 --seed 77
    --weights "$dir/small.safetensors"
    --config "$dir/settings.toml" --backend cpu --json)

children() { cat "/proc/$1/task/$1/children" 2>/dev/null || true; }
state() { # of a process, as a letter: R and S at work, T stopped, Z dead and not reaped
    sed 's/.*) \(.\).*/\1/' "/proc/$1/stat" 2>/dev/null || true
}
descriptors() { (find "/proc/$1/fd" -mindepth 1 2>/dev/null || true) | wc -l; }
started() { # starts the coordinator, for more rounds than there is time for
    "$RINGMASTER" "${flags[@]}" --rounds 1000000000 --out "$dir/stormy" "$@" \
        > "$dir/report.json" 2>> "$dir/log" &
    pid=$!
    coordinators+=("$pid")
}
rounds_of() { "$RINGMASTER" replay verify --json "$1" | sed 's/.*"rounds":\([0-9]*\).*/\1/'; }

coordinators=()
declare -A count=([killed]=0 [stopped]=0 [hung]=0 [coordinator]=0 [everything]=0)
started
begin=$SECONDS
while [ $((SECONDS - begin)) -lt "$seconds" ] && kill -0 "$pid" 2>/dev/null; do
    sleep "0.$((RANDOM % 4))$((RANDOM % 10))"
    read -ra victims <<< "$(children "$pid")"
    [ ${#victims[@]} -gt 0 ] || continue
    victim=${victims[RANDOM % ${#victims[@]}]}
    # Only who is at work counts as hit.
    case $(state "$victim") in [RSD]) ;; *) continue ;; esac
    case $((RANDOM % 40)) in
    [01])
        # The folder is not there yet: nothing could be resumed.
        [ -e "$dir/stormy/manifest.json" ] || continue
        if [ $((RANDOM % 2)) = 0 ]; then
            # Whoever it leaves ends by itself.
            kill -9 "$pid"
            count[coordinator]=$((count[coordinator] + 1))
        else
            kill -9 "$pid" "${victims[@]}" 2>/dev/null || true
            count[everything]=$((count[everything] + 1))
        fi
        wait "$pid" 2>/dev/null || true
        # The folder's lock goes with the dead; its children need a moment.
        sleep 0.3
        started --resume ;;
    2)
        kill -STOP "$victim" 2>/dev/null || continue
        count[hung]=$((count[hung] + 1)) ;;
    [3-9] | 1[0-2])
        kill -STOP "$victim" 2>/dev/null || continue
        sleep "0.$((RANDOM % 10))"
        kill -CONT "$victim" 2>/dev/null || true
        count[stopped]=$((count[stopped] + 1)) ;;
    *)
        kill -9 "$victim" 2>/dev/null || continue
        count[killed]=$((count[killed] + 1)) ;;
    esac
done
lasted=$((SECONDS - begin))
# By then all are back, and whoever was left stopped has been noticed.
sleep 6
kill -0 "$pid" 2>/dev/null || { echo "the run has ended:"; tail -3 "$dir/log"; exit 1; }
open=$(descriptors "$pid")
zombies=0
for child in $(children "$pid"); do
    [ "$(state "$child")" != Z ] || zombies=$((zombies + 1))
done
kill -TERM "$pid"
interrupted=0
wait "$pid" || interrupted=$?
pid=
kept=$(rounds_of "$dir/stormy")
rounds=$((kept + 1000))
echo "storm           $lasted s: ${count[killed]} killed, ${count[stopped]} stopped for a moment," \
    "${count[hung]} for good, coordinator killed ${count[coordinator]} times," \
    "everything ${count[everything]} times; $kept rounds"
echo "log             $(grep -c '; restarted' "$dir/log" || true) restarts," \
    "$(grep -c 'no sign of life' "$dir/log" || true) found hung"

failed=0
check() { # what, found, wanted
    if [ "$2" = "$3" ]; then echo "$1$2"; else echo "$1$2, expected $3"; failed=1; fi
}
check "interrupted     " "$interrupted" 130
"$RINGMASTER" "${flags[@]}" --rounds "$rounds" --out "$dir/stormy" --resume \
    > "$dir/report.json" 2>> "$dir/log"
"$RINGMASTER" "${flags[@]}" --rounds "$rounds" --out "$dir/calm" > "$dir/calm.json" 2> /dev/null &
pid=$!
calm=0
while kill -0 "$pid" 2>/dev/null; do
    now=$(descriptors "$pid")
    calm=$((now > calm ? now : calm))
    sleep 0.2
done
wait "$pid"
pid=
digest() { "$RINGMASTER" replay digest "$dir/$1"; }
check "digest          " "$(digest stormy)" "$(digest calm)"
check "rounds          " "$(rounds_of "$dir/stormy")" "$rounds"
check "panics          " "$(grep -c panicked "$dir/log" || true)" 0
echo "descriptors     $open of the coordinator after the storm, at most $calm in the calm run"
check "leaking         " "$([ "$open" -le "$calm" ] && echo no || echo yes)" no
check "zombies         " "$zombies" 0
left=0
for coordinator in "${coordinators[@]}"; do
    # A pattern, not find, which fails when a file of somebody else goes while it looks.
    left=$((left + $( (compgen -G "/dev/shm/ringmaster-$coordinator-*" || true) | wc -l)))
done
check "segments left   " "$left" 0
segments="segment /ringmaster-($(IFS='|'; echo "${coordinators[*]}"))-"
check "processes left  " "$( (pgrep -f "$segments" || true) | wc -l)" 0
check "parts left      " "$(find "$dir/stormy" -name '*.part' | wc -l)" 0
exit $failed
