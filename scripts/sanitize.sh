#!/bin/sh
# Runs the tests of src/shm (all its unsafe code, on heap memory and on real segments) under AddressSanitizer, and those on heap
# memory under valgrind. Only src/shm is built, through a manifest of its own under target/, as in scripts/tsan.sh.
#
# Not run: Miri (not to be had with this toolchain; it has no shared mappings or futexes anyway). Valgrind does not run the tests with
# real segments (it does not know MADV_POPULATE_WRITE, and its threads take turns, so that spinning between two of them takes
# for ever): those run under AddressSanitizer. Neither tool sees what another process does to the memory; for that the code reads
# only atomics and checks what it reads, see tests/hostile.rs.
#   scripts/sanitize.sh [address|valgrind ...]
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$root/target/sanitize
mkdir -p "$dir/src" "$dir/tests"
cat > "$dir/src/lib.rs" <<RUST
//! src/shm alone.
#[path = "$root/src/shm/mod.rs"]
pub mod shm;
RUST
# The crash model needs nothing but src/shm; it unwinds at every step, which is where memory would be left behind.
sed 's/ringmaster::shm/ringmaster_shm::shm/' "$root/tests/ring_crash.rs" > "$dir/tests/ring_crash.rs"
cat > "$dir/Cargo.toml" <<TOML
[package]
name = "ringmaster-shm"
version = "0.0.0"
edition = "2024"
publish = false

[workspace]

[profile.dev]
opt-level = 1

[dependencies]
$(grep -E '^(bytemuck|crc32fast|libc|nix|raw_sync|shared_memory|thiserror) =' "$root/Cargo.toml")

[dev-dependencies]
$(grep -E '^proptest =' "$root/Cargo.toml")
TOML
cp "$root/Cargo.lock" "$dir/Cargo.lock"
[ $# -gt 0 ] || set -- address valgrind
for tool in "$@"; do
    case $tool in
    address)
        if ! rustup toolchain list 2>/dev/null | grep -q nightly; then
            echo "address: no nightly toolchain on this machine: not run"
            continue
        fi
        echo "== AddressSanitizer with leak detection"
        RUSTFLAGS="-Zsanitizer=address" ASAN_OPTIONS="detect_leaks=1 ${ASAN_OPTIONS:-}" cargo +nightly test \
            --manifest-path "$dir/Cargo.toml" --target x86_64-unknown-linux-gnu --lib --tests
        ;;
    valgrind)
        if ! command -v valgrind > /dev/null; then
            echo "valgrind: not installed: not run"
            continue
        fi
        echo "== valgrind, heap memory"
        cargo test --manifest-path "$dir/Cargo.toml" --lib --no-run --message-format=json \
            | grep -o '"executable":"[^"]*"' | cut -d'"' -f4 > "$dir/tests.txt"
        # The ring, the handover and the memory under them; not their tests between threads.
        valgrind --quiet --error-exitcode=1 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite "$(tail -1 "$dir/tests.txt")" \
            --test-threads 1 ring:: handover:: memory:: --skip between_threads --skip ping_pong
        ;;
    *) echo "sanitize.sh: no tool $tool" >&2; exit 2 ;;
    esac
done
