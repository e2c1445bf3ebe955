"""The one schema: every key that a config can set, with its default and its meaning.

A config file changes what it needs and returns the result:

    from vision.config import default

    def get_config(arg=None):
        c = default()
        c.data.source = "folder:photos"
        return c

The keys and their types are locked: an unknown key or a wrong type is an error that names the
nearest key.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def default():
    """Returns the schema with its defaults, as a locked `ConfigDict`."""
    c = ConfigDict()
    c.seed = 0  # initialization, shuffling, augmentation and dropout all follow from it
    # folder of compiled programs, kept between runs; "" = none
    # write a trace of some steps into the run's tensorboard/ folder, for TensorBoard's profile page
    c.compile_cache = "~/.cache/vision/xla"
    c.profile = False
    c.data = _data()
    c.augment = _augment()
    c.model = _model()
    c.transfer = _transfer()
    c.imbalance = _imbalance()
    c.objective = _objective()
    c.optimizer = _optimizer()
    c.schedule = _schedule()
    c.train = _train()
    c.early_stopping = _early_stopping()
    c.checkpoint = _checkpoint()
    c.log = _log()
    c.parallel = _parallel()
    c.audit = _audit()
    c.evaluation = _evaluation()
    c.lock()
    c.model.options.unlock()  # a research module's own arguments: any name
    return c


def _data():
    c = ConfigDict()
    # KIND:ARGUMENT?OPTION=VALUE&..., as folder:photos; README.md lists the kinds
    # Of the keys marked *, 0 or auto means as model.pretrained's weights were trained, where there
    # are any. *side of the square image that the model sees, pixels; 0 = the images' own, if all
    # are equal
    c.source = "mnist5k"
    c.image_size = 0
    c.channels = 0  # *1 (gray) or 3 (RGB); 0 = the images' own
    # train, val, test: stratified, for a source that has no splits of its own
    # of train, where only a validation split is missing; 0 = none: the test split stands in
    # data up to this size (uint8, all splits) live on the device; 0 = always load
    # processes that decode images; 0 = this process. Only encoded, loaded data use them; their
    # batches
    # pass through /dev/shm, of which a container needs more than the usual 64 MB
    # *the center crop's share of the resized image's side; 0 = 1; ImageNet's usual is 0.875
    # *of the resize: area (OpenCV, fast), bilinear or bicubic (PIL); auto = area
    # (0.08, 1.0): while loading, train on a random crop of this share of the area; () = centre
    # training images of each class at most, drawn at random; 0 = all. For learning from few
    c.fractions = (0.7, 0.2, 0.1)
    c.val_fraction = 0.1
    c.resident_gib = 2.0
    c.workers = 2
    c.crop_fraction = 0.0
    c.interpolation = "auto"
    c.random_crop_area = ()
    c.per_class = 0
    c.limit = 0  # images a split at most, drawn at random; 0 = all. For trying things out
    # share of images that may be unreadable; fewer are skipped and counted, more is an error
    # *unit: [0, 1]; symmetric: [-1, 1]; mean_std: (x / 255 - mean) / std; auto = symmetric
    c.max_unreadable = 0.01
    c.normalize = "auto"
    c.mean = ()  # for mean_std, one number a channel
    c.std = ()  # for mean_std, one number a channel
    return c


def _augment():
    """On the device, inside the training step. Everything is off until a config turns it on."""
    c = ConfigDict()
    c.pad_crop = 0  # pad each side by so many pixels, then crop at random; He et al. use 4
    # what the padding holds: zeros, or reflect: the image mirrored at its edge
    c.pad_mode = "zeros"
    c.random_resized_crop = False  # crop a random part of the image and resize it back
    c.crop_area = (0.8, 1.0)  # its share of the area
    c.crop_ratio = (3 / 4, 4 / 3)  # its width over its height
    c.flip_horizontal = False  # with probability 1/2
    # horizontally, every image in every second epoch. Jordan 2024 (arXiv:2404.00498)
    c.flip_alternating = False
    c.flip_vertical = False  # with probability 1/2
    c.rot90 = False  # by 0, 90, 180 or 270 degrees
    c.affine = False  # one resampling for the four below
    c.rotate = 15.0  # up to ± so many degrees
    c.shear = 0.0  # up to ± so many degrees, along both axes
    c.translate = 0.0  # up to ± this share of the side, along both axes
    c.scale = (1.0, 1.0)  # zoom, drawn log-uniformly
    c.brightness = 0.0  # factor drawn from [1 - x, 1 + x]
    c.contrast = 0.0  # likewise
    c.saturation = 0.0  # likewise
    c.hue = 0.0  # shift drawn from [-x, x], in turns (0.5 = the opposite color)
    c.randaugment_layers = 0  # operations an image; 0 = off. Cubuk et al. 2019 (arXiv:1909.13719)
    c.randaugment_magnitude = 10.0  # 0 to 30; 10 is usual for small models
    c.random_erasing = 0.0  # probability. Zhong et al. 2017 (arXiv:1708.04896)
    c.erasing_area = (0.02, 1 / 3)  # share of the area
    c.mixup = 0.0  # alpha of the Beta distribution; 0 = off. Zhang et al. 2017 (arXiv:1710.09412)
    c.cutmix = 0.0  # likewise; with both, each batch draws one. Yun et al. 2019 (arXiv:1905.04899)
    return c


def _model():
    """A key left at None keeps the architecture's own default; one that the architecture does not
    know is an error."""
    c = ConfigDict()
    c.name = "vit"  # a file of vision/models/, or the dotted name of a module anywhere on the path
    c.variant = "Ti/4"  # what that file's `build` calls its sizes
    # weights to start from: a .safetensors, .pth or .npz file, hf:OWNER/NAME, package:MODULE/PATH,
    # or the directory of a run; a head for other classes starts anew
    # of the computation: float32 or bfloat16. Parameters, norms, softmax and loss stay float32
    c.pretrained = ""
    c.dtype = "float32"
    c.dropout = placeholder(float)  # probability
    # probability of dropping the last block; linear in depth
    # statistics over each 1/n of the batch; 1 = over the whole global batch
    c.stochastic_depth = placeholder(float)
    c.batch_norm_groups = placeholder(int)
    c.attention = placeholder(str)  # vit: auto, plain, xla or cudnn; see layers.choose_attention
    # recompute to save memory: none, dots (keep matrix products) or blocks
    c.remat = placeholder(str)
    c.pool = placeholder(str)  # vit: token or mean
    c.positions = placeholder(str)  # vit: learned or sincos
    c.distilled = placeholder(bool)  # vit: a distillation token beside the class token (DeiT)
    c.gate = placeholder(str)  # resnet: se or cbam, at the end of each branch
    # linear, or cosine: between normalized embeddings and class vectors, times head_scale
    c.head = "linear"
    c.head_scale = 30.0  # cosine
    # further keyword arguments of `build`, for research modules; and what vision.compression.prune
    # has cut, `pruned`
    c.options = ConfigDict()
    return c


def _transfer():
    """What learns, where model.pretrained gives a start. What does not learn has no gradient and no
    optimizer state."""
    c = ConfigDict()
    # full; head; partial: head and what depth or trainable say; lora: head and low-rank changes
    c.mode = "full"
    c.depth = 0  # partial: so many of the last layers (blocks, or stages' blocks) learn
    # partial: a regular expression; parameters whose name, as in the overview, it finds learn
    # head: embed all images once, without augmentation, and train on the embeddings
    # each layer's rate is this times that of the layer after it; 0.75 is usual (arXiv:2106.08254)
    # gradual unfreezing: the share of the steps after which all layers learn, the last first; 0 =
    # all
    # learn from the beginning. Howard and Ruder 2018 (arXiv:1801.06146)
    c.trainable = ""
    c.cache_embeddings = False
    c.layer_decay = 1.0
    c.unfreeze = 0.0
    c.new_head = False  # the head starts anew, also where the weights have one for these classes
    c.lora_rank = 8  # lora: rank of each change. Hu et al. 2021 (arXiv:2106.09685)
    c.lora_alpha = 16.0  # lora: a change is scaled by alpha / rank
    # lora: a regular expression on the names of layers
    c.lora_layers = "qkv|out|hidden|conv|expand|project"
    return c


def _imbalance():
    """Which images are learned from how often. The losses for imbalanced classes are in
    `objective`."""
    c = ConfigDict()
    # Of each class in an epoch: none, its images; over or under, as many as the largest or the
    # smallest class has; balanced, equally many; sqrt, in proportion to the square root of its own;
    # smote, as over,
    # with synthetic embeddings between neighbors (Chawla et al. 2002, arXiv:1106.1813), with
    # transfer.cache_embeddings or retrain_head
    c.sampling = "none"
    # the share of the steps after which it begins: 0.8 is deferred re-sampling
    # the share of the steps at which it ends: 0.5 is balanced first, then the true distribution
    # Epochs of a second training, of a new head alone on balanced batches, or as sampling says:
    # cRT, Kang et al. 2019 (arXiv:1910.09217); 0 = none.
    c.sampling_from = 0.0
    c.sampling_until = 1.0
    c.retrain_head = 0.0
    return c


def _objective():
    c = ConfigDict()
    c.name = "supervised"  # a file of vision/objectives/, or a dotted name
    c.label_smoothing = 0.0  # Szegedy et al. 2015 (arXiv:1512.00567)
    c.class_weights = "none"  # none, inverse, effective_number, or a list: "[1.0, 2.5, 1.0]"
    c.effective_number_beta = 0.999  # Cui et al. 2019 (arXiv:1901.05555)
    c.focal_gamma = 0.0  # 0 = cross-entropy. Lin et al. 2017 (arXiv:1708.02002); 2 is usual
    # of the loss on an auxiliary head, where the model has one: inception, auxiliary=True
    # the share of the steps after which class_weights count: 0.8 is deferred re-weighting (DRW)
    c.auxiliary_weight = 0.4
    c.weights_from = 0.0
    c.logit_adjustment = 0.0  # tau; 0 = off, 1 is usual. Menon et al. 2020 (arXiv:2007.07314)
    # the rarest class's margin; 0 = off, 0.5 is usual; it needs model.head=cosine. Cao et al. 2019
    # (arXiv:1906.07413)
    # Quantization-aware training: none, int8, or int7 for weights of 7 bits. Layers then compute
    # with numbers rounded as vision.compression.quantize rounds them, also where the run validates
    # and tests itself; its
    # weights stay float
    c.ldam_margin = 0.0
    c.quantize = "none"
    return c


def _optimizer():
    c = ConfigDict()
    c.name = "adamw"  # sgd, adam, adamw, lamb, lion or muon
    c.learning_rate = 1e-3  # the schedule's peak
    c.weight_decay = 0.0  # added to the gradient (L2) for sgd and adam, decoupled for the others
    c.decay_all = False  # True: also biases, norms and positions, as papers before 2018 did
    c.momentum = 0.9  # sgd, muon
    c.nesterov = False  # sgd
    c.b1 = 0.9  # adam, adamw, lamb, lion; muon's part that is no matrix
    c.b2 = 0.999  # likewise
    c.eps = 1e-8  # adam, adamw, lamb, muon
    # sgd: multiplies the rate, not the decay, of BatchNorm's biases; arXiv:2404.00498 uses 64
    # steps between pulls back to a slow average of the weights; 0 = off. Zhang et al. 2019
    # (arXiv:1907.08610), with the average's decay rising as 0.95^lookahead * time^3
    # (arXiv:2404.00498, section 3.4)
    c.norm_bias_scale = 1.0
    c.lookahead = 0
    c.clip_norm = 0.0  # largest global norm of the gradient; 0 = no clipping
    # decay of the weights' moving average, then evaluated (with the latest BatchNorm statistics); 0
    # = none
    c.ema = 0.0
    return c


def _schedule():
    """The learning rate over time. Times are shares of all steps, so that they stay right when the
    steps change."""
    c = ConfigDict()
    c.name = "warmup_cosine"  # warmup_cosine, cosine, step, linear, constant, rsqrt or plateau
    c.warmup = 0.05  # share of the steps over which the rate rises, for every schedule but cosine
    c.start = 0.0  # the warmup's first rate as a share of the peak
    c.final = 0.0  # the last rate as a share of the peak (cosine, linear)
    c.boundaries = (0.5, 0.75)  # step: where the rate is multiplied by the factor
    c.factor = 0.1  # step, plateau
    c.timescale = 0.1  # rsqrt: rate = peak * sqrt(timescale / max(time, timescale))
    c.patience = 5  # plateau: evaluations without a lower validation loss before the rate falls
    return c


def _train():
    c = ConfigDict()
    c.steps = 0  # optimizer steps; 0 = as many as the epochs make
    c.epochs = 10.0  # passes over the training split, where steps is 0
    c.batch_size = 128  # images a step, over all devices and all hosts
    c.eval_batch_size = 0  # 0 = the same
    # parts of the batch, one after the other, to save memory; the gradient is their mean, and
    # BatchNorm's statistics and a weighted loss's mean are each part's own
    # steps that the device runs at one call, where the data live there; 0 = 32, on CPUs 1
    # evaluate the mean over: none, flip, flip_shift (also by one pixel), five_crop or ten_crop
    c.accumulate = 1
    c.steps_per_dispatch = 0
    c.test_time_augmentation = "none"
    c.eval_every = 0  # steps between evaluations on the validation split; 0 = once an epoch
    return c


def _early_stopping():
    c = ConfigDict()
    c.enabled = False  # stop when checkpoint.metric has not improved
    c.patience = 5  # for so many evaluations
    c.min_delta = 0.0  # by more than this
    return c


def _checkpoint():
    c = ConfigDict()
    c.every = 0  # steps between checkpoints beside the one at each evaluation; 0 = none
    c.keep_latest = 2  # the newest is never dropped; the one before is there should it be damaged
    c.keep_best = 1
    c.metric = "val/accuracy"  # what best means: any name of metrics.jsonl that starts with val/
    c.mode = "max"  # max or min
    return c


def _log():
    c = ConfigDict()
    c.every = 50  # steps between lines of metrics.jsonl
    c.tensorboard = True  # scalars, augmented images, parameter overview
    c.images = 16  # augmented training images in TensorBoard's grid
    c.progress = True  # a bar on a terminal, plain lines elsewhere; False = neither
    return c


def _parallel():
    c = ConfigDict()
    c.devices = 0  # devices to use; 0 = all, as several hosts must
    c.keep_memory = True  # on CPUs, freed memory stays with the process: vision/support/memory.py
    # devices that share one copy of the state (parameters, optimizer); 1 = each holds a whole one,
    # 0 = all
    # several processes: auto = where Slurm, Kubernetes or Open MPI started them, on, or off
    c.fsdp = 1
    c.distributed = "auto"
    c.coordinator = ""  # HOST:PORT of process 0, where no scheduler says it; with the two below
    c.processes = 0  # how many there are
    c.process = -1  # which of them this is, from 0
    # of the training step, "xla_gpu_NAME=VALUE ..."; scripts/bench/train.py compares
    c.xla_options = ""
    return c


def _audit():
    """What `python -m vision.audit` looks for, and what `--strict` allows. A share is of all
    images; 1 allows all."""
    c = ConfigDict()
    # likeness of two pictures, laid over one another, from which they are near duplicates
    c.near = 0.9
    c.blank = 4.0  # standard deviation of the gray values below which an image is blank, of 255
    c.tiny = 16  # a shorter side of fewer pixels is tiny
    c.aspect = 3.0  # a longer side of more than so many times the shorter one is odd
    # robust deviations below its class's median sharpness from which an image is blurred
    # robust deviations above the median distance from which an embedding is an outlier
    c.blur = 3.5
    c.outlier = 5.0
    c.folds = 5  # of the cross-validated predictions that wrong labels are found by
    # share of two classes' images that are taken for the other, from which the pair is reported
    # kinds of findings that --apply mends
    c.confusable = 0.1
    c.apply = "unreadable,blank,duplicate,near_duplicate,wrong_label,spelling"
    c.max_imbalance = 1000.0  # --strict: the largest class's images to the smallest one's
    c.max_unreadable = 0.0  # --strict: share
    c.max_duplicates = 0.01  # --strict: share, exact and near
    c.max_leaks = 0.0  # --strict: share, of duplicates that lie in different splits
    c.max_wrong_labels = 0.05  # --strict: share
    c.min_agreement = 0.6  # --strict: Fleiss' kappa of several annotators
    return c


def _evaluation():
    """What `python -m vision.evaluation` measures and shows."""
    c = ConfigDict()
    c.bootstrap = 1000  # draws of each 95 % interval; 0 = no intervals
    c.bins = 15  # of the reliability diagram and of the calibration error
    # the class whose false alarm and miss rates are told, such as "defect"; "" = none
    c.positive = ""
    c.recall = 0.95  # wanted of it: the threshold that reaches this on the validation split is told
    c.temperature = True  # fit a temperature on the validation split, and store it with the run
    c.explain = True  # heat maps over the pictures of errors
    c.errors = 24  # worst errors shown
    c.examples = 3  # hardest, and easiest, of each class shown
    c.pairs = 8  # most confused pairs of classes shown
    c.slices = True  # accuracy by brightness, size, folder and the columns of a table
    c.slice_images = 20  # a smaller slice is not told
    # accuracy under 15 corruptions of 5 severities. Hendrycks and Dietterich 2019
    c.corruptions = True
    c.views = True  # accuracy with each kind of test-time augmentation
    # images that these two are measured on, drawn at random: they take 75 and 24 passes; 0 = all
    c.sample = 1000
    c.map = "tsne"  # 2-D map of the embeddings: none, pca, tsne or umap
    c.map_images = 2000  # images on it, drawn at random
    # training images, drawn at random, of nearest neighbors and the linear probe; 0 = neither
    c.probe = 10_000
    c.license = ""  # of the model, for its card, such as "Apache-2.0"
    return c
