#!/bin/sh
# Runs the threaded tests of the ring and the doorbell under ThreadSanitizer (nightly toolchain; the
# standard library itself is not instrumented). Only src/shm is built, through a manifest of its own
# under target/, so that this takes a minute.
#   scripts/tsan.sh [TEST FILTER ...]
set -eu
. "$(dirname "$0")/shm_alone.sh"
# --target keeps the sanitizer out of build scripts and macros; the ABI exception admits the
# uninstrumented standard library.
export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
# Arc's drop and the test harness's channel synchronise within the uninstrumented library, which the
# sanitizer cannot see; nothing of ours is in there.
printf 'race:%s\n' 'alloc::sync::Arc<*drop' 'alloc::sync::Weak<*drop' CompletedTest \
    > "$dir/suppressions"
export TSAN_OPTIONS="halt_on_error=1 suppressions=$dir/suppressions ${TSAN_OPTIONS:-}"
[ $# -gt 0 ] || set -- between_threads ping_pong a_sleeper wake_makes lets_threads_through
cargo +nightly test --manifest-path "$manifest" --target x86_64-unknown-linux-gnu \
    --test doorbell --test ring --test segment -- "$@"
