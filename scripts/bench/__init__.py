"""Speed benchmarks. Each writes rows to experiments/speed/*.csv; the README there explains them.

    python -m scripts.bench.train --model vit --variant Ti/4 --image-size 32 --batch 64 \\
        --against torch

Run them from the repository's root. After `./scripts/setup`,
`.venv/bin/python scripts/bench/train.py` does the same. The code that ours is compared with is in
experiments/speed and experiments/serving.
"""
