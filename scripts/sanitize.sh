#!/bin/sh
# Runs the tests of src/shm (all its unsafe code, on heap memory and on real segments) under
# AddressSanitizer, and those on heap memory under valgrind. Only src/shm is built, through a
# manifest of its own under target/, as in scripts/tsan.sh.
#
# Not run: Miri (not to be had with this toolchain; it has no shared mappings or futexes anyway).
# Valgrind does not run the tests with real segments (it does not know MADV_POPULATE_WRITE, and its
# threads take turns, so that spinning between two of them takes for ever): those run under
# AddressSanitizer. Neither tool sees what another process does to the memory; for that the code
# reads only atomics and checks what it reads, see tests/hostile.rs.
#   scripts/sanitize.sh [address|valgrind ...]
set -eu
. "$(dirname "$0")/shm_alone.sh"
[ $# -gt 0 ] || set -- address valgrind
for tool in "$@"; do
    case $tool in
    address)
        if ! rustup toolchain list 2>/dev/null | grep -q nightly; then
            echo "address: no nightly toolchain on this machine: not run"
            continue
        fi
        echo "== AddressSanitizer with leak detection"
        RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS="detect_leaks=1 ${ASAN_OPTIONS:-}" \
            cargo +nightly test --manifest-path "$manifest" \
            --target x86_64-unknown-linux-gnu --lib --tests
        ;;
    valgrind)
        if ! command -v valgrind > /dev/null; then
            echo "valgrind: not installed: not run"
            continue
        fi
        echo "== valgrind, heap memory"
        # The ring, the handover and the memory under them; not their tests between threads.
        for tests in --lib "--test ring" "--test journal"; do
            # shellcheck disable=SC2086
            cargo test --manifest-path "$manifest" $tests --no-run --message-format=json \
                | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 > "$dir/tests.txt"
            [ "$tests" = --lib ] && only='handover:: memory::' || only=
            # shellcheck disable=SC2086
            valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite \
                --errors-for-leak-kinds=definite "$(tail -1 "$dir/tests.txt")" --test-threads 1 \
                $only --skip between_threads --skip ping_pong
        done
        ;;
    *) echo "sanitize.sh: no tool $tool" >&2; exit 2 ;;
    esac
done
