#!/usr/bin/env bash
# Tests and benchmarks on a machine with a GPU and no network, in calls of less than ten minutes.
#
#     bench/gpu.sh OUT_DIR [stage...]
#
# Every stage leaves OUT_DIR/<stage>.done; one that has it is skipped. A stage is begun only if the
# time left in this call is likely to be enough for it. What says whether the library is right comes
# first and in this order; among the speeds behind it a shorter one is taken where a longer one has
# no time. So the same line, called again and again with the same OUT_DIR, does everything:
#
#     call | stages, with the seconds expected of an H200                                    | sum
#     1    | info 10, install 15, first 60, tests_off 150, tests_on 150, memcheck 150        | 535
#     2    | racecheck 150, checks_off 150, checks 150, launches 40                          | 490
#     3    | ceilings 20, loss_grad 70, minibatch 90, heads 20, stream 50, accelerators 200  | 450
#     4    | fit 230, sweep_tf32 280                                                         | 510
#     5    | sweep 530                                                                       | 530
#     6    | fit_tf32 90, tests_rest 150                                                     | 240
#
# What the seconds are made of: copies at 4.3 TB/s, float32 products at 50 TFLOP/s, TF32 at 300, the
# bus at 25 GB/s. A pass over 1280000 x 1024 x 1000 is two products of 2.6 TFLOP, 105 ms or 17 ms,
# and one of the sweep's 45 heads 236 TFLOP: 4.7 s, or 0.8 s and the elementwise work. fit finds the
# optimum in float64 (at most 120 s), and torch is stopped after 40 s, twice; minibatch waits for
# torch.compile; sweep ends at 200 passes, of fewer and fewer heads. Where half an hour is all there
# is, and the machine's start counts, it ends in the sweep.
#
# first      the backends, and a fit of each estimator as NumPy's, without accelerators
# tests_off  the tests that need CuPy or torch on the GPU, without accelerators; tests_on: with them;
#            tests_rest: all other tests, with what is on by default
# memcheck, racecheck   the accelerators' tests under compute-sanitizer, where it is installed
# checks     bit for bit, memory after 50 fits, recorded steps, more than 2^31 values, streams, a
#            small pool, Ctrl-C (python -m bench gpu_checks); checks_off: without accelerators
# launches   kernels and copies of an iteration; all behind it are speeds, with accelerators
#
# With pytest-xdist tests run in several processes. Remove a .done to repeat its stage. The sweeps
# keep their parameters in OUT_DIR/gpu_sweep-*.npz (180 MB each), from which the next call goes on,
# for some passes more; without an end a sweep has no .done. Failed tests are a result; a benchmark
# that failed is tried again by the next call.
#
# Every call ends with OUT_DIR/results.tar.gz: results, logs, and the folder `results`, which holds
# what belongs into bench/results under its names there, and report.md, the table for the README
# (python -m bench gpu_report). On another machine of the same kind, unpack it into OUT_DIR: what is
# done stays done, and only a sweep that had not ended begins anew.
#
#   TIME     seconds that this call may take (default 570)
#   WHEELS   folder of carried wheels (default .whl). Where CuPy, torch, scikit-learn, typer,
#            safetensors, pytest and hypothesis are installed, those of array-api-compat and
#            array-api-strict are enough:
#                pip download --no-deps -d .whl array-api-compat array-api-strict
#            Tests that need polars or Dask skip. Wheels go to OUT_DIR/site, and are used only where
#            the machine lacks the module.
#   PYTHON   the interpreter that has CuPy (default python3)
#   PYTEST   test files (default tests)
#   WORKERS  processes of pytest-xdist (default 12, at most the processors)
#   DATA     data sets of the stage accelerators (default digits): see python -m bench accelerators
#   QUICK    if set, tiny sizes, and any namespace: QUICK=numpy shows that it all runs
#
# Figures are in OUT_DIR/*.json only when they were measured here. Exit status: 0; 1 when tests or a
# benchmark failed or something is still to do; 2 for wrong usage or no GPU.
set -u -o pipefail

