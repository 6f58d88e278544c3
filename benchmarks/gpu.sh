#!/usr/bin/env bash
# All that a single GPU can show, on a bare machine with torch and triton (pytest too, for the tests): tests marked `gpu`, the kernel
# benchmarks, one training step; one JSON, under ten minutes.   benchmarks/gpu.sh [OUT.json] [--quick]
set -uo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$repo/benchmarks/results/gpu-$(date -u +%F).json}
quick=${2:-}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# k15.kernels is the folder kernels/: a tree of links stands for the installed package.
mkdir -p "$work/path/k15"
ln -s "$repo"/k15/* "$repo/kernels" "$work/path/k15/"
ln -s "$repo/benchmarks" "$work/path/benchmarks"
export PYTHONPATH="$work/path:$repo/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
"$python" -c 'import sys, torch, triton; sys.exit(0 if torch.cuda.is_available() else "no CUDA device here")' || exit 2

failed=0
END_S=560 # of this script: what has not begun by then is left out, what runs is ended
run() { # run NAME LIMIT_S COMMAND...: its log and its exit code are part of the result
  local name=$1 limit=$2 code left=$((END_S - SECONDS))
  shift 2
  printf '== %s\n' "$name"
  ((left < limit)) && limit=$((left > 1 ? left : 1))
  timeout -k 5 "$limit" "$@" 2>&1 | tee "$work/$name.log"
  code=${PIPESTATUS[0]}
  printf '%s' "$code" >"$work/$name.code"
  ((code == 0)) || failed=1
}

# Only the files of these tests: others import what a bare machine lacks.
run tests 180 "$python" -m pytest -q -m gpu -c /dev/null -W ignore::pytest.PytestUnknownMarkWarning -p no:cacheprovider \
  --rootdir "$repo/tests" --confcutdir "$repo/tests/kernels" "$repo"/tests/kernels/test_*_gpu.py
# shellcheck disable=SC2086
{
  run pmd 80 "$python" -m benchmarks.kernels.pmd --out "$work/pmd.json" $quick
  run train_step 80 "$python" -m benchmarks.kernels.train_step --out "$work/train_step.json" $quick
  run repetition 80 "$python" -m benchmarks.kernels.repetition --out "$work/repetition.json" $quick
  run logprob 300 "$python" -m benchmarks.kernels.logprob --out "$work/logprob.json" --limit-s 120 $quick
}

"$python" - "$work" "$out" <<'PY'
import json, sys
from pathlib import Path
work, out = map(Path, sys.argv[1:])
result = {}
for code in sorted(work.glob("*.code")):
    name = code.stem
    data, log = work / f"{name}.json", (work / f"{name}.log").read_text(errors="replace")
    result[name] = {"exit_code": int(code.read_text()), "last_lines": log.splitlines()[-5:]}
    if data.exists():
        result[name]["result"] = json.loads(data.read_text())
out.write_text(json.dumps(result, indent=1) + "\n")
print("written:", out.name)
PY
exit $failed
