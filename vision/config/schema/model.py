"""The schema of the network: its architecture, which part of it learns, and from which loss."""

from vision.config.keys import (
    DECAY,
    SHARE,
    above,
    at_least,
    between,
    each,
    key,
    number,
    options,
    or_empty,
    section,
    unset,
    within,
)

# A table: default, range and meaning of each key.
# fmt: off

MODEL = section(
    "The architecture. A key that is None keeps the architecture's own default; it is an error to "
    "set one that the architecture does not have.",

    name=key("vit",
        "a file in vision/models/, or the dotted name of a module anywhere on the path"),
    variant=key("Ti/4", "the size, as that file's `build` names it"),
    pretrained=key("",
        "weights to start from: a .safetensors, .pth or .npz file, hf:OWNER/NAME, "
        "package:MODULE/PATH, or a run directory; a head for other classes is reinitialized"),
    dtype=key("float32",
        "dtype of the computation: float32 or bfloat16. Parameters, norms, softmax and loss stay "
        "float32"),
    dropout=unset(float, "probability", DECAY),
    stochastic_depth=unset(float,
        "probability of dropping the last block; that of the others rises linearly with depth",
        DECAY),
    batch_norm_groups=unset(int,
        "number of parts of the batch with separate statistics; 1 = the whole global batch",
        at_least(1)),
    attention=unset(str, "vit: auto, plain, xla or cudnn; see layers.choose_attention"),
    remat=unset(str, "recompute to save memory: none, dots (keep matrix products) or blocks"),
    pool=unset(str, "vit: token or mean"),
    positions=unset(str, "vit: learned or sincos"),
    distilled=unset(bool, "vit: a distillation token in addition to the class token (DeiT)"),
    gate=unset(str, "resnet: se or cbam, at the end of each branch"),
    head=key("linear",
        "linear, or cosine: between normalized embeddings and class vectors, times head_scale"),
    head_scale=number(30.0, above(0), "cosine: scale of the logits"),
    head_groups=number((), or_empty(each(at_least(0))),
        "the class, from 0, of each head output: a class's probability is the sum over its "
        "outputs, as vision.run.classes merges them; () = one output per class"),
    head_shares=number((), or_empty(each(above(0))),
        "with head_groups: factor on each output's exponential; () = 1"),
    options=options(
        "further keyword arguments of `build`, for research modules; also `pruned`, the widths "
        "that vision.compression.prune has cut"),
)

TRANSFER = section(
    "Which parameters learn when model.pretrained provides the initial weights. The others have "
    "no gradient and no optimizer state.",

    mode=key("full",
        "full; head; partial: the head and what depth or trainable select; lora: the head and "
        "low-rank updates"),
    depth=number(0, at_least(0),
        "partial: number of last layers (blocks, or the blocks of stages) that learn"),
    trainable=key("",
        "partial: a regular expression, searched in parameter names (see the parameter "
        "overview); matching parameters learn"),
    cache_embeddings=key(False,
        "head: embed all images once, without augmentation, and train on the embeddings"),
    layer_decay=number(1.0, within("(0, 1]"),
        "each layer's learning rate is this times the next layer's; 0.75 is usual "
        "(arXiv:2106.08254)"),
    unfreeze=number(0.0, SHARE,
        "gradual unfreezing, last layer first: share of the steps after which all layers learn; "
        "0 = all learn from the start. Howard and Ruder 2018 (arXiv:1801.06146)"),
    new_head=key(False,
        "reinitialize the head, even if the weights have one for these classes"),
    lora_rank=number(8, between(1, 65_536),
        "lora: rank of an update. Hu et al. 2021 (arXiv:2106.09685)"),
    lora_alpha=number(16.0, above(0), "lora: an update is scaled by alpha / rank"),
    lora_layers=key("qkv|out|hidden|conv|expand|project",
        "lora: a regular expression, searched in layer names"),
)

OBJECTIVE = section(
    "The loss.",

    name=key("supervised", "a file in vision/objectives/, or a dotted name"),
    options=options("options of that objective; its file lists them"),
    label_smoothing=number(0.0, DECAY,
        "share of each label spread over all classes. Szegedy et al. 2015 (arXiv:1512.00567)"),
    class_weights=key("none", 'none, inverse, effective_number, or a list: "[1.0, 2.5, 1.0]"'),
    effective_number_beta=number(0.999, DECAY, "Cui et al. 2019 (arXiv:1901.05555)"),
    focal_gamma=number(0.0, at_least(0),
        "0 = cross-entropy. Lin et al. 2017 (arXiv:1708.02002); 2 is usual"),
    auxiliary_weight=number(0.4, at_least(0),
        "weight of the loss on an auxiliary head, if the model has one: inception, auxiliary=True"),
    weights_from=number(0.0, SHARE,
        "share of the steps after which class_weights apply: 0.8 is deferred re-weighting (DRW)"),
    logit_adjustment=number(0.0, at_least(0),
        "tau; 0 = off, 1 is usual. Menon et al. 2020 (arXiv:2007.07314)"),
    ldam_margin=number(0.0, at_least(0),
        "margin of the rarest class; 0 = off, 0.5 is usual; needs model.head=cosine. "
        "Cao et al. 2019 (arXiv:1906.07413)"),
    quantize=key("none",
        "quantization-aware training: none, int8, or int7 for 7-bit weights. Layers compute with "
        "numbers rounded as vision.compression.quantize rounds them, in validation and testing "
        "too; the weights stay float"),
)