IN_ORDER="info install first tests_off tests_on memcheck racecheck checks_off checks launches"
STAGES="$IN_ORDER ceilings loss_grad minibatch heads stream accelerators fit sweep_tf32 sweep \
fit_tf32 tests_rest summary"
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-.whl}
TIME=${TIME:-570}
QUICK=${QUICK:-}
DATA=${DATA:-digits}

if [ $# -lt 1 ] || [ "$1" = "-h" ] || [ "$1" = "--help" ]; then
    echo "usage: bench/gpu.sh OUT_DIR [stage...]; stages: $STAGES" >&2
    exit 2
fi
case "$TIME" in
    ''|*[!0-9]*) echo "gpu.sh: TIME is a number of seconds, not '$TIME'" >&2; exit 2 ;;
esac
mkdir -p "$1" || exit 2
OUT=$(cd "$1" && pwd)
shift
for stage in "$@"; do
    case " $STAGES " in
        *" $stage "*) ;;
        *) echo "gpu.sh: unknown stage '$stage'; stages: $STAGES" >&2; exit 2 ;;
    esac
done
case "$WHEELS" in /*) ;; *) WHEELS=$PWD/$WHEELS ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2

if ! command -v nvidia-smi > /dev/null || ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
    echo "gpu.sh: there is no GPU here (nvidia-smi lists none)" >&2
    exit 2
fi

# Only what the machine lacks is in the private folder, so nothing there hides its own packages.
export XCLF_SITE="$OUT/site" PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
export PYTHONPATH="$PWD:$XCLF_SITE${PYTHONPATH:+:$PYTHONPATH}"
# One stream or several: with this set before CUDA starts, cuBLAS repeats bit for bit.
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}
# What one process compiles the others find, whatever HOME is here.
export CUPY_CACHE_DIR=${CUPY_CACHE_DIR:-$OUT/kernels}
export PYTHON OUT WHEELS QUICK DATA
export GOES_ON=75 # the status of a stage that the next call is to take further

stage_info() {
    nvidia-smi
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    "$PYTHON" --version
    "$PYTHON" -m pip list 2> /dev/null |
        grep -i -E '^(numpy|scipy|scikit-learn|torch|cupy|nvidia|array|nvmath|triton|pytest)' || true
    "$PYTHON" -c 'import cupy; cupy.show_config()' || echo "CuPy does not import"
}

stage_install() {
    mkdir -p "$XCLF_SITE"
    local wheel name
    for wheel in "$WHEELS"/*.whl; do
        [ -e "$wheel" ] || { echo "no wheels in the WHEELS folder"; break; }
        name=$(basename "$wheel")
        if "$PYTHON" -c 'import sys; from importlib.metadata import version; version(sys.argv[1])' \
            "${name%%-*}" 2> /dev/null; then
            echo "there already: ${name%%-*}"
            continue
        fi
        "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$XCLF_SITE" "$wheel" ||
            echo "does not install: $name"
    done
    "$PYTHON" - cupy numpy sklearn rich typer safetensors array_api_compat array_api_strict \
        hypothesis pytest mpmath << 'END'
import importlib, sys
missing = []
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        missing.append(name)
        print(f"missing: {name} ({error}); carry its wheel")
sys.exit(bool(missing and not (missing == ["cupy"] and __import__("os").environ["QUICK"])))
END
}

stage_first() {
    XCLF_ACCELERATE=off "$PYTHON" -m xclf backends
    XCLF_ACCELERATE=off benchmark first checks --only fits_as_numpy
}

# tests NAME EXPRESSION [UNDER...]: those whose names the expression selects, perhaps under a tool.
# Ctrl-C works in them even if this script was started with the signal ignored, as jobs in the
# background are. What the versions here deprecate is told, and fails nothing.
tests() {
    local name=$1 which=$2 required=cupy workers="" most=${WORKERS:-12} cores
    shift 2
    [ -z "$QUICK" ] || required=$QUICK
    cores=$(nproc)
    [ "$most" -le "$cores" ] || most=$cores
    [ $# -gt 0 ] || { "$PYTHON" -c 'import xdist' 2> /dev/null && workers="-n $most"; }
    mkdir -p "$OUT/tests"
    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 XCLF_REQUIRE=$required "$@" "$PYTHON" -c '
import os, signal, sys, pytest
signal.signal(signal.SIGINT, signal.default_int_handler)
if os.environ.get("NO_POOL"):
    import cupy
    cupy.cuda.set_allocator(None)
sys.exit(pytest.main(sys.argv[1:]))' \
        -p no:cacheprovider -q -rfE --continue-on-collection-errors --durations=15 $workers \
        -W default::DeprecationWarning -W default::PendingDeprecationWarning \
        --junitxml="$OUT/tests/$name.xml" -k "$which" ${PYTEST:-${FILES:-tests}}
    local status=$?
    [ "$status" -ne 5 ] || status=0 # none selected
    return "$status"
}
stage_tests_off() { XCLF_ACCELERATE=off tests off "${QUICK:-cupy or cuda}"; }
stage_tests_on() { XCLF_ACCELERATE=all tests on "${QUICK:-cupy or cuda}"; }
stage_tests_rest() { tests rest "not (${QUICK:-cupy or cuda})"; }

# Every array is an allocation of its own: in a pool one may run into the next unseen.
sanitize() {
    local tool
    tool=$(PATH="$PATH:${CUDA_HOME:-/usr/local/cuda}/bin" command -v compute-sanitizer) || {
        echo "skipped: compute-sanitizer is not installed here"
        return 0
    }
    NO_POOL=1 FILES=tests/accelerate XCLF_ACCELERATE=all tests "$1" "${QUICK:-cupy or cuda}" \
        "$tool" --tool "$1" --target-processes all --error-exitcode 99
}
stage_memcheck() { sanitize memcheck; }
stage_racecheck() { sanitize racecheck; }

# benchmark STAGE NAME [ARGUMENT...]: gpu_NAME, recorded as the stage's
benchmark() {
    local stage=$1 name=$2 quick=()
    shift 2
    [ -z "$QUICK" ] || quick=(--quick --namespace "$QUICK")
    XCLF_ACCELERATE=${XCLF_ACCELERATE:-all} "$PYTHON" -m bench "gpu_$name" --json "$OUT/gpu_$stage.json" "$@" "${quick[@]}"
}
stage_ceilings() { benchmark ceilings ceilings; }
stage_loss_grad() { benchmark loss_grad loss_grad --repeats 9; }
stage_minibatch() { benchmark minibatch minibatch; }
stage_heads() { benchmark heads heads; }
stage_stream() { benchmark stream stream; }
stage_checks_off() { XCLF_ACCELERATE=off benchmark checks_off checks; }
stage_checks() { benchmark checks checks; }
stage_launches() { benchmark launches launches; }
stage_accelerators() {
    local quick=(--namespace cupy)
    [ -z "$QUICK" ] || quick=(--quick --namespace "$QUICK")
    "$PYTHON" -m bench accelerators --data $DATA --json "$OUT/accelerators.json" "${quick[@]}"
}
stage_fit() { benchmark fit fit --state "$OUT" --cap 40 --optimum-cap 120; }
stage_fit_tf32() {
    benchmark fit_tf32 fit --state "$OUT" --cap 20 --optimum-cap 120 --precision tf32
}
stage_sweep() { sweep sweep float32; }
stage_sweep_tf32() { sweep sweep_tf32 tf32; }

sweep() { # what is left of the call, but for the start and the check at the end
    benchmark "$1" sweep --precision "$2" --state "$OUT" --call-seconds "$((LEFT - 45))" || return
    ! grep -q '"finished": false' "$OUT/gpu_$1.json" || return "$GOES_ON"
}

# Seconds that a stage is likely to take: see the table above.
expected() {
    case "$1" in
        info) echo 10 ;; install) echo 15 ;; first) echo 60 ;; launches) echo 40 ;;
        tests*|*check|checks*) echo 150 ;; ceilings|heads) echo 20 ;; loss_grad) echo 70 ;;
        minibatch) echo 90 ;; stream) echo 50 ;; accelerators) echo 200 ;; fit) echo 230 ;;
        sweep_tf32) echo 280 ;; sweep) echo 500 ;;
        fit_tf32) [ -e "$OUT/gpu_optima.json" ] && echo 90 || echo 230 ;;
    esac
}

# Seconds after which it is stopped.
limit() {
    case "$1" in
        info) echo 60 ;; tests*|checks*) echo 420 ;; fit*) echo 450 ;;
        sweep*|*check) echo "$TIME" ;;
        *) echo 300 ;;
    esac
}

# A stage runs in its own shell under `timeout`; its status is the file's content. Returns 1 where
# there is no time for it.
perform() {
    local stage=$1 status seconds left=$((TIME - SECONDS))
    [ -d "$XCLF_SITE" ] || rm -f "$OUT/install.done" # another machine's
    if [ -e "$OUT/$stage.done" ]; then
        echo "$stage: done before (exit $(cat "$OUT/$stage.done"))"
        return 0
    fi
    if [ "$(expected "$stage")" -gt "$left" ] && [ -z "$QUICK" ]; then
        echo "$stage: takes about $(expected "$stage") s, and $left are left: call again"
        return 1
    fi
    seconds=$(limit "$stage")
    [ "$seconds" -le "$left" ] || seconds=$left
    echo "$stage: at most $seconds s"
    local began=$SECONDS
    export LEFT=$seconds
    timeout --signal=INT --kill-after=10 "$seconds" bash -c "stage_$stage" \
        > "$OUT/$stage.log" 2>&1 < /dev/null
    status=$?
    tail -n 40 "$OUT/$stage.log" | cut -c 1-160 | sed 's/^/    /'
    echo "$stage: exit $status after $((SECONDS - began)) s"
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "$stage: stopped; call again to repeat it"
        echo "$status" > "$OUT/$stage.stopped"
        return 0
    fi
    if [ "$status" -eq "$GOES_ON" ]; then
        echo "$stage: call again to go on"
        rm -f "$OUT/$stage.failed"
        echo "$status" > "$OUT/$stage.stopped"
        return 0
    fi
    rm -f "$OUT/$stage.stopped"
    case "$status:$stage" in
        0:*|*:tests_*|*:*check)
            rm -f "$OUT/$stage.failed"
            echo "$status" > "$OUT/$stage.done"
            ;;
        *) echo "$status" > "$OUT/$stage.failed" ;;
    esac
    return 0
}

summary() {
    local stage status worst=0
    echo "summary"
    for stage in $STAGES; do
        [ "$stage" = summary ] && continue
        if [ -e "$OUT/$stage.done" ]; then
            status=$(cat "$OUT/$stage.done")
            [ "$status" = 0 ] && echo "  $stage: ok" || { echo "  $stage: exit $status"; worst=1; }
        elif [ -e "$OUT/$stage.failed" ]; then
            echo "  $stage: exit $(cat "$OUT/$stage.failed"), see $stage.log"
            worst=1
        elif [ -e "$OUT/$stage.stopped" ]; then
            echo "  $stage: ran out of time, call again"
            worst=1
        else
            echo "  $stage: not run"
        fi
    done
    cat "$OUT"/{first,tests_*,*check,checks*}.log 2> /dev/null |
        grep -E '^ *(FAILED|ERROR)|NOT REACHED' | head -n 40
    return "$worst"
}

# What is to be kept, in one file.
pack() {
    mkdir -p "$OUT/results" "$OUT/tests"
    if ls "$OUT"/gpu_*.json > /dev/null 2>&1; then
        "$PYTHON" -m bench gpu_report "$OUT" --into "$OUT/results" > "$OUT/results/report.md" ||
            echo "  no report: see results/report.md"
    fi
    (
        cd "$OUT" || exit
        shopt -s nullglob
        tar -czf results.tar.gz *.json *.log *.done summary.txt tests results
    ) || echo "  results.tar.gz is not complete"
}

export -f benchmark sanitize sweep tests
for stage in $STAGES; do
    [ "$stage" = summary ] || export -f "stage_$stage"
done
for stage in ${@:-$STAGES}; do
    [ "$stage" = summary ] && continue
    perform "$stage" && continue
    case " $IN_ORDER " in *" $stage "*) break ;; esac # what is behind it waits
done
summary | tee "$OUT/summary.txt"
status=${PIPESTATUS[0]}
pack
exit "$status"
