#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks and measures the CUDA kernels on a machine with an NVIDIA GPU, in at most eight minutes: numbers of every
# operation against the CPU's kernels, a training, and one table of times beside gsplat's where that is installed.
#
#     tests/gpu/run.sh               everything
#     tests/gpu/run.sh --sanitizer   also runs the checks of numbers on small scenes under compute-sanitizer
#     tests/gpu/run.sh --emulate     goes through all of it on a CPU, on tiny scenes and without times that mean anything
#
# It needs torch, cuda-bindings and NVRTC (the extra `cuda`), and builds the CPU's kernels where they are missing, for
# which a C++ compiler, CMake and nanobind must be there.  Results also go to $OUT/gpu.json where OUT is set.
# PYTHON names another Python.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

if ! "$python" -c 'from recon.kernels.native import native; native()' 2>/dev/null; then
  echo "building the CPU kernels ..."
  build=build/gpu-run
  generator=$(command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")
  cmake -G "$generator" -S . -B "$build" -DPython_EXECUTABLE="$(command -v "$python")" \
      -Dnanobind_DIR="$("$python" -m nanobind --cmake_dir)" >"/tmp/recon-cmake-$$.log" 2>&1 &&
    cmake --build "$build" -j "$(nproc)" >>"/tmp/recon-cmake-$$.log" 2>&1 ||
    { tail -20 "/tmp/recon-cmake-$$.log"; echo "the CPU kernels do not build: what needs them is left out"; }
  rm -f "/tmp/recon-cmake-$$.log"
fi

sanitizer=no
arguments=()
for argument in "$@"; do
  if [ "$argument" = --sanitizer ]; then sanitizer=yes; else arguments+=("$argument"); fi
done

"$python" -m gpu.check ${arguments[@]+"${arguments[@]}"}
status=$?
if [ "$sanitizer" = yes ]; then
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      echo "compute-sanitizer --tool $tool ..."
      timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 \
        "$python" -m gpu.check --only numbers --small || status=1
    done
  else
    echo "compute-sanitizer is not there"
  fi
fi
exit "$status"
