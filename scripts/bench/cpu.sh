#!/usr/bin/env bash
# Runs every CPU benchmark and appends to experiments/speed/*.csv; see scripts/bench/suite.py.
#
#   ./scripts/bench/cpu.sh [--only TEXT] [--torch-python PATH] [--list]
#   PYTHON=python ./scripts/bench/cpu.sh      with another interpreter than that of ./scripts/setup
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" -m scripts.bench.suite cpu "$@"
