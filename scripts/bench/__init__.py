"""Benchmarks of speed. Each writes rows to experiments/speed/*.csv, where a page says what they
mean.

    python -m scripts.bench.train --model vit --variant Ti/4 --image-size 32 --batch 64 --against
    torch

From the repository's root. After `./scripts/setup`, `.venv/bin/python scripts/bench/train.py` does
the same.
"""
