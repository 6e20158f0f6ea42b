"""Every key with its default, its meaning, the values that it may take, and what a change does to a run that goes on
(jdiff/common/settings.py). Other configs start from this one and change what they need.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder

from jdiff.common.settings import IDENTITY, SILENT, TOLD, Setting, group

TOP = group(
    "",
    TOLD,
    seed=Setting(0, "of everything random in training: initial weights, order of the data, noise", "[0, 2^32)"),
    task=Setting(
        "diffusion",
        "what is trained: diffusion, flow_map (few steps), autoencoder, classifier, segmentation",
        resume=IDENTITY,
    ),
)

DATA = group(
    "data",
    TOLD,
    name=Setting(
        "digits",
        "digits; folder; pairs; arrays; tfds:<name of a TensorFlow data set>; hf:<name or folder of a Hugging "
        "Face data set>; array_record (written by --mode=prepare)",
        resume=SILENT,
    ),
    dir=Setting(
        "",
        "folder of the data; for folder and pairs also a .zip, a .tar, .tar shards ({000..099}, *), or an archive's "
        "address; for arrays also a .npz or .npy file; tfds: default ~/tensorflow_datasets",
        resume=SILENT,
    ),
    target=Setting(
        "image",
        "the picture of a record that is modelled: image, or another name, such as mask",
        resume=IDENTITY,
    ),
    image_size=Setting(
        0,
        "pixels; images are resized to a square of this side, or to (height, width). 0: the size that they share",
        "[0, 2^16]",
        or_two=True,
    ),
    buckets=Setting(
        0,
        "the most shapes that images are trained in, each of about image_size x image_size pixels, with the sides that "
        "crop the data least; 0: one shape",
        "[0, 2^10]",
    ),
    resize=Setting(
        "centre",
        "centre (crop the largest central square), adm (ADM's centre crop), random_crop (ADM's, in training), pad "
        "(no crop; fill with the darkest value), squash (no crop; the aspect changes)",
    ),
    channels=Setting(0, "1 grey, 3 RGB, 4 RGBA. 0: the source's number (folder, pairs, hf: 3)", "[0, 2^10]"),
    bits=Setting(
        8,
        "folder, pairs, hf: 16 keeps the precision of 16-bit files (of colour with data.channels=3, extra `deep`); 8 "
        "scales them to 8 bits. DICOM and NIfTI keep their own units",
        "[8, 16]",
    ),
    pages=Setting(
        "first",
        'folder: of files with several pages or frames, the "first", or "all", a record each',
        resume=SILENT,
    ),
    slice_axis=Setting(2, "folder, pairs: the axis along which NIfTI volumes are cut into slices", "[0, 2]"),
    flip=Setting(False, "mirror left and right with probability 1/2 in training"),
    flip_vertical=Setting(False, "mirror top and bottom likewise"),
    quarter_turns=Setting(False, "rotate by 0, 90, 180 or 270 degrees in training"),
    augment=Setting(0.0, "probability of EDM's augmentation, which conditions the network (CIFAR-10: 0.12)", "[0, 1]"),
    splits=Setting(
        (),
        'folder, pairs, hf, tfds: names of the training folder or split and of the one held out, as in ("train", '
        '"val"); of the first alone a share is held out. (): found by their names',
        resume=SILENT,
        of=str,
    ),
    holdout=Setting(
        0.05,
        "share of the images held out if the data have no test split, of each class alike",
        "[0, 1)",
        resume=SILENT,
    ),
    group=Setting(
        "",
        "folder, pairs, hf: a column of the metadata, or a regular expression with a group for file names, such as "
        "'(patient\\d+)_.*': images of one group are held out together; none may be on both sides",
        resume=SILENT,
    ),
    stratify=Setting(
        "",
        'folder, pairs, hf: what has its share held out of each value: a column of the metadata, "class", or of pairs '
        '"empty" (empty masks and others); with data.group in whole groups, as near as they allow. "": classes, where '
        "there are no groups",
        resume=SILENT,
    ),
    split_list=Setting(
        "",
        "folder, pairs: a file of the ids that are held out, or with columns image and split, or two files, "
        '"train.txt,test.txt"; ids are names of files, with or without folders and extensions',
        resume=SILENT,
    ),
    on_bad_file=Setting(
        "error",
        '"error" refuses an unreadable image by name, "skip" leaves it out and counts it',
        resume=SILENT,
    ),
    folders=Setting(("images", "masks"), "pairs: the two folders, matched by base name", resume=SILENT, of=str),
    suffixes=Setting(
        ("", ""),
        'pairs: ends of base names to ignore in matching, such as "_segmentation"',
        resume=SILENT,
        of=str,
    ),
    halves=Setting("", 'pairs: both pictures in one file: "left,right" or "top,bottom"', resume=SILENT),
    names=Setting(("image", "mask"), "pairs: names of the two pictures", resume=SILENT, of=str),
    masks=Setting(
        ("mask",),
        "pairs, hf: names of masks, whose values are never interpolated; filled in from the data",
        resume=IDENTITY,
        of=str,
    ),
    mask_values=Setting((), "pairs, hf: allowed values of masks; (): the values of training masks", "[0, 2^16)"),
    mask_snap=Setting(False, "pairs, hf: replace other values by the nearest allowed one; else such a mask is refused"),
    low=Setting(
        None,
        "the value that maps to -1; None: the dtype's lowest, or the minimum of float data",
        "(-inf, inf)",
        kind=float,
    ),
    high=Setting(None, "the value that maps to 1, likewise", "(-inf, inf)", kind=float),
    labels=Setting(
        "",
        'folder: the column of metadata.jsonl with a label or a list of labels; "": what the data say, a dataset.json '
        'or sub-folders; "folders": sub-folders, whatever they look like; "none". hf: the label\'s column; "": label, '
        'labels or the only ClassLabel; "none"',
    ),
    label_pattern=Setting(
        "",
        "folder: a regular expression whose group, at the start of a file's name, is its class: '(.+?)[ _.-]*\\d+'",
    ),
    several=Setting(
        "",
        'pairs: of several masks of an image, their "union", or all "raters", of which training draws one a step',
    ),
    balance=Setting(
        "",
        '"class" draws every class as often, a column of the metadata every value of it; "": every image',
    ),
    balance_power=Setting(
        1.0,
        "a class of n images is drawn in proportion to n^(1 - power): 1 evenly, 0 as often as it is in the data",
        "[0, 1]",
    ),
    shape=Setting(
        (),
        "(height, width, channels); from here on filled in from the data when training starts",
        "[1, 2^16]",
        resume=IDENTITY,
    ),
    shapes=Setting(
        (),
        "buckets: (height, width) of each shape; that of most images is the first, as in `shape`",
        resume=IDENTITY,
        of=tuple,
    ),
    class_names=Setting((), "kept, as are the others, so that sampling needs no data", resume=IDENTITY, of=str),
    class_counts=Setting((), "training images of each class; (): not known", "[0, 2^53]", resume=SILENT),
    captions_per_image=Setting(0, "the most of an image, of which training draws one", "[0, 2^53]", resume=SILENT),
    labels_per_image=Setting(1, "more than 1: a list of labels", "[1, 2^16]", resume=IDENTITY),
    dtype=Setting("uint8", "of the pictures", resume=IDENTITY),
    range=Setting((0.0, 255.0), "the values that map to -1 and 1", "(-inf, inf)", resume=IDENTITY, of=float),
    classes_of_masks=Setting(
        (), "the values of the masks that are modelled, where masks are", "[0, 2^16)", resume=SILENT
    ),
    alpha=Setting((), "names of pictures whose last channel is opacity", resume=IDENTITY, of=str),
    num_images=Setting(0, "training images", "[0, inf)", resume=SILENT),
    text_width=Setting(0, "features per token of a frozen text encoder", "[0, 2^16]", resume=IDENTITY),
    split_of=Setting("", "the run whose split.csv is kept to, where files have come or gone", resume=SILENT),
    fingerprint=Setting(
        "",
        "of the data's names, sizes and contents: a run that resumes is told of other data",
        resume=SILENT,
    ),
)

MODEL = group(
    "model",
    IDENTITY,
    space=Setting(
        "pixels", "what x lives in: pixels; latents (of the autoencoder in the group `space`); masks (segmentation)"
    ),
    conditions=Setting(("label",), "what the model is given, of what the data carry; (): unconditional", of=str),
    drop_rate=Setting(
        0.1,
        "how often a condition is dropped in training, for classifier-free guidance; each condition may have its "
        "own below",
        "[0, 1)",
        resume=TOLD,
    ),
    schedule=Setting(
        "edm",
        "edm, ve, vp, cosine_continuous, flow; tables: linear, scaled_linear, sigmoid, cosine, sigmoid_alpha_bar",
    ),
    schedule_steps=Setting(1000, "T of a table", "[1, 2^20]"),
    beta_start=Setting(1e-4, "linear, scaled_linear, sigmoid; vp takes both ends times 1000", "(0, 1)"),
    beta_end=Setting(0.02, "likewise, the last step's", "(0, 1)"),
    zero_terminal_snr=Setting(False, "tables: the last step has no signal left"),
    flow_shift=Setting(1.0, "flow: above 1 spends more time at high noise", "[0.01, 100]"),
    sigma_min=Setting(
        None,
        "edm, ve: the ends of the noise levels; None: 0.002 and 80, 0.01 and 50",
        "[1e-6, 1e5]",
        kind=float,
    ),
    sigma_max=Setting(None, "likewise", "[1e-6, 1e5]", kind=float),
    prediction=Setting("edm", "what the network predicts: edm, eps, x0, v, flow"),
    sigma_data=Setting(0.5, "edm: standard deviation of the data in [-1, 1]", "[1e-3, 1e3]"),
    learned_variance=Setting(False, "tables: the network also predicts the variance of ddpm's steps"),
)

CONDITION_LABEL = group(
    "condition.label",
    IDENTITY,
    drop_rate=Setting(None, "None: model.drop_rate", "[0, 1)", resume=TOLD, kind=float),
)

CONDITION_TEXT = group(
    "condition.text",
    IDENTITY,
    encoder=Setting(
        "transformer",
        "transformer: trained along with the model; frozen: a pretrained one from text.path",
    ),
    path=Setting(
        "",
        "frozen: a local folder that `transformers` reads; its tokenizer lies in it or, as in a pipeline, beside it. "
        "Both are copied into the run's folder when training starts",
        resume=TOLD,
    ),
    length=Setting(32, "most tokens of a text", "[3, 2^16]"),
    on_long=Setting("truncate", 'longer texts: "truncate" (with a warning) or "error"', resume=TOLD),
    vocabulary=Setting(
        2048,
        "transformer: most tokens of the byte-pair tokenizer that is fitted to the captions",
        "[1, 2^20]",
    ),
    width=Setting(128, "features of a token", "[1, 2^16]"),
    depth=Setting(2, "transformer: layers", "[1, 2^8]"),
    heads=Setting(4, "transformer: attention heads", "[1, 2^10]"),
    shuffle_tags=Setting(False, "transformer: captions are tags parted by commas, shuffled in training", resume=TOLD),
    drop_tags=Setting(0.0, "transformer: the rate at which a tag is left out in training", "[0, 1)", resume=TOLD),
    projected=Setting(True, "frozen: a linear layer on the features; False: none, as in Stable Diffusion"),
    padding=Setting(
        "masked",
        "frozen: a text shorter than text.length is padded, and its padding is masked, or read like the rest, as in "
        "Stable Diffusion",
    ),
    clip_skip=Setting(0, "frozen, of CLIP: the last layers left out, but for the final norm", "[0, 2^8]"),
    null=Setting(
        "learned",
        "in place of a dropped text: learned, a vector; empty (frozen, not projected), the features of the empty text, "
        "as in Stable Diffusion",
    ),
    drop_rate=Setting(None, "as of labels", "[0, 1)", resume=TOLD, kind=float),
)

CONDITION_IMAGE = group(
    "condition.image",
    IDENTITY,
    of=Setting("", 'which of a record\'s pictures; "": the one that is modelled'),
    view=Setting(
        "thumbnail",
        'how it is shown: "as_is", "thumbnail" (coarse pixels), "grey" (without its colours), or a sketch: "canny" '
        '(extra `edges`), "xdog"',
    ),
    shape=Setting(
        (),
        "filled in from the data when training starts, of the record's picture; so the next two",
        "[1, 2^16]",
    ),
    dtype=Setting("uint8", "filled in likewise"),
    range=Setting((0.0, 255.0), "filled in likewise", "(-inf, inf)", of=float),
    mask_values=Setting((), "filled in likewise, where that is a mask", "[0, 2^16)", resume=SILENT),
    factor=Setting(4, "thumbnail: the downsampling factor", "[1, 2^16]"),
    into=Setting(
        "concat",
        '"concat": concatenated to the noisy image; "cross_attention": tokens for cross-attention; "adapter": to a '
        "copy of the encoder beside the model of train.initial, which stays frozen (ControlNet)",
    ),
    width=Setting(128, "cross_attention: features of a token", "[1, 2^16]"),
    downsamples=Setting(2, "cross_attention: convolutions of stride 2 in the encoder", "[0, 16]"),
    drop_rate=Setting(None, "as of labels", "[0, 1)", resume=TOLD, kind=float),
)

CONDITION_SCALARS = group(
    "condition.scalars",
    IDENTITY,
    names=Setting((), "which numbers of a record; folder: columns of its metadata", of=str),
    mean=Setting(
        (),
        "of each number, which the network gets as (number - mean) / std; filled in from the data when training starts",
        "(-inf, inf)",
        of=float,
    ),
    std=Setting((), "of each, likewise", "(0, inf)", of=float),
    drop_rate=Setting(None, "as of labels", "[0, 1)", resume=TOLD, kind=float),
)

# Published ones by name: configs/networks.py.
NETWORK = group(
    "network",
    IDENTITY,
    name=Setting("unet", "unet; dit (a transformer over patches); convnet (the classifier's)"),
    dropout=Setting(0.0, "rate of dropout in the blocks, in training", "[0, 1)", resume=TOLD),
    dtype=Setting("float32", "compute in float32 or bfloat16; parameters stay float32", resume=TOLD),
    remat=Setting(False, "recompute blocks in the backward pass: less memory, more time", resume=TOLD),
    attention_heads=Setting(1, "unet, dit", "[1, 2^10]"),
    channels=Setting(128, "unet, convnet: level i has channels * channel_mults[i]", "[1, 2^16]"),
    channel_mults=Setting((1, 2, 2, 2), "one number a level; level i has sides / 2^i", "[1, 2^10]"),
    blocks_per_level=Setting(2, "unet (and all below): in the encoder; one more in the decoder", "[1, 2^6]"),
    block=Setting("residual", "residual, vgg, dense, inception"),
    scale_shift=Setting(True, "the embedding scales and shifts (ADM), or only shifts (DDPM)"),
    skip_rescale=Setting(False, "residual sums times sqrt(1/2), which keeps their variance"),
    norm=Setting("group", "group, layer, rms, instance"),
    norm_groups=Setting(0, "group: their number; 0: at most 32 of at least 4 channels", "[0, 2^16]"),
    norm_eps=Setting(1e-6, "also of dit's norm before the mlp", "[1e-12, 1]"),
    attention=Setting("self", "self, cross (to the conditions' tokens), transformer (both and a feed-forward network)"),
    attention_levels=Setting((1,), "levels with attention (0: full size)", "[0, 2^6]"),
    head_channels=Setting(0, "channels of an attention head, instead of attention_heads", "[0, 2^16]"),
    transformer_depth=Setting(1, "transformer: layers", "[1, 2^6]"),
    middle_attention=Setting(True, "attention between encoder and decoder"),
    up_attention=Setting("every", 'attention after "every" block of the decoder\'s level, or the "last"'),
    resample=Setting("conv", "downsampling and upsampling: conv, residual (in a residual block), pool (no parameters)"),
    resample_filter=Setting("box", "box (mean down, nearest up), fir ([1, 3, 3, 1])"),
    project_resampled=Setting(True, "residual: a 1x1 convolution on the skip branch of blocks that resample"),
    down_padding=Setting(
        (),
        "conv: zeros (before, after) of the strided convolution; (): one on either side",
        "[0, 1]",
    ),
    input_skip=Setting(False, "the downsampled image is added at every level of the encoder (NCSN++)"),
    noise_embedding=Setting("sinusoidal", "sinusoidal, fourier (at most 1,024 noise_channels)"),
    noise_channels=Setting(0, "features of the noise level before its two layers; 0: channels", "[0, 2^16]"),
    freq_shift=Setting(0, "sinusoidal: 1 makes the lowest frequency 1/10,000 exactly, as in DDPM's code", "[0, 1]"),
    width=Setting(384, "dit (and all below): features of a token", "[1, 2^16]"),
    depth=Setting(12, "blocks", "[1, 2^8]"),
    patch_size=Setting(2, "pixels", "[1, 2^10]"),
    grid_size=Setting(
        0,
        "patches that the positions span, whatever the image's sides; 0: patches are 1 apart",
        "[0, 2^16]",
    ),
    embedder=Setting("shared", "shared (one embedding of noise level and label for all blocks), per_block (diffusers)"),
)

# What task="autoencoder" trains. With model.space="latents" the architecture is filled in from space.autoencoder.
AUTOENCODER = group(
    "autoencoder",
    IDENTITY,
    bottleneck=Setting(
        "gaussian",
        "between encoder and decoder: plain (nothing), gaussian (a VAE; with a small beta the KL autoencoder), vq (a "
        "codebook), fsq (finite scalar quantisation)",
    ),
    latent_channels=Setting(4, "all but fsq, which has one a level", "[1, 2^16]"),
    codebook_size=Setting(512, "vq: codes", "[2, 2^20]"),
    levels=Setting((8, 5, 5, 5), "fsq: of each channel; their product is the number of codes", "[2, 2^10]"),
    channels=Setting(64, "level i has channels * channel_mults[i]", "[1, 2^16]"),
    channel_mults=Setting((1, 2, 2), "one number a level; latents have sides / 2^(levels - 1)", "[1, 2^10]"),
    blocks_per_level=Setting(1, "in the encoder; one more in the decoder", "[1, 2^6]"),
    attention_levels=Setting((), "levels with attention (0: full size)", "[0, 2^6]"),
    middle_attention=Setting(True, "attention between the two middle blocks"),
    norm_groups=Setting(0, "as of the network", "[0, 2^16]"),
    norm_eps=Setting(1e-6, "as of the network", "[1e-12, 1]"),
    encoder_channels=Setting(0, "a 1x1 convolution brings so many to the latents'; 0: none is there", "[0, 2^16]"),
    decoder_channels=Setting(0, "a 1x1 convolution brings latents to so many; 0: none is there", "[0, 2^16]"),
    beta=Setting(1e-6, "gaussian: weight of the KL divergence, a pixel value", "[0, 1e6]", resume=TOLD),
    commitment=Setting(0.25, "vq: weight of the commitment term", "[0, 1e6]", resume=TOLD),
    codebook_halflife_images=Setting(8_000, "vq: of the codes' averages", "(0, 2^53]", resume=TOLD),
    losses=Setting(
        ("l1",), "how images are compared: l1, l2, ssim, gradient, lpips (of lpips_weights)", resume=TOLD, of=str
    ),
    loss_weights=Setting((), "a weight for each; (): 1", "[0, 1e6]", resume=TOLD, of=float),
    lpips_weights=Setting(
        (),
        "lpips: the files of its network, torchvision's VGG16 or AlexNet, and of its heads, as in "
        '("vgg16-397923af.pth", "vgg.pth")',
        resume=TOLD,
        of=str,
    ),
    equivariance=Setting(
        0.0,
        "share of a batch whose latents are scaled or turned and compared with the images so changed (EQ-VAE); 0.5 "
        "for an autoencoder whose latents are to be learned",
        "[0, 1)",
        resume=TOLD,
    ),
    decoder_only=Setting(False, "train the decoder alone; the encoder stays as train.initial has it", resume=TOLD),
    adversary=Setting("none", "a patch discriminator's loss: hinge, non_saturating; none"),
    adversary_weight=Setting(0.5, "of the decoder's adversarial term", "[0, 1e6]", resume=TOLD),
    adversary_adaptive=Setting(True, "times the ratio of the two terms' gradients at the last layer", resume=TOLD),
    adversary_start=Setting(0, "images after which it begins", "[0, 2^53]", resume=TOLD),
    adversary_learning_rate=Setting(
        None, "of the discriminator; None: train.learning_rate", "[0, 1e30]", resume=TOLD, kind=float
    ),
    adversary_channels=Setting(64, "of the discriminator's first layer", "[1, 2^16]"),
    adversary_layers=Setting(3, "its halvings of the image", "[1, 16]"),
    adversary_r1=Setting(0.0, "weight of its gradient penalty on real images", "[0, 1e6]", resume=TOLD),
)

# model.space="latents".
SPACE = group(
    "space",
    IDENTITY,
    autoencoder=Setting(
        "",
        "a run of task=autoencoder, an exported one, or a folder of diffusers' AutoencoderKL or VQModel; its weights "
        "are copied into the run's folder when training starts. Of a trained model: one of the same encoder, whose "
        "decoder is taken",
    ),
    sampled=Setting(True, "gaussian: training draws latents anew at every step; False: their means", resume=TOLD),
    mean=Setting((), "of each channel of latents over the training set; filled in", "(-inf, inf)", of=float),
    std=Setting((), "standard deviation, likewise", "(0, inf)", of=float),
    prepared=Setting(
        "", "a folder of latents that --mode=prepare wrote, which training reads in place of encoding", resume=SILENT
    ),
    tile=Setting(
        0,
        "decode in overlapping tiles with this side, in pixels, where images are larger: no seams show where it is 32 "
        "latents or more; 0: whole",
        "[0, 2^16]",
        resume=SILENT,
    ),
    dtype=Setting("float32", "encode and decode in float32 or bfloat16", resume=TOLD),
    code=Setting("bits", "masks: the channels that a pixel's class is told by, bits or one_hot"),
    scale=Setting(
        1.0,
        "masks: codes are -scale and scale; below 1 a harder schedule (arXiv 2504.05977). model.sigma_data stays that "
        "of -1 and 1, and is scaled with them",
        "[0.01, 10]",
    ),
)

OBJECTIVE = group(
    "objective",
    TOLD,
    draw=Setting(
        "lognormal",
        "how training draws sigma: lognormal, log_uniform, logit_normal (of flow's t), uniform (in the schedule's "
        "time), steps (of a table, uniformly)",
    ),
    stratified=Setting(False, "spread a batch's draws evenly"),
    mean=Setting(
        None,
        "lognormal: of ln sigma (None: -1.2); logit_normal: of logit t (None: 0)",
        "[-20, 20]",
        kind=float,
    ),
    std=Setting(None, "likewise (None: 1.2; 1)", "(0, 20]", kind=float),
    weight=Setting("simple", "simple (1 on what the network predicts), edm, min_snr, soft_min_snr, p2, v_uniform"),
    gamma=Setting(None, "min_snr, soft_min_snr (None: 5); p2 (None: 1)", "(0, 1e6]", kind=float),
    loss=Setting("l2", "l2, l1, huber"),
    huber_delta=Setting(1.0, "huber: the error beyond which it is linear", "(0, 1e6]"),
    uncertainty=Setting(False, "learn how hard each noise level is, and weigh by it (EDM2)", resume=IDENTITY),
    vlb=Setting(0.001, "weight of the variational term, with model.learned_variance", "[0, 1e6]"),
)

# task="flow_map": D(x, sigma, s), the end of the flow at s, by one call of the network.
FLOW_MAP = group(
    "flow_map",
    TOLD,
    loss=Setting(
        "consistency",
        "consistency (ECT: jumps to 0 alone), continuous_consistency (sCT, likewise), mean_flow, shortcut (jumps to "
        "any s)",
        resume=IDENTITY,
    ),
    instants=Setting(
        None,
        "share of a batch that learns s = sigma, which samplers that integrate ask for; None: 0 of the consistency "
        "losses, 0.25 of mean_flow, 0.75 of shortcut",
        "[0, 1)",
        kind=float,
    ),
    q=Setting(
        2.0, "consistency: the two noise levels of a pair are a share of about 1/q^(stage + 1) apart", "(1, 1e6]"
    ),
    stage_images=Setting(
        0,
        "consistency: images after which the stage rises, each time, until q^(stage + 1) is 1e4; 0: never",
        "[0, 2^53]",
    ),
    c=Setting(
        None,
        "of the robust norm of consistency (None: 0), the tangent's normalisation of continuous_consistency (0.1; 0: "
        "not normalised), the adaptive weight of mean_flow (1e-3)",
        "[0, 1e6]",
        kind=float,
    ),
    warmup_images=Setting(
        0, "continuous_consistency: images over which the tangent's part in dF/dt rises", "[0, 2^53]"
    ),
    p=Setting(1.0, "mean_flow: each loss e^2 is divided by (e^2 + c)^p", "[0, 2]"),
    to_mean=Setting(None, "mean_flow: of ln s (None: as of sigma, objective.mean)", "[-20, 20]", kind=float),
    to_std=Setting(None, "likewise (None: objective.std)", "(0, 20]", kind=float),
    scales=Setting(
        (),
        "(lowest, highest) guidance scale that is trained in, as an input of the network, so that a guided sample "
        "costs one call; (): none",
        "[0, 1e3]",
        resume=IDENTITY,
        of=float,
    ),
    derivative=Setting(
        "auto",
        "of continuous_consistency and mean_flow, along sigma: forward (forward-mode differentiation), difference "
        "(over 10 % of sigma on either side); auto: difference where the network's own embedding of sigma is rough",
    ),
)

TRAIN = group(
    "train",
    TOLD,
    steps=Setting(0, "how long to train, in steps; or else", "[0, 2^31)", resume=SILENT),
    epochs=Setting(0.0, "in passes over the training images; or else", "[0, 1e9]", resume=SILENT),
    images=Setting(0, "in images seen", "[0, 2^53]", resume=SILENT),
    initial=Setting(
        "",
        "start from these weights: a run's folder, an exported one, or one of diffusers' (a model with "
        "config.json and safetensors, or a pipeline's folder); the network is then theirs",
        resume=IDENTITY,
    ),
    initial_fingerprint=Setting(
        "", "of the weights that stay frozen (lora, adapters); filled in when training starts", resume=SILENT
    ),
    initial_checkpoint=Setting(
        "latest",
        "of that run: latest, best or a step; filled in with it",
        resume=IDENTITY,
    ),
    batch_size=Setting(128, "images a step, over all devices", "[1, 2^31)"),
    since=Setting(
        (0, 0),
        "(step, images seen) when the batch size was last changed; filled in where a run goes on with another",
        "[0, inf)",
        resume=SILENT,
    ),
    accumulate=Setting(1, "microbatches a batch, to save memory, an autoencoder's encoder's too", "[1, 2^31)"),
    optimizer=Setting(
        "adam",
        "adam, adamw, radam; muon, for kernels, beside Adam: a run goes on with it alone, and without it alone",
    ),
    learning_rate=Setting(2e-4, "the highest of the schedule", "[0, 1e30]"),
    schedule=Setting(
        "constant",
        "the learning rate after its warm-up: constant; cosine and linear, to 0 at the end; inverse_sqrt, which "
        "falls after train.decay_images (EDM2)",
    ),
    decay_images=Setting(0, "inverse_sqrt: images after which the rate falls; 0: the warm-up's", "[0, 2^53]"),
    warmup_images=Setting(0, "the rate rises linearly over so many images, then stays", "[0, 2^31)"),
    b1=Setting(0.9, "Adam's decay of the mean gradient (Muon's own is 0.95)", "[0, 1)"),
    b2=Setting(0.999, "Adam's decay of the mean square", "[0, 1)"),
    eps=Setting(1e-8, "Adam's epsilon", "[1e-30, 1]"),
    weight_decay=Setting(0.0, "adamw", "[0, 1e30]"),
    clip_norm=Setting(1.0, "largest norm of the gradient; 0: not clipped", "[0, 1e30]"),
    ema_halflife_images=Setting(500_000, "half-life of the weights' average, in images; 0: no average", "[0, 2^53]"),
    ema_rampup=Setting(0.05, "the half-life is at most this share of the images seen", "[0, 1e9]"),
    ema_widths=Setting(
        (),
        "relative widths (EDM2's sigma_rel) of averages that are kept besides, as in (0.05, 0.1), from the first step "
        "on: sample.ema makes one of any width of them after training; (): none",
        "[0.001, 0.28]",
        resume=IDENTITY,
        of=float,
    ),
    ema_snapshot_every=Setting(
        0,
        "ema_widths: steps between their snapshots in WORKDIR/ema, which all stay; 0: a 32nd of the run",
        "[0, 2^31)",
        resume=SILENT,
    ),
    max_skipped_in_row=Setting(
        50,
        "the run stops after so many steps in a row without a finite loss and gradient",
        "[1, 2^31)",
        resume=SILENT,
    ),
    holdout_images=Setting(
        512,
        "held-out images scored, with fixed noise, at each checkpoint (tells the best)",
        "[0, inf)",
        resume=SILENT,
    ),
    sample_every=Setting(
        0,
        "steps between sample grids, drawn from the EMA weights; 0: never",
        "[0, inf)",
        resume=SILENT,
    ),
    trajectory_every=Setting(0, "steps between denoising strips; 0: never", "[0, inf)", resume=SILENT),
)

# Train low-rank parts beside the kernels of train.initial, these being frozen.
LORA = group(
    "lora",
    IDENTITY,
    rank=Setting(0, "0: train all weights", "[0, 2^16]"),
    alpha=Setting(None, "the low-rank parts are scaled by alpha / rank; None: the rank", "(0, inf)", kind=float),
    layers=Setting(("attention", "convolution"), "whose kernels get a part", of=str),
)

SAMPLE = group(
    "sample",
    SILENT,
    name=Setting("samples", "--mode=sample writes to WORKDIR/samples/<name> unless --out is given"),
    condition_dir=Setting(
        "",
        "a folder of pictures of any size: --mode=segment tells their masks, --mode=sample draws images that they "
        'condition; "": of --mode=sample some held-out images',
    ),
    condition_view=Setting(
        "as_in_training",
        "--mode=sample with condition_dir: its pictures are photos, which go through condition.image.view "
        "(as_in_training), or what that makes already, such as sketches drawn by hand (as_is)",
    ),
    images_per_condition=Setting(
        1, "--mode=sample with condition_dir: images drawn of each picture, in place of num_images", "[1, 2^20]"
    ),
    num_images=Setting(100, "how many images to draw", "[1, 2^31)"),
    batch_size=Setting(100, "images at a time, over all devices", "[1, 2^31)"),
    sampler=Setting(
        "heun",
        "ddpm, ddim, euler, euler_ancestral, heun, dpm2, dpmpp_2s_ancestral, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, "
        "dpmpp_sde, lms, unipc, langevin, predictor_corrector, ode; of task=flow_map: flow_map, consistency",
    ),
    steps=Setting(18, "rungs of the ladder; ode chooses its own steps between its ladder's two ends", "[1, 2^31)"),
    eta=Setting(
        None,
        "noise, 0 none .. 1 ddpm's: ddim, flow_map (None: 0), the ancestral and sde ones (None: 1)",
        "[0, 1]",
        kind=float,
    ),
    variance=Setting("small", "ddpm: small, large, learned (with model.learned_variance)"),
    order=Setting(None, "unipc (None: 2), lms (None: 4)", "[1, 4]", kind=int),
    langevin_step=Setting(
        None,
        "in units of sigma^2: langevin (None: 0.25), predictor_corrector (0.1)",
        "(0, 1]",
        kind=float,
    ),
    corrector_steps=Setting(1, "langevin, predictor_corrector: Langevin steps at each rung", "[1, 2^20]"),
    rtol=Setting(2e-2, "ode: tolerated relative error of a step", "[1e-6, 1]"),
    atol=Setting(2e-2, "absolute error, likewise", "[1e-6, 1]"),
    s_churn=Setting(0.0, "heun: EDM's S_churn, the amount of noise", "[0, 1e9]"),
    s_min=Setting(0.0, "heun: noise is added at sigmas of at least this", "[0, 1e9]"),
    s_max=Setting(None, "heun: and at most this; None: no upper end", "(0, inf]", kind=float),
    s_noise=Setting(1.0, "heun: EDM's S_noise, the noise's standard deviation", "(0, 10]"),
    ladder=Setting(
        "auto",
        "karras, logsnr, flow, uniform (in the schedule's time), by_hand; leading, trailing, linspace, quadratic, "
        "exponential (tables); auto: trailing for ddpm, ddim and euler on tables, else karras",
    ),
    steps_offset=Setting(0, "leading: added to each step, 1 in Stable Diffusion", "[0, 2^20]"),
    final_sigma=Setting(
        "zero",
        "leading, trailing, linspace, quadratic, exponential: the last rung, zero or sigma_min, the lower end, whose "
        "noise is then left in (diffusers' set_alpha_to_one=False)",
    ),
    rho=Setting(7.0, "karras", "[0.1, 100]"),
    flow_shift=Setting(1.0, "flow", "[0.01, 100]"),
    sigmas=Setting((), "by_hand: the sigmas themselves, falling", "[0, 1e5]", of=float),
    sigma_min=Setting(None, "karras, logsnr: the lower end; None: the schedule's own", "[1e-6, 1e5]", kind=float),
    sigma_max=Setting(
        None,
        "all but by_hand: the upper end; None: the schedule's own, 160 at most",
        "[1e-6, 1e5]",
        kind=float,
    ),
    adapter_scale=Setting(
        1.0,
        "condition.image.into='adapter': by how much what it adds is scaled; 0: the frozen model alone",
        "[-1e3, 1e3]",
    ),
    guidance_scale=Setting(None, "w in w D_cond + (1 - w) D_uncond; None or 1: no guidance", "[-1e9, 1e9]", kind=float),
    preset=Setting(
        0,
        "denoiser calls an image, by the settings that --mode=tune found for so many (the run's tune/tuned.json); "
        "settings that are given besides go before these; 0: none",
        "[0, 2^20]",
    ),
    given=Setting((), "filled in with preset: the settings given besides", of=str),
    shape=Setting(
        (),
        "(height, width) of the images, one of data.shapes; (): that of most training images",
        "[1, 2^16]",
    ),
    size=Setting(
        (),
        "(height, width) of images of another size than the model was trained in, where its network allows; (): none",
        "[1, 2^16]",
    ),
    labels=Setting(
        (),
        "classes in turn, by number or name; (): every class in turn; data: as often as in the data",
        of=(int, str, tuple),
    ),
    texts=Setting((), "texts in turn; (): those of some held-out images, with their other conditions", of=str),
    seed=Setting(0, "of the noise; each image has its own", "[0, 2^32)"),
    checkpoint=Setting("latest", "latest, best (by checkpoint.best_by), or a step"),
    ema=Setting(
        None,
        "the width of the weights' average, 0.001 to 0.28, of a run with train.ema_widths; None or 0: its ordinary one",
        "[0, 0.28]",
        kind=float,
    ),
    save_images=Setting(False, "also a PNG an image"),
    trajectory=Setting(False, "also trajectory.png and trajectory.gif, of the first images"),
    compare_steps=Setting(
        (),
        "also steps.png: the first images from the same noise in so many steps each, (5, 10, 20)",
        "[1, 2^20]",
    ),
)

# What sample.guidance_scale does.
GUIDANCE = group(
    "guidance",
    SILENT,
    method=Setting(
        "classifier_free",
        "classifier_free, cfg_plus_plus (scale in [0, 1]), autoguidance, classifier, trained_in (flow_map.scales)",
    ),
    weak_workdir=Setting("", "autoguidance: the run of the weaker model"),
    weak_checkpoint=Setting("latest", "of that run"),
    classifier_workdir=Setting("", 'classifier: a run of task "classifier", which reads the denoised image'),
    conditions=Setting((), "the conditions that D_uncond lacks; (): all of model.conditions", of=str),
    rescale=Setting(0.0, "phi in [0, 1]: how far D's standard deviation is brought back to D_cond's", "[0, 1]"),
    sigma_low=Setting(0.0, "guided where sigma_low < sigma <= sigma_high alone", "[0, 1e9]"),
    sigma_high=Setting(None, "None: no upper end", "(0, inf]", kind=float),
    threshold=Setting("none", "of the denoised image: none, static (to [-1, 1]), dynamic"),
    quantile=Setting(0.995, "dynamic", "(0, 1]"),
)

EVAL = group(
    "eval",
    SILENT,
    name=Setting("evaluation", "--mode=evaluate writes to WORKDIR/<name> unless --out is given"),
    protocol=Setting(
        "jdiff",
        "how images are scored: jdiff (any features); edm, edm2-dinov2, pytorch-fid, torch-fidelity, clean, dgm-eval, "
        "cmmd, fld, teaching",
    ),
    features=Setting(
        "",
        "jdiff: classifier (a small one, trained once on the data), pixels, inception, dinov2_vits14 (vitb14, vitl14; "
        'and with _reg), clip-vit-base-patch32 (large-patch14, large-patch14-336); "": classifier',
    ),
    weights=Setting("", 'the file of these features\' weights; classifier: "" trains one, kept in ~/.cache/jdiff'),
    reference=Setting("", 'statistics of the reference (.npz of --mode=stats, pytorch-fid or EDM); "": of the data'),
    images=Setting(
        "",
        "a folder or .npz of images that exist already, or files parted by commas, to be scored in place of drawn ones",
    ),
    num_images=Setting(
        0,
        "images to score; 0: as many as the protocol says, or as the training data have (at most 10,000; in training "
        "1,000)",
        "[0, 2^31)",
    ),
    seeds=Setting(0, "how often images are drawn, from sample.seed on; 0: as the protocol says", "[0, 2^10]"),
    labels=Setting(
        "",
        'classes that are drawn: "data", as often as in the data, or "uniform", all alike; "": data where its counts '
        "are known; else sample.labels",
    ),
    likelihood_images=Setting(0, "held-out images whose bits per dimension are told, besides; 0: none", "[0, 2^31)"),
    every=Setting(0, "steps between evaluations in training, of the averaged weights; 0: never", "[0, inf)"),
    sweep=Setting(
        (),
        'filled in from settings of `sample` or `guidance` that are given several values, as sample.steps="(5, 10)"',
        of=tuple,
    ),
)

TUNE = group(
    "tune",
    SILENT,
    nfe=Setting((4, 8, 16), "denoiser calls an image, for each of which the best settings are sought", "[1, 1024]"),
    images=Setting(5000, "images that the last settings are compared by; earlier rounds draw fewer", "[2, 2^31)"),
    samplers=Setting(
        ("dpmpp_2m", "unipc", "heun", "dpmpp_2m_sde"), "those tried, beside sample.sampler in the end", of=str
    ),
    finalists=Setting(2, "settings that reach the last comparison, beside the usual ones", "[1, 100]"),
)

SEGMENT = group(
    "segment",
    SILENT,
    members=Setting(
        5,
        "masks drawn for an image, whose mean is told; without diffusion as many answers with dropout on, or 1 without",
        "[1, 4095]",
    ),
    tiles=Setting(
        False,
        "cut pictures that are larger than the model's into overlapping tiles, at their own resolution, in place of "
        "bringing each to the model's size as a whole; smaller ones are enlarged either way",
    ),
    overlap=Setting(0.25, "tiles: by at least this share of their sides", "[0, 0.9]"),
    on_bad_file=Setting("error", '"error" refuses an unreadable picture by name, "skip" leaves it out and tells it'),
    least_confidence=Setting(0.8, "a picture whose confidence (see segmentation.csv) is below is uncertain", "[0, 1]"),
)

LOG = group(
    "log",
    SILENT,
    every=Setting(100, "steps between log points", "[1, inf)"),
    progress=Setting(True, "the progress bar"),
    pictures=Setting(True, "sample grids and strips"),
    tensorboard=Setting(True, "write event files for TensorBoard"),
    wandb=Setting(False, "Weights & Biases (extra `wandb`)"),
    wandb_project=Setting("jdiff", "the project there"),
)

CHECKPOINT = group(
    "checkpoint",
    SILENT,
    every=Setting(1000, "steps; besides, one is saved at the end and on Ctrl-C or SIGTERM", "[1, inf)"),
    keep=Setting(3, "the last so many, and the best", "[1, inf)"),
    best_by=Setting(
        "loss",
        "what tells the best: loss (held-out), or a number of the evaluation, such as fd_classifier (with eval.every)",
    ),
    resume_from=Setting(
        0,
        "go back to this step's checkpoint and train on from there; later ones are set aside. 0: the latest",
        "[0, inf)",
    ),
)

SERVE = group(
    "serve",
    SILENT,
    host=Setting("127.0.0.1", 'the address that the page is at; "0.0.0.0": open to the network, without a password'),
    port=Setting(7860, "and its port; 0: a free one", "[0, 65535]"),
    most_images=Setting(16, "that a visitor draws at once", "[1, 2^10]"),
    most_steps=Setting(250, "that a visitor asks for", "[1, 2^16]"),
)

MACHINE = group(
    "machine",
    SILENT,
    fsdp=Setting(1, "devices over which the parameters are split; the batch is split over all devices", "[1, 2^16]"),
    distributed=Setting(False, "one of several processes, which Slurm, Open MPI, Kubernetes or the next keys tell"),
    coordinator=Setting("", 'HOST:PORT of the first process; "": JAX_COORDINATOR_ADDRESS, or what the launcher tells'),
    processes=Setting(0, "their number; 0: JAX_NUM_PROCESSES, or what the launcher tells", "[0, 2^20]"),
    process=Setting(-1, "this one's index from 0 on; -1: JAX_PROCESS_ID, or what the launcher tells", "[-1, 2^20]"),
    workers=Setting(0, "processes that read data; 0: threads of the main one", "[0, 2^10]"),
    threads=Setting(0, "threads that read data, in each of them; 0: as many as there are cores", "[0, 2^10]"),
    prefetch=Setting(0, "batches read ahead, each by a thread; 0: one a thread, and at least 4", "[0, 2^16]"),
    cache=Setting(2.0, "GiB of decoded images that are kept in memory (not with workers)", "[0, inf)"),
    compilation_cache=Setting("~/.cache/jdiff/xla", 'compiled programs are kept here; "": nowhere'),
)
SETTINGS = {
    **TOP,
    **DATA,
    **MODEL,
    **CONDITION_LABEL,
    **CONDITION_TEXT,
    **CONDITION_IMAGE,
    **CONDITION_SCALARS,
    **NETWORK,
    **AUTOENCODER,
    **SPACE,
    **OBJECTIVE,
    **FLOW_MAP,
    **TRAIN,
    **LORA,
    **SAMPLE,
    **GUIDANCE,
    **EVAL,
    **TUNE,
    **SEGMENT,
    **LOG,
    **CHECKPOINT,
    **SERVE,
    **MACHINE,
}


def get_config() -> ConfigDict:
    values: dict[str, Any] = {}
    for name, setting in SETTINGS.items():
        *groups, key = name.split(".")
        place = values
        for part in groups:
            place = place.setdefault(part, {})
        if setting.or_two:
            place[key] = FieldReference(setting.default, field_type=object)
        else:
            place[key] = placeholder(setting.kind) if setting.default is None else setting.default
    return ConfigDict(values).lock()
