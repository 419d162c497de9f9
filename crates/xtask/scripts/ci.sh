#!/bin/bash
# Runs every gate, goes on after one that fails so that one run tells all, and closes with the test totals.
set -uo pipefail
cd "$(dirname "$0")/../../.."
# What a shell starts in the background has interrupts ignored, and a program that inherits that does not hear them:
# the tests that interrupt one would wait for ever.
if [ -z "${KILN_CI_HEARS:-}" ]; then
    exec env --default-signal=INT,QUIT,HUP KILN_CI_HEARS=1 bash crates/xtask/scripts/ci.sh
fi
logs=target/ci
rm -rf "$logs"
mkdir -p "$logs"
# Nothing is compiled twice here: what a second build would reuse is not worth writing.
export CARGO_INCREMENTAL=0
# A failed assertion names its line without that.
export CARGO_PROFILE_DEV_DEBUG=0
# Half of the time of a test that captures or starts a machine is waiting.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"

failed=()
gate() {
    local began=$SECONDS
    echo "==> make $1"
    make --no-print-directory "$@" </dev/null || failed+=("$1")
    echo "<== make $1: $((SECONDS - began)) s"
}

gate setup
# Without the tools nothing below means anything.
[ ${#failed[@]} -eq 0 ] || { echo "error: make setup failed" >&2; exit 1; }
for target in fmt-check lint test; do gate "$target"; done
for target in fixtures-check e2e doc; do gate "$target" XTASK=target/debug/kiln-xtask; done

# Every run of tests that was meant to happen has happened, and found tests to run.
for log in test e2e; do
    grep -qE '^test result: .* [1-9][0-9]* passed' "$logs/$log.log" 2>/dev/null || failed+=("$log: no test passed")
done

[ ${#failed[@]} -eq 0 ] || printf 'failed gate: %s\n' "${failed[@]}" >&2
cat "$logs"/*.log 2>/dev/null | awk '
    /^test result: / {
        for (i = 2; i <= NF; i++) {
            if ($i == "passed;") passed += $(i - 1)
            if ($i == "failed;") failed += $(i - 1)
        }
    }
    END { printf "%d passed, %d failed\n", passed, failed }'
[ ${#failed[@]} -eq 0 ]
