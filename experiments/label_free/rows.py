"""Steel defects without labels: a small network learns a big one's embedding."""

from experiments.run import Row

DATA = "runs/neu/split"
CONFIG = "configs/label_free_folder.py:{data}"
TEACH = "labels reach only the probe"
FEW = {"data.labels": "10/class", "data.labels_seed": "{seed}"}


def _head(name: str, way: str, teacher: str = "") -> Row:
    return Row(f"head on 10 labels per class: {name}", f"{CONFIG}:{way}{teacher}", FEW)


ROWS = (
    Row(TEACH, f"{CONFIG}:teach", {"data.labels": "200/class"}, probe=True),
    _head("the small network, taught", "student", f":{{run:{TEACH}}}"),
    _head("the small network, random", "random"),
    _head("the teacher, EfficientNet-Lite0", "teacher"),
)
