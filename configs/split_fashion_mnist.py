"""Fashion-MNIST, two classes at a time: what is forgotten, in three scenarios and by eight methods.

    python -m vision.continual --config configs/split_fashion_mnist.py:class:replay
    python -m vision.continual --config configs/split_fashion_mnist.py:task:ewc
    python -m vision.continual --config configs/split_fashion_mnist.py:domain:si --config.seed=1

The protocol of van de Ven and Tolias 2019 (arXiv:1904.07734) for split MNIST: five tasks, an MLP of
two hidden layers of 400 units, Adam with a rate of 0.001, batches of 128 images; but 500 steps for
each task, a quarter of theirs.

task: the answer is one of the two classes of the image's own task; domain: all tasks have the same
two classes, first and second; class: the answer is one of all classes so far.

none trains on each task's images alone, joint on all images so far; replay remembers 100 images of
each class. The factors of ewc, online_ewc and si were chosen by the rows `factor` of
experiments/split_fashion_mnist, which has the accuracies.
"""

from vision.config import default
from vision.errors import check_choice

SCENARIOS = ("task", "domain", "class")
EWC = {"task": 1e2, "domain": 1e6, "class": 1e3}
ONLINE_EWC = {"task": 1e6, "domain": 1e6, "class": 1e3}
SI = {"task": 100.0, "domain": 1000.0, "class": 10.0}
METHODS = ("none", "joint", "ewc", "online_ewc", "si", "lwf", "replay", "lwf_replay")


def get_config(scenario="class", method="none"):
    check_choice("the first argument", scenario, SCENARIOS)
    check_choice("the second argument", method, METHODS)
    c = default()
    c.data.source = "tfds:fashion_mnist"
    c.continual.tasks = "5"
    c.continual.same_classes = scenario == "domain"
    c.model.name = "mlp"
    c.model.variant = "400x2"
    c.objective.name = "continual"
    c.objective.options.within_task = scenario == "task"
    c.optimizer.name = "adam"
    c.optimizer.learning_rate = 1e-3
    c.schedule.name = "constant"
    c.schedule.warmup = 0.0
    c.train.steps = 500
    c.train.batch_size = 128
    c.train.eval_batch_size = 1000
    c.train.eval_every = c.train.steps
    c.checkpoint.metric = "val/step"
    c.checkpoint.keep_latest = 1
    c.log.every = 500
    c.log.tensorboard = False
    c.log.curves = False  # of each task; the sequence has a plot of its own
    c.continual.fisher_images = 1000
    factors = ONLINE_EWC if method == "online_ewc" else EWC
    set_method(c, method, factors[scenario], SI[scenario])
    return c


def set_method(c, method, ewc, si):
    """Sets what keeps the old tasks."""
    options = c.objective.options
    c.continual.selection = "random"
    if method == "joint":
        c.continual.memory = "all"
    if "ewc" in method:
        options.ewc = ewc
    if method == "online_ewc":
        c.continual.fisher_anchors = "latest"
    if method == "si":
        options.si = si
    if "lwf" in method:
        options.lwf = 1.0
    if "replay" in method:
        c.continual.memory = "100/class"
