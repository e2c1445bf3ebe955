"""A small run of every objective, for what all of them must hold."""

from tests.objectives.runs import small

VIEWS = {"augment__random_resized_crop": True, "augment__brightness": 0.4, "augment__jitter": 0.8}
UNLABELED = {"data__unlabeled": "rest", "data__unlabeled_ratio": 2, "data__labels": "2/class"}
RESNET = {"model__name": "tests.support.tiny_resnet"}
CAPTIONS = {
    "data__source": "digits",
    "text__tokenizer": "bpe",
    "text__vocabulary": 300,
    "text__context": 12,
    "text__templates": "a {}|the number {}",
    # The bias of attention's keys has no gradient: Adam would make steps of its rounding errors.
    "optimizer__name": "sgd",
}
FUSED = {
    "model__name": "fusion",
    "model__variant": "attention",
    "model__options": {
        "image": "tests.support.tiny_resnet",
        "tower": "transformer:mu",
        "width": 8,
    },
}
NEXT = {  # new images, one class of which is new
    "data__source": "digits?rename=9:nine",
    "continual__previous": "TEACHER",
    "continual__memory": "2/class",
}
HEADS = {"hidden": 16, "width": 8}

# {case: (objective, its options, keys of the config)}; "TEACHER" stands for a trained ResNet,
# whose weights' importance is known.
CASES = {
    "distillation by hints": (
        "distillation",
        {"teacher": "TEACHER", "hint": "stages.0", "hint_weight": 0.1},
        RESNET,
    ),
    "distillation token": (
        "distillation",
        {"teacher": "TEACHER", "kind": "hard"},
        {"model__distilled": True},
    ),
    "embedding distillation": ("embedding_distillation", {"teacher": "TEACHER"}, RESNET),
    "simclr": ("simclr", HEADS, VIEWS | RESNET),
    "moco v2": ("moco", HEADS | {"queue": 32}, VIEWS | RESNET),
    "moco v3": ("moco", HEADS | {"queue": 0, "freeze_patches": True}, VIEWS),
    "byol": ("byol", HEADS, VIEWS | RESNET),
    "mae": (
        "mae",
        {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
        {"model__variant": "mu/2"},
    ),
    "clip": ("contrastive", {"variant": "mu", "width": 8}, CAPTIONS | RESNET),
    "siglip": (
        "contrastive",
        {"variant": "mu-mean", "width": 8, "loss": "siglip", "same": "positive"},
        CAPTIONS | RESNET,
    ),
    "fusion": ("supervised", {}, CAPTIONS | FUSED),
    "ewc and lwf with a memory": (
        "continual",
        {"ewc": 10.0, "lwf": 1.0},
        NEXT | RESNET,
    ),
    "si": ("continual", {"si": 0.1}, NEXT | RESNET | {"continual__memory": ""}),
    "fixmatch": ("consistency", {"threshold": 0.1}, UNLABELED | RESNET),
    "flexmatch": ("consistency", {"rule": "flex", "threshold": 0.12}, UNLABELED | RESNET),
    "freematch": ("consistency", {"rule": "free"}, UNLABELED | RESNET),
    "pi": ("consistency", {"method": "pi"}, UNLABELED | RESNET),
    "mean teacher": ("consistency", {"method": "mean_teacher"}, UNLABELED | RESNET),
    "supernet": (
        "supernet",
        {"drawn": 1},
        {"model__name": "mobile_space", "model__variant": "c4-w4.8d1.2k3.5e2se0.1-h8"},
    ),
    "gan": (
        "gan",
        {"width": 4, "latent": 3, "momentum": 0.9, "augment": "color,translation,cutout"},
        RESNET,
    ),
    "pseudo-labels": (
        "consistency",
        {"method": "pseudo_label", "threshold": 0.1},
        UNLABELED | RESNET,
    ),
}


def case(name, folder, **changes):
    """Returns the config of a case.

    Args:
        name: one of `CASES`.
        folder: the fixture with the digits and the teacher.
        changes: {section__key: value} of the config.
    """
    objective, options, keys = CASES[name]
    c = small(f"arrays:{folder / 'texts.npz'}")
    c.objective.name = objective
    for option, value in options.items():
        c.objective.options[option] = str(folder / "teacher") if value == "TEACHER" else value
    for key, value in (keys | changes).items():
        section, key_name = key.split("__")
        c[section][key_name] = str(folder / "teacher") if value == "TEACHER" else value
    return c
