#!/usr/bin/env bash
# Runs every GPU benchmark and appends to experiments/speed/*.csv; see scripts/bench/suite.py.
#
#   ./scripts/bench/gpu.sh [--only TEXT] [--torch-python PATH] [--list]
#   PYTHON=python ./scripts/bench/gpu.sh      with another interpreter than that of ./scripts/setup
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" -m scripts.bench.suite gpu "$@"
