"""Times each implementation of `vision.models.layers.attention`, forward and backward.

    python -m scripts.bench.attention
    python -m scripts.bench.attention --shapes 256x65x3x64,64x197x12x64 --dtypes bfloat16

Shapes are BATCHxTOKENSxHEADSxDEPTH; the defaults are those of ViT-Ti/4 at 32 px, S/16 and B/16 at
224, and L/16 at 384. The implementations take turns. `model.attention = auto` should pick the
fastest; if it does not, its rule in vision/models/layers/attention.py is wrong for this device. The
last line reports for how many of the cases it does (within 5 %).
"""

import functools
import statistics
import time

from scripts.bench import common
from vision import cli
from vision.errors import UserError, first_line

SHAPES = {"cpu": "16x65x3x64,4x197x6x64,2x197x12x64,1x577x16x64"}
ON_ACCELERATORS = "512x65x3x64,256x197x6x64,128x197x12x64,32x577x16x64"
NAMES = ("plain", "xla", "cudnn")


def main(argv):
    import jax

    p = common.make_parser(__doc__, "attention")
    p.add_argument(
        "--shapes",
        default=SHAPES.get(jax.default_backend(), ON_ACCELERATORS),
        help="comma-separated",
    )
    p.add_argument("--dtypes", default="float32,bfloat16", help="comma-separated")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--repeats", type=int, default=10, help="calls per timing")
    a = p.parse_args(argv)
    cases = [(_shape(text), dtype) for text in a.shapes.split(",") for dtype in a.dtypes.split(",")]
    rows = [row for shape, dtype in cases for row in _case(a, shape, dtype)]
    common.print_table(
        [{k: row[k] for k in ("shape", "dtype", "name", "ms", "fastest", "auto")} for row in rows]
    )
    common.write_rows(a.csv, [common.facts(a) | row for row in rows])
    best = {(row["shape"], row["dtype"]): row["ms"] for row in rows if row["fastest"]}
    chosen = [row for row in rows if row["auto"]]
    hits = sum(row["ms"] <= 1.05 * best[row["shape"], row["dtype"]] for row in chosen)
    print(f"auto: the fastest in {hits} of {len(chosen)} cases")


def _case(a, shape, dtype):
    """Returns a row for each implementation that this device can run."""
    from vision.models.layers.attention import choose_attention

    text = "x".join(map(str, shape))
    runs = {}
    for name in NAMES:
        try:
            runs[name] = _prepare(name, shape, dtype, a.repeats)
        except UserError as error:
            print(f"skipped: {name} {text} {dtype}: {first_line(error)}")
    seconds = common.alternate(runs, a.rounds)
    medians = {name: statistics.median(times) / a.repeats for name, times in seconds.items()}
    auto = choose_attention("auto", shape[1], shape[3], dtype)
    return [
        {
            "shape": text,
            "dtype": dtype,
            "name": name,
            "ms": median * 1e3,
            "best_ms": min(seconds[name]) / a.repeats * 1e3,
            "fastest": median == min(medians.values()),
            "auto": name == auto,
            "rounds": a.rounds,
            "repeats": a.repeats,
        }
        for name, median in medians.items()
    ]


def _prepare(name, shape, dtype, repeats):
    """Returns a function that times `repeats` compiled forward and backward passes, in seconds."""
    import jax
    import jax.numpy as jnp

    from vision.models.layers.attention import attention

    def loss(query, key, value, weight):
        return (attention(query, key, value, name) * weight).astype(jnp.float32).sum()

    inputs = [
        jax.random.normal(key, shape, dtype) for key in jax.random.split(jax.random.key(0), 4)
    ]
    gradient = jax.jit(jax.grad(loss, (0, 1, 2)))
    jax.block_until_ready(gradient(*inputs))
    return functools.partial(_time, gradient, inputs, repeats)


def _time(gradient, inputs, repeats):
    import jax

    start = time.perf_counter()
    for _ in range(repeats):
        result = gradient(*inputs)
    jax.block_until_ready(result)
    return time.perf_counter() - start


def _shape(text):
    parts = text.split("x")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        raise UserError(f"--shapes: '{text}' is not BATCHxTOKENSxHEADSxDEPTH, as in 256x65x3x64")
    return tuple(map(int, parts))


if __name__ == "__main__":
    cli.run(main)
