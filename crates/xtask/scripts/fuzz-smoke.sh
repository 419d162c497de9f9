#!/bin/bash
# Runs every fuzz target of every crate for KILN_FUZZ_SECONDS (default 30). A crash fails the run and leaves
# its input under crates/<crate>/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../../.."
seconds="${KILN_FUZZ_SECONDS:-30}"
compgen -G 'crates/*/fuzz/Cargo.toml' >/dev/null || { echo "error: no crates/*/fuzz" >&2; exit 1; }
# Coverage instrumentation is an unstable compiler option; the pinned stable compiler accepts it so.
export RUSTC_BOOTSTRAP=1
cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz

ran=0
for dir in crates/*/fuzz; do
    [ -f "$dir/Cargo.toml" ] || continue
    while read -r target; do
        echo "==> $dir: $target, $seconds s"
        scratch="$(mktemp -d)"
        # The committed corpus is read; what this run finds goes to a scratch directory.
        (cd "${dir%/fuzz}" && cargo fuzz run --sanitizer none "$target" "$scratch" \
            $([ -d "fuzz/corpus/$target" ] && echo "fuzz/corpus/$target") -- \
            -max_total_time="$seconds" -timeout=10 -rss_limit_mb=512 </dev/null)
        rm -rf "$scratch"
        ran=$((ran + 1))
    done < <(cd "${dir%/fuzz}" && cargo fuzz list)
done
[ "$ran" -gt 0 ] || { echo "error: crates/*/fuzz declare no target" >&2; exit 1; }
echo "fuzz-smoke: $ran targets, no crash"
