#!/bin/sh
# Checks a GPU without Node: needs moe_gpu_check, moe_cuda.so and moe_simt.so in one folder (npm run gpu-check -- build makes
# it), which is all that has to be carried to the machine, with this script.
#
#   gpu-check.sh [STAGE ...]
#
# Stages, all where none is named, each at most 8 minutes:
#   conformance   random graphs of every operation on the GPU, against the reference
#   twin          the same against the same kernels on simt: integers to the bit
#   sanitize      compute-sanitizer's four tools over one case of each operation
#   bench         times and shares of the limits measured beside them, into RESULTS/<gpu>-<date>.json
#
# Environment: KIT (that folder; default: the script's own), DEVICE (cuda; simt: a dry run, whose times mean nothing), RESULTS
# (default: KIT), COMPUTE_SANITIZER (default: the one on PATH or in /usr/local/cuda/bin), CASES (cases of an operation; 8).
# Status: 0 where stages passed and none failed; 1 where one failed; 3 where the device cannot be used; 4 where every stage
# was skipped, each with its reason.

here=$(cd "$(dirname "$0")" && pwd)
kit=${KIT:-$here}
device=${DEVICE:-cuda}
results=${RESULTS:-$kit}
cases=${CASES:-8}
limit=480
driver=$kit/moe_gpu_check
failed=0
passed=0
skipped=4

if [ ! -x "$driver" ]; then
  echo "gpu-check: no $driver: npm run gpu-check -- build makes it" >&2
  exit 1
fi
description=$("$driver" describe --device "$device") || exit 3
gpu=$(printf '%s' "$description" | sed -n 's/.*"gpu":"\([^"]*\)".*/\1/p')
echo "gpu-check: $gpu ($device)"
[ "$device" = simt ] && echo "gpu-check: a dry run on the processor: it shows that everything runs, no speed is meant"

# begin NAME, then the stage's command through `limited`, then end STATUS.
begin() { echo "== $1"; }
limited() { timeout "$limit" "$@"; }
end() {
  case $1 in
    0) passed=1 ;;
    "$skipped") ;;
    124) failed=1 && echo "FAILED: stopped after $limit s" ;;
    *) failed=1 && echo "FAILED with status $1" ;;
  esac
}

conformance() {
  limited "$driver" conformance --device "$device" --against reference --cases "$cases"
}

twin() {
  if [ ! -f "$kit/moe_simt.so" ]; then
    echo "skipped: no $kit/moe_simt.so"
    return "$skipped"
  fi
  limited "$driver" conformance --device "$device" --against simt --cases "$cases"
}

# One tool; it says so where the machine does not let it work.
sanitize_with() {
  log=$(mktemp)
  limited "$sanitizer" --tool "$1" --error-exitcode 9 "$driver" conformance --device "$device" --cases 1 >"$log" 2>&1
  status=$?
  if [ "$status" -ne 124 ] && ! grep -q 'ERROR SUMMARY\|RACECHECK SUMMARY' "$log"; then
    echo "$1: skipped, compute-sanitizer cannot work here: $(grep -m 1 -i 'error\|fail\|denied\|support' "$log")"
    status=$skipped
  else
    echo "$1: $(grep 'SUMMARY' "$log" | tail -1)"
    [ "$status" -eq 0 ] || grep -m 40 '=====' "$log"
  fi
  rm -f "$log"
  return "$status"
}

sanitize() {
  if [ "$device" != cuda ]; then
    echo "skipped: compute-sanitizer is for a GPU; npm run test:simt -- --sanitize=thread looks for races on simt"
    return "$skipped"
  fi
  sanitizer=${COMPUTE_SANITIZER:-$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer)}
  if [ ! -x "$sanitizer" ]; then
    echo "skipped: no compute-sanitizer on PATH; COMPUTE_SANITIZER can name one"
    return "$skipped"
  fi
  worst=$skipped
  limit=110
  for tool in memcheck racecheck synccheck initcheck; do
    sanitize_with "$tool"
    status=$?
    case $status in
      0) [ "$worst" -ne "$skipped" ] || worst=0 ;;
      "$skipped") ;;
      *) worst=$status ;;
    esac
  done
  limit=480
  return "$worst"
}

bench() {
  mkdir -p "$results"
  file=$results/$(printf '%s' "$gpu" | tr ' /' '--')-$(date -u +%Y-%m-%d).json
  small=
  [ "$device" = cuda ] || small=--small
  limited "$driver" bench --device "$device" --json "$file" $small && echo "$file"
}

for stage in ${*:-conformance twin sanitize bench}; do
  case $stage in
    conformance | twin | sanitize | bench)
      begin "$stage"
      "$stage"
      end $?
      ;;
    *)
      echo "gpu-check: no stage $stage" >&2
      exit 1
      ;;
  esac
done
[ "$failed" -eq 0 ] || exit 1
[ "$passed" -eq 1 ] || exit "$skipped"
