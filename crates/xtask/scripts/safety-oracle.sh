#!/bin/bash
# Compares `kiln check --safety` with OpenStack's own inspector (oslo.utils from PyPI, in target/oslo) on the files
# named: crates/xtask/scripts/safety-oracle.sh FILE... Exit 1 where the two disagree.
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
kiln=${KILN:-$root/target/release/kiln}
if [ ! -x "$root/target/oslo/bin/python" ]; then
    python3 -m venv "$root/target/oslo"
    "$root/target/oslo/bin/pip" -q install oslo.utils==10.2.0 cryptography
fi
exec "$root/target/oslo/bin/python" - "$kiln" "$@" <<'PYTHON'
import json
import logging
import subprocess
import sys

from oslo_utils.imageutils import format_inspector

logging.disable(logging.CRITICAL)


def theirs(path):
    with open(path, "rb") as file:
        wrapper = format_inspector.InspectWrapper(file)
        while wrapper.read(65536):
            pass
        wrapper.close()
    names = sorted(str(one) for one in wrapper.formats)
    if len(names) > 1:
        return names, False
    try:
        wrapper.format.safety_check()
    except format_inspector.SafetyCheckFailed:
        return names, False
    return names, True


kiln, differ = sys.argv[1], 0
for path in sys.argv[2:]:
    ran = subprocess.run([kiln, "check", "--safety", "--json", path], capture_output=True, text=True)
    answer = json.loads(ran.stdout)
    pair = theirs(path), (sorted(answer["formats"]), answer["safe"])
    differ += pair[0] != pair[1]
    print("same" if pair[0] == pair[1] else "DIFFER", path, *pair)
sys.exit(differ > 0)
PYTHON
