#!/usr/bin/env bash
# Tests and benchmarks on a machine with a GPU and no network.
#
#     bench/gpu.sh OUT_DIR [stage...]
#
# Stages, in this order: info install tests ceilings loss_grad minibatch heads stream fit fit_tf32
# sweep sweep_tf32 summary. Each has its own time limit, under ten minutes, and leaves
# OUT_DIR/<stage>.done; a stage that has one is skipped, so that the script can be called again until
# everything is there. Remove it to repeat the stage. Where a call must end within ten minutes, name
# a stage that may take that long (tests, fit..., sweep...) alone.
#
# The sweeps keep their parameters in OUT_DIR/gpu_sweep-*.npz (180 MB each), from which the next call
# goes on; a stage that is to go on has no .done yet.
#
#   WHEELS   folder of carried wheels (default .whl): array-api-compat, array-api-strict, hypothesis,
#            sortedcontainers, typer, safetensors, scikit-learn and whatever else is missing there.
#            They go to OUT_DIR/site, and are used only where the machine lacks the module.
#   PYTHON   the interpreter that has CuPy (default python3)
#   PYTEST   test files (default tests/test_*.py); each leaves OUT_DIR/tests/<file>.done
#
# Figures are in OUT_DIR/*.json only when they were measured here. Exit status: 0; 1 when tests or
# a benchmark failed; 2 for wrong usage or no GPU.
set -u -o pipefail

STAGES="info install tests ceilings loss_grad minibatch heads stream fit fit_tf32 sweep sweep_tf32 \
summary"
PYTHON=${PYTHON:-python3}
WHEELS=${WHEELS:-.whl}

if [ $# -lt 1 ] || [ "$1" = "-h" ] || [ "$1" = "--help" ]; then
    echo "usage: bench/gpu.sh OUT_DIR [stage...]; stages: $STAGES" >&2
    exit 2
fi
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
export XCLF_SITE="$OUT/site" PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH="$PWD:$XCLF_SITE${PYTHONPATH:+:$PYTHONPATH}"
# One stream or several: with this set before CUDA starts, cuBLAS repeats bit for bit.
export CUBLAS_WORKSPACE_CONFIG=${CUBLAS_WORKSPACE_CONFIG:-:4096:8}
export PYTHON OUT WHEELS

stage_info() {
    nvidia-smi
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm,power.limit --format=csv
    "$PYTHON" --version
    "$PYTHON" -m pip list 2> /dev/null |
        grep -i -E '^(numpy|scipy|scikit-learn|torch|cupy|nvidia|array|nvmath|triton)' || true
    "$PYTHON" -c 'import cupy; cupy.show_config()' || echo "CuPy does not import"
}

stage_install() {
    mkdir -p "$XCLF_SITE"
    local wheel name missing=0
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
    for name in cupy numpy sklearn rich typer safetensors array_api_compat array_api_strict \
        hypothesis pytest; do
        "$PYTHON" -c 'import importlib, sys; importlib.import_module(sys.argv[1])' "$name" ||
            { echo "missing: $name (carry its wheel)"; missing=1; }
    done
    return "$missing"
}

# One file of tests at a time, so that a call that runs out of time is taken up where it stopped.
stage_tests() {
    local file name status worst=0
    mkdir -p "$OUT/tests"
    for file in ${PYTEST:-tests/test_*.py}; do
        name=$(basename "$file" .py)
        if [ ! -e "$OUT/tests/$name.done" ]; then
            XCLF_REQUIRE=cupy "$PYTHON" -m pytest -p no:cacheprovider -q \
                --junitxml="$OUT/tests/$name.xml" "$file" > "$OUT/tests/$name.log" 2>&1
            status=$?
            [ "$status" -eq 5 ] && status=0 # a file without tests
            echo "$status" > "$OUT/tests/$name.done"
        fi
        status=$(cat "$OUT/tests/$name.done")
        [ "$status" = 0 ] || { worst=1; echo "FAILED $name"; }
        echo "$name: $(tail -n 1 "$OUT/tests/$name.log")"
    done
    return "$worst"
}

GOES_ON=75 # the status of a stage that the next call is to take further

# benchmark STAGE NAME [ARGUMENT...]: gpu_NAME, recorded as the stage's
benchmark() {
    local stage=$1 name=$2
    shift 2
    "$PYTHON" -m bench "gpu_$name" --json "$OUT/gpu_$stage.json" "$@"
}
stage_ceilings() { benchmark ceilings ceilings; }
stage_loss_grad() { benchmark loss_grad loss_grad; }
stage_minibatch() { benchmark minibatch minibatch; }
stage_heads() { benchmark heads heads; }
stage_stream() { benchmark stream stream; }
stage_fit() { benchmark fit fit --state "$OUT"; }
stage_fit_tf32() { benchmark fit_tf32 fit --precision tf32 --state "$OUT"; }
stage_sweep() { sweep sweep float32; }
stage_sweep_tf32() { sweep sweep_tf32 tf32; }

sweep() {
    benchmark "$1" sweep --precision "$2" --state "$OUT" || return
    ! grep -q '"finished": false' "$OUT/gpu_$1.json" || return "$GOES_ON"
}

limit() {
    case "$1" in
        info) echo 60 ;; install) echo 240 ;; tests) echo 570 ;;
        fit*|sweep*) echo 580 ;; stream) echo 400 ;; *) echo 300 ;;
    esac
}

# A stage runs in its own shell under `timeout`; its status is the file's content.
perform() {
    local stage=$1 status seconds
    if [ -e "$OUT/$stage.done" ]; then
        echo "$stage: done before (exit $(cat "$OUT/$stage.done"))"
        return
    fi
    seconds=$(limit "$stage")
    echo "$stage: at most $seconds s"
    timeout --kill-after=10 "$seconds" bash -c "stage_$stage" > "$OUT/$stage.log" 2>&1
    status=$?
    tail -n 5 "$OUT/$stage.log" | sed 's/^/    /'
    if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
        echo "$stage: stopped after $seconds s; call again to repeat it"
        echo "$status" > "$OUT/$stage.stopped"
        return
    fi
    if [ "$status" -eq "$GOES_ON" ]; then
        echo "$stage: call again to go on"
        rm -f "$OUT/$stage.failed"
        echo "$status" > "$OUT/$stage.stopped"
        return
    fi
    rm -f "$OUT/$stage.stopped"
    # A stage that failed is tried again by the next call; failed tests are a result.
    if [ "$status" -eq 0 ] || [ "$stage" = tests ]; then
        rm -f "$OUT/$stage.failed"
        echo "$status" > "$OUT/$stage.done"
    else
        echo "$status" > "$OUT/$stage.failed"
    fi
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
    [ -e "$OUT/tests.log" ] && grep FAILED "$OUT/tests.log"
    return "$worst"
}

export GOES_ON
export -f benchmark sweep stage_info stage_install stage_tests stage_ceilings stage_loss_grad \
    stage_minibatch stage_heads stage_stream stage_fit stage_fit_tf32 stage_sweep stage_sweep_tf32
for stage in ${@:-$STAGES}; do
    [ "$stage" = summary ] || perform "$stage"
done
summary | tee "$OUT/summary.txt"
exit "${PIPESTATUS[0]}"
