# Sourced by scripts that run the program: $RINGMASTER is its path (built unless set), $dir a folder
# that goes at the end, and with it the process $pid, if that is set.
cd "$(dirname "$0")/.."
if [ -z "${RINGMASTER:-}" ]; then
    cargo build --release --locked --quiet
    RINGMASTER=target/release/ringmaster
fi
dir=$(mktemp -d)
pid=
trap 'kill -9 ${pid:-} 2>/dev/null || true; rm -rf "$dir"' EXIT
