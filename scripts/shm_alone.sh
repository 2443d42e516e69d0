# Sourced by tsan.sh and sanitize.sh: a crate below target/ that is src/shm and its tests alone,
# which a sanitizer builds in a minute. Sets $root, $dir and $manifest.
root=$(cd "$(dirname "$0")/.." && pwd)
dir=$root/target/$(basename "$0" .sh)
manifest=$dir/Cargo.toml
mkdir -p "$dir/src" "$dir/tests"
cat > "$dir/src/lib.rs" <<RUST
//! src/shm alone.
#[path = "$root/src/fault.rs"]
pub mod fault;
#[path = "$root/src/shm/mod.rs"]
pub mod shm;
RUST
# The crash model unwinds at every step, which is where memory would be left behind.
for test in doorbell journal ring ring_crash segment; do
    sed 's/ringmaster::shm/ringmaster_shm::shm/' "$root/tests/$test.rs" > "$dir/tests/$test.rs"
done
# The lines of these dependencies in the project's manifest; a list of features may take several.
dependencies() {
    awk -v wanted="^($1) = " \
        '$0 ~ wanted { on = 1 } on { print } /(^[a-z0-9_-]+ = ".*"|\})$/ { on = 0 }' \
        "$root/Cargo.toml"
}
cat > "$manifest" <<TOML
[package]
name = "ringmaster-shm"
version = "0.0.0"
edition = "2024"
publish = false

[workspace]

[profile.dev]
opt-level = 1

[dependencies]
$(dependencies 'bytemuck|crc32fast|libc|nix|raw_sync|shared_memory|thiserror')

[dev-dependencies]
$(dependencies proptest)
TOML
cp "$root/Cargo.lock" "$dir/Cargo.lock"
