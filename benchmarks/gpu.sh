#!/usr/bin/env bash
# All that a single GPU can show, on a bare machine with torch and triton (pytest too, for the tests): tests marked `gpu`, the kernel
# benchmarks, one training step; one JSON, under ten minutes.   [K15_COMMIT=...] benchmarks/gpu.sh [OUT.json] [--quick]
# Every part has its own limit, and OUT.json is written anew after each: whatever ends this script leaves what was measured.
set -uo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
out='' quick=''
for word in "$@"; do
  case $word in
    --quick) quick=$word ;;
    -*) echo "gpu.sh: there is no option $word; allowed: --quick" >&2 && exit 2 ;;
    *) [[ -z $out ]] || { echo "gpu.sh: two files, $out and $word; give one" >&2 && exit 2; }
      out=$word ;;
  esac
done
out=${out:-$repo/benchmarks/results/gpu-$(date -u +%F).json}
mkdir -p "$(dirname "$out")"
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# k15.kernels is the folder kernels/: a tree of links stands for the installed package.
mkdir -p "$work/path/k15"
ln -s "$repo"/k15/* "$repo/kernels" "$work/path/k15/"
ln -s "$repo/benchmarks" "$work/path/benchmarks"
export PYTHONPATH="$work/path:$repo/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
timeout -k 5 60 "$python" -c 'import sys, torch, triton; sys.exit(0 if torch.cuda.is_available() else "no CUDA device here")' || exit 2

failed=0
END_S=560 # of this script: what has not begun by then is left out, what runs is ended
run() { # run NAME LIMIT_S COMMAND...: its log and its exit code are part of the result
  local name=$1 limit=$2 code=0 left=$((END_S - SECONDS))
  shift 2
  printf '== %s\n' "$name"
  ((left < limit)) && limit=$((left > 1 ? left : 1))
  # No pipe: a helper process that outlives its parent would hold it open.
  timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null || code=$?
  printf '%s %s' "$code" "$limit" >"$work/$name.code"
  tail -n 30 "$work/$name.log"
  ((code == 0)) || failed=1
  collect
}

collect() { # all parts so far -> OUT.json
  "$python" - "$work" "$out" <<'PY'
import json, sys
from pathlib import Path
work, out = map(Path, sys.argv[1:])
result = {}
for code in sorted(work.glob("*.code"), key=lambda path: path.stat().st_mtime):
    name, (exit_code, limit_s) = code.stem, map(int, code.read_text().split())
    data, log = work / f"{name}.json", (work / f"{name}.log").read_text(errors="replace")
    result[name] = {"exit_code": exit_code, "ended_by_limit": exit_code in (124, 137), "limit_s": limit_s}
    result[name]["last_lines"] = log.splitlines()[-40:]
    if data.exists():
        result[name]["result"] = json.loads(data.read_text())
part = out.with_suffix(".part")
part.write_text(json.dumps(result, indent=1) + "\n")
part.replace(out)
print("written:", out.name, "with", *result)
PY
}

# Only the files of these tests: others import what a bare machine lacks.
run tests 150 "$python" -m pytest -q -m gpu -c /dev/null -W ignore::pytest.PytestUnknownMarkWarning -p no:cacheprovider \
  --rootdir "$repo/tests" --confcutdir "$repo/tests/kernels" "$repo"/tests/kernels/test_*_gpu.py
# What counts most comes first.
# shellcheck disable=SC2086
{
  run logprob 180 "$python" -m benchmarks.kernels.logprob --out "$work/logprob.json" --limit-s 90 $quick
  run pmd 80 "$python" -m benchmarks.kernels.pmd --out "$work/pmd.json" $quick
  run repetition 60 "$python" -m benchmarks.kernels.repetition --out "$work/repetition.json" $quick
  run train_step 60 "$python" -m benchmarks.kernels.train_step --out "$work/train_step.json" $quick
}
exit $failed
