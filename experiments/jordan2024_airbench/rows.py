"""airbench94 and 95 as their recipes are, in float32."""

from experiments.run import Row

DATA = "tfds:cifar10"
CONFIG = "configs/airbench_cifar10.py"
# In bfloat16 a CPU is slower.
FLAGS = {"data.source": "{data}", "model.dtype": "float32"}

ROWS = (
    Row("airbench94", f"{CONFIG}:94", FLAGS, "94.01 (n = 1,000; original PNGs)"),
    Row("airbench95", f"{CONFIG}:95", FLAGS, "95.01 (n = 200; original PNGs)", seeds=1),
)
