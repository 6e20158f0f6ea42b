"""Every key with its default and its meaning. Other configs start from this one and change what they need.

On resume, train.steps, sample.*, guidance.*, log.*, checkpoint.* and machine.* may differ from the run's config;
nothing else may.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # of everything random in training: initial weights, order of the data, noise
    config.task = "diffusion"  # what is trained: diffusion, classifier

    config.data = data = ConfigDict()
    data.name = "digits"  # digits; folder; pairs; arrays; tfds:<name of a TensorFlow data set>; hf:<name or folder of a
    # Hugging Face data set>; array_record (written by --mode=prepare)
    data.dir = ""  # folder of the data; for arrays also a .npz or .npy file; tfds: default ~/tensorflow_datasets
    data.target = "image"  # the picture of a record that is modelled: image, or another name, such as mask
    data.image_size = 0  # pixels; images are resized to a square of this side. 0: the source's size
    data.resize = "centre"  # centre (crop the largest central square), adm (ADM's centre crop), random_crop (ADM's, in
    # training), pad (no crop; fill with the darkest value), squash (no crop; the aspect changes)
    data.channels = 0  # 1 grey, 3 RGB, 4 RGBA. 0: the source's number (folder, pairs, hf: 3)
    data.bits = 8  # folder, pairs, hf: 16 keeps the precision of 16-bit grey files; 8 scales them to 8 bits
    data.flip = False  # mirror left and right with probability 1/2 in training
    data.flip_vertical = False  # mirror top and bottom likewise
    data.quarter_turns = False  # rotate by 0, 90, 180 or 270 degrees in training
    data.augment = 0.0  # probability of EDM's augmentation, which conditions the network (CIFAR-10: 0.12)
    data.holdout = 0.05  # share of the images held out if the data have no test split
    data.on_bad_file = "error"  # "error" refuses an unreadable image by name, "skip" leaves it out and counts it
    data.folders = ("images", "masks")  # pairs: the two folders, matched by base name
    data.suffixes = ("", "")  # pairs: ends of base names to ignore in matching, such as "_segmentation"
    data.halves = ""  # pairs: both pictures in one file: "left,right" or "top,bottom"
    data.names = ("image", "mask")  # pairs: names of the two pictures
    data.masks = ("mask",)  # pairs, hf: names of masks, whose values are never interpolated; filled in from the data
    data.mask_values = ()  # pairs, hf: allowed values of masks; (): the values of training masks
    data.mask_snap = False  # pairs, hf: replace other values by the nearest allowed one; else such a mask is refused
    data.low = placeholder(float)  # the value that maps to -1; None: the dtype's lowest, or the minimum of float data
    data.high = placeholder(float)  # the value that maps to 1, likewise
    data.labels = ""  # folder: the column of metadata.jsonl with a label or a list of labels; "": sub-folders are
    # classes. hf: the label's column; "": label, or the only ClassLabel
    data.shape = ()  # (height, width, channels); from here on filled in from the data when training starts
    data.class_names = ()  # kept, as are the others, so that sampling needs no data
    data.labels_per_image = 1  # more than 1: a list of labels
    data.dtype = "uint8"  # of the pictures
    data.range = (0.0, 255.0)  # the values that map to -1 and 1
    data.alpha = ()  # names of pictures whose last channel is opacity
    data.num_images = 0  # training images; a run resumes on the same number alone
    data.text_width = 0  # features per token of a frozen text encoder

    config.model = model = ConfigDict()
    model.space = "pixels"  # what x lives in: pixels
    model.conditions = ("label",)  # what the model is given, of what the data carry; (): unconditional
    model.drop_rate = 0.1  # how often a condition is dropped in training, for classifier-free guidance; each condition
    # may have its own below
    model.schedule = "edm"  # edm, ve, vp, cosine_continuous, flow; tables: linear, scaled_linear, sigmoid, cosine,
    # sigmoid_alpha_bar
    model.schedule_steps = 1000  # T of a table
    model.beta_start = 1e-4  # linear, scaled_linear, sigmoid; vp takes both ends times 1000
    model.beta_end = 0.02
    model.zero_terminal_snr = False  # tables: the last step has no signal left
    model.flow_shift = 1.0  # flow: above 1 spends more time at high noise
    model.sigma_min = placeholder(float)  # edm, ve: the ends of the noise levels; None: 0.002 and 80, 0.01 and 50
    model.sigma_max = placeholder(float)
    model.prediction = "edm"  # what the network predicts: edm, eps, x0, v, flow
    model.sigma_data = 0.5  # edm: standard deviation of the data in [-1, 1]
    model.learned_variance = False  # tables: the network also predicts the variance of ddpm's steps

    config.condition = condition = ConfigDict()  # how each of model.conditions is given to the network
    condition.label = ConfigDict()
    condition.label.drop_rate = placeholder(float)  # None: model.drop_rate
    condition.text = text = ConfigDict()
    text.encoder = "transformer"  # transformer: trained along with the model; frozen: a pretrained one from text.path
    text.path = ""  # frozen: a local folder that `transformers` reads
    text.length = 32  # most tokens of a text
    text.on_long = "truncate"  # longer texts: "truncate" (with a warning) or "error"
    text.vocabulary = 2048  # transformer: most tokens of the byte-pair tokenizer that is fitted to the captions
    text.width = 128  # features of a token
    text.depth = 2  # transformer: layers
    text.heads = 4  # transformer: attention heads
    text.projected = True  # frozen: a linear layer on the features; False: none, as in Stable Diffusion
    text.drop_rate = placeholder(float)  # as of labels
    condition.image = image = ConfigDict()
    image.of = ""  # which of a record's pictures; "": the one that is modelled
    # "as_is", "thumbnail" (coarse pixels), "grey" (without its colours), or a sketch: "canny" (extra `edges`), "xdog"
    image.view = "thumbnail"  # how it is shown
    image.shape = ()  # filled in from the data when training starts, of the record's picture; so the next two
    image.dtype = "uint8"  # filled in likewise
    image.range = (0.0, 255.0)  # filled in likewise
    image.factor = 4  # thumbnail: the downsampling factor
    image.into = "concat"  # "concat": concatenated to the noisy image; "cross_attention": tokens for cross-attention
    image.width = 128  # cross_attention: features of a token
    image.downsamples = 2  # cross_attention: convolutions of stride 2 in the encoder
    image.drop_rate = placeholder(float)  # as of labels
    condition.scalars = ConfigDict()
    condition.scalars.names = ()  # which numbers of a record; folder: columns of its metadata
    condition.scalars.drop_rate = placeholder(float)  # as of labels

    config.network = network = ConfigDict()  # published ones by name: configs/networks.py
    network.name = "unet"  # unet; dit (a transformer over patches); convnet (the classifier's)
    network.dropout = 0.0
    network.dtype = "float32"  # compute in float32 or bfloat16; parameters stay float32
    network.remat = False  # recompute blocks in the backward pass: less memory, more time
    network.attention_heads = 1  # unet, dit
    network.channels = 128  # unet, convnet: level i has channels * channel_mults[i]
    network.channel_mults = (1, 2, 2, 2)  # one number a level; level i has sides / 2^i
    network.blocks_per_level = 2  # unet (and all below): in the encoder; one more in the decoder
    network.block = "residual"  # residual, vgg, dense, inception
    network.scale_shift = True  # the embedding scales and shifts (ADM), or only shifts (DDPM)
    network.skip_rescale = False  # residual sums times sqrt(1/2), which keeps their variance
    network.norm = "group"  # group, layer, rms, instance
    network.norm_groups = 0  # group: their number; 0: at most 32 of at least 4 channels
    network.norm_eps = 1e-6  # also of dit's norm before the mlp
    network.attention = "self"  # self, cross (to the conditions' tokens), transformer (both and a feed-forward network)
    network.attention_levels = (1,)  # levels with attention (0: full size)
    network.head_channels = 0  # channels of an attention head, instead of attention_heads
    network.transformer_depth = 1  # transformer: layers
    network.middle_attention = True  # attention between encoder and decoder
    network.up_attention = "every"  # attention after "every" block of the decoder's level, or the "last"
    network.resample = "conv"  # downsampling and upsampling: conv, residual (in a residual block), pool (no parameters)
    network.resample_filter = "box"  # box (mean down, nearest up), fir ([1, 3, 3, 1])
    network.project_resampled = True  # residual: a 1x1 convolution on the skip branch of blocks that resample
    network.down_padding = ()  # conv: zeros (before, after) of the strided convolution; (): one on either side
    network.input_skip = False  # the downsampled image is added at every level of the encoder (NCSN++)
    network.noise_embedding = "sinusoidal"  # sinusoidal, fourier (at most 1,024 noise_channels)
    network.noise_channels = 0  # features of the noise level before its two layers; 0: channels
    network.freq_shift = 0  # sinusoidal: 1 makes the lowest frequency 1/10,000 exactly, as in DDPM's code
    network.width = 384  # dit (and all below): features of a token
    network.depth = 12  # blocks
    network.patch_size = 2  # pixels
    network.grid_size = 0  # patches that the positions span, whatever the image's sides; 0: patches are 1 apart
    network.embedder = "shared"  # shared (one embedding of noise level and label for all blocks), per_block (diffusers)

    config.objective = objective = ConfigDict()
    objective.draw = "lognormal"  # how training draws sigma: lognormal, log_uniform, logit_normal (of flow's t),
    # uniform (in the schedule's time), steps (of a table, uniformly)
    objective.stratified = False  # spread a batch's draws evenly
    objective.mean = placeholder(float)  # lognormal: of ln sigma (None: -1.2); logit_normal: of logit t (None: 0)
    objective.std = placeholder(float)  # likewise (None: 1.2; 1)
    objective.weight = "simple"  # simple (1 on what the network predicts), edm, min_snr, soft_min_snr, p2, v_uniform
    objective.gamma = placeholder(float)  # min_snr, soft_min_snr (None: 5); p2 (None: 1)
    objective.loss = "l2"  # l2, l1, huber
    objective.huber_delta = 1.0
    objective.uncertainty = False  # learn how hard each noise level is, and weigh by it (EDM2)
    objective.vlb = 0.001  # weight of the variational term, with model.learned_variance

    config.train = train = ConfigDict()
    train.steps = 0  # how long to train, in steps; or else
    train.epochs = 0.0  # in passes over the training images; or else
    train.images = 0  # in images seen
    train.initial = ""  # start from these weights: a run's folder, an exported one, or one of diffusers' (a model with
    # config.json and safetensors); the network is then theirs
    train.initial_checkpoint = "latest"  # of that run: latest, best (lowest held-out loss) or a step; filled in with it
    train.batch_size = 128  # images a step, over all devices
    train.accumulate = 1  # microbatches a batch, to save memory
    train.optimizer = "adam"  # adam, adamw
    train.learning_rate = 2e-4
    train.warmup_images = 0  # the rate rises linearly over so many images, then stays
    train.b1 = 0.9
    train.b2 = 0.999
    train.eps = 1e-8
    train.weight_decay = 0.0  # adamw
    train.clip_norm = 1.0  # largest norm of the gradient; 0: not clipped
    train.ema_halflife_images = 500_000  # half-life of the weights' average, in images; 0: no average
    train.ema_rampup = 0.05  # the half-life is at most this share of the images seen
    train.max_skipped_in_row = 50  # the run stops after so many steps in a row without a finite loss and gradient
    train.holdout_images = 512  # held-out images scored, with fixed noise, at each checkpoint (tells the best)
    train.sample_every = 0  # steps between sample grids, drawn from the EMA weights; 0: never
    train.trajectory_every = 0  # steps between denoising strips; 0: never

    config.lora = lora = ConfigDict()  # train low-rank parts beside the kernels of train.initial, these being frozen
    lora.rank = 0  # 0: train all weights
    lora.alpha = placeholder(float)  # the low-rank parts are scaled by alpha / rank; None: the rank
    lora.layers = ("attention", "convolution")  # whose kernels get a part

    config.sample = sample = ConfigDict()
    sample.name = "samples"  # --mode=sample writes to WORKDIR/samples/<name> unless --out is given
    sample.num_images = 100
    sample.batch_size = 100  # images at a time, over all devices
    sample.sampler = "heun"  # ddpm, ddim, euler, euler_ancestral, heun, dpm2, dpmpp_2s_ancestral, dpmpp_2m, dpmpp_3m,
    # dpmpp_2m_sde, dpmpp_sde, lms, unipc, langevin, predictor_corrector, ode
    sample.steps = 18  # rungs of the ladder; ode chooses its own steps between its ladder's two ends
    sample.eta = placeholder(float)  # noise, 0 none .. 1 ddpm's: ddim (None: 0), the ancestral and sde ones (None: 1)
    sample.variance = "small"  # ddpm: small, large, learned (with model.learned_variance)
    sample.order = placeholder(int)  # unipc (None: 2), lms (None: 4)
    sample.langevin_step = placeholder(float)  # in units of sigma^2: langevin (None: 0.25), predictor_corrector (0.1)
    sample.corrector_steps = 1  # langevin, predictor_corrector: Langevin steps at each rung
    sample.rtol = 2e-2  # ode: tolerated error of a step, relative and absolute
    sample.atol = 2e-2
    sample.s_churn = 0.0  # heun: EDM's noise parameters
    sample.s_min = 0.0
    sample.s_max = placeholder(float)  # None: no upper end
    sample.s_noise = 1.0
    sample.ladder = "auto"  # karras, logsnr, flow, uniform (in the schedule's time), by_hand; leading, trailing,
    # linspace, quadratic, exponential (tables); auto: trailing for ddpm, ddim and euler on tables, else karras
    sample.rho = 7.0  # karras
    sample.flow_shift = 1.0  # flow
    sample.sigmas = ()  # by_hand: the sigmas themselves, falling
    sample.sigma_min = placeholder(float)  # karras, logsnr: the lower end; None: the schedule's own
    sample.sigma_max = placeholder(float)  # all but by_hand: the upper end; None: the schedule's own, 160 at most
    sample.guidance_scale = placeholder(float)  # w in w D_cond + (1 - w) D_uncond; None or 1: no guidance
    sample.labels = ()  # classes in turn, by number or name; (): every class in turn
    sample.texts = ()  # texts in turn; (): those of some held-out images, with their other conditions
    sample.seed = 0
    sample.checkpoint = "latest"  # latest, best (lowest held-out loss), or a step
    sample.save_images = False  # also a PNG an image
    sample.trajectory = False  # also trajectory.png and trajectory.gif, of the first images
    sample.compare_steps = ()  # also steps.png: the first images from the same noise in so many steps each, (5, 10, 20)

    config.guidance = guidance = ConfigDict()  # what sample.guidance_scale does
    guidance.method = "classifier_free"  # classifier_free, cfg_plus_plus (scale in [0, 1]), autoguidance, classifier
    guidance.weak_workdir = ""  # autoguidance: the run of the weaker model
    guidance.weak_checkpoint = "latest"  # of that run
    guidance.classifier_workdir = ""  # classifier: a run of task "classifier", which reads the denoised image
    guidance.conditions = ()  # the conditions that D_uncond lacks; (): all of model.conditions
    guidance.rescale = 0.0  # phi in [0, 1]: how far D's standard deviation is brought back to D_cond's
    guidance.sigma_low = 0.0  # guided where sigma_low < sigma <= sigma_high alone
    guidance.sigma_high = placeholder(float)  # None: no upper end
    guidance.threshold = "none"  # of the denoised image: none, static (to [-1, 1]), dynamic
    guidance.quantile = 0.995  # dynamic

    config.log = log = ConfigDict()
    log.every = 100  # steps between log points
    log.progress = True  # the progress bar
    log.pictures = True  # sample grids and strips
    log.tensorboard = True
    log.wandb = False  # Weights & Biases (extra `wandb`)
    log.wandb_project = "jdiff"

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every = 1000  # steps; besides, one is saved at the end and on Ctrl-C or SIGTERM
    checkpoint.keep = 3  # the last so many, and the best

    config.machine = machine = ConfigDict()
    machine.fsdp = 1  # devices over which the parameters are split; the batch is split over all devices
    machine.distributed = False  # several processes, one a node or GPU, started by Slurm or the like
    machine.workers = 0  # processes that read data; 0: threads of the main one
    machine.threads = 2  # threads that read data, in each of them
    machine.prefetch = 4  # batches read ahead
    machine.cache = 2.0  # GiB of decoded images that are kept in memory (not with workers)
    machine.compilation_cache = "~/.cache/jdiff/xla"  # compiled programs are kept here; "": nowhere
    return config.lock()
