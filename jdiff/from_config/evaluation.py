"""What numbers are measured with: networks whose features are compared, and published protocols."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ml_collections import ConfigDict

from jdiff.common.errors import UserError
from jdiff.common.progress import Progress
from jdiff.config import one_of
from jdiff.evaluation import classifier, pixels
from jdiff.evaluation.copying import Gap, Memorised
from jdiff.evaluation.distances import Cmmd, FrechetDistance, FrechetInfinity, KernelDistance, WorstClass
from jdiff.evaluation.gather import Pictures
from jdiff.evaluation.protocol import Protocol
from jdiff.evaluation.quality import Accuracy, Neighbours, Score, Vendi
from jdiff.from_config.names import pick
from jdiff.interop import features as pretrained
from jdiff.interop.features import clip_vision, dinov2, inception
from jdiff.interop.features.files import Source
from jdiff.networks.features import clip_vision as clip_networks
from jdiff.networks.features import dinov2 as dinov2_networks
from jdiff.networks.features import inception as inception_networks
from jdiff.networks.features.space import Extractor, Input


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """What the features of the data themselves are made of. pictures: opens the training images, which have `shape`,
    `classes` classes and this fingerprint.
    """

    shape: tuple[int, int, int]
    classes: int
    fingerprint: str
    pictures: Callable[[], Pictures]
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Features:
    """A kind of features. name, title: of the Frechet distance between them; kernel: of KID's. layer, logits: of the
    extractor. load: (path of weights, input or None, the data) -> the extractor. knows_classes: whether these are the
    data's own. pretrained: on images of 1 or 3 channels.
    """

    name: str
    title: str
    kernel: tuple[str, str]
    layer: str
    logits: str = ""
    knows_classes: bool = False
    pretrained: bool = True
    load: Callable[[str, Input | None, OwnData], Extractor]


def _inception(path: str, seen: Input | None, data: OwnData) -> Extractor:
    return pretrained.load_inception(_given(path, inception.SOURCE), seen or inception_networks.TF1)


def _dinov2(name: str, path: str, seen: Input | None, data: OwnData) -> Extractor:
    return pretrained.load_dinov2(name, _given(path, dinov2.source(name)), seen or dinov2_networks.DGM_EVAL)


def _clip(name: str, path: str, seen: Input | None, data: OwnData) -> Extractor:
    return pretrained.load_clip_vision(name, _given(path, clip_vision.source(name)), seen)


def _classifier(path: str, seen: Input | None, data: OwnData) -> Extractor:
    return classifier.load(data.shape, data.classes, data.fingerprint, path, data.pictures, data.progress)


def _pixels(path: str, seen: Input | None, data: OwnData) -> Extractor:
    if path:
        raise UserError(f"eval.weights={path!r}: eval.features='pixels' has no weights; leave it out")
    return pixels.load(data.shape)


def _given(path: str, source: Source) -> str:
    if not path:
        raise UserError(f"these features need eval.weights=FILE, and none are shipped: {source.hint}")
    return path


FEATURES: dict[str, Features] = {
    "classifier": Features(
        name="fd_classifier",
        title="FD-classifier",
        kernel=("kd_classifier", "KD-classifier"),
        layer="features",
        logits="logits",
        knows_classes=True,
        pretrained=False,
        load=_classifier,
    ),
    "pixels": Features(
        name="fd_pixels",
        title="FD-pixels",
        kernel=("kd_pixels", "KD-pixels"),
        layer="pixels",
        pretrained=False,
        load=_pixels,
    ),
    "inception": Features(
        name="fid", title="FID", kernel=("kid", "KID"), layer="pool", logits="logits_unbiased", load=_inception
    ),
    **{
        name: Features(
            name="fd_dinov2",
            title="FD-DINOv2",
            kernel=("kd_dinov2", "KD-DINOv2"),
            layer="class_token",
            load=partial(_dinov2, name),
        )
        for name in dinov2_networks.NETWORKS
    },
    **{
        name: Features(
            name="fd_clip",
            title="FD-CLIP",
            kernel=("kd_clip", "KD-CLIP"),
            layer="projection",
            load=partial(_clip, name),
        )
        for name in clip_networks.NETWORKS
    },
}

FID = FrechetDistance(name="fid", title="FID")
FD_DINOV2 = FrechetDistance(name="fd_dinov2", title="FD-DINOv2")
KID = KernelDistance(name="kid", title="KID")
KD_DINOV2 = KernelDistance(name="kd_dinov2", title="KD-DINOv2", adapt=True)
LARGE = "dinov2_vitl14"

PUBLISHED: dict[str, Protocol] = {
    "edm": Protocol(
        name="edm",
        features="inception",
        input=inception_networks.TF1,
        metrics=(FID,),
        images=50_000,
        seeds=3,
        lowest=True,
        about="FID as EDM: Inception of 2015-12-05 by TF1's bilinear resize, 50,000 images against all training "
        "images, the lowest of 3 seeds",
    ),
    "edm2-dinov2": Protocol(
        name="edm2-dinov2",
        features=LARGE,
        input=dinov2_networks.EDM2,
        metrics=(FD_DINOV2,),
        images=50_000,
        seeds=3,
        lowest=True,
        about="FD-DINOv2 as EDM2: ViT-L/14's class token at 224 pixels by torch's antialiased bicubic resize, "
        "50,000 images against all training images, the lowest of 3 seeds",
    ),
    "pytorch-fid": Protocol(
        name="pytorch-fid",
        features="inception",
        input=inception_networks.PYTORCH_FID,
        metrics=(FID,),
        images=50_000,
        about="FID as pytorch-fid: Inception of 2015-12-05 by torch's bilinear resize (align_corners False)",
    ),
    "torch-fidelity": Protocol(
        name="torch-fidelity",
        features="inception",
        input=inception_networks.TF1,
        metrics=(FID, KID, Score(name="inception_score", title="IS"), Neighbours(k=3, density=False, rows=50_000)),
        images=50_000,
        about="torch-fidelity's: Inception of 2015-12-05 by TF1's bilinear resize; KID of 100 subsets of 1,000, IS of "
        "10 splits; precision and recall with k = 3 on the same features (the library's default there is VGG-16's)",
    ),
    "clean": Protocol(
        name="clean",
        features="inception",
        input=inception_networks.CLEAN,
        metrics=(FID, KernelDistance(name="kid", title="KID", adapt=True)),
        images=50_000,
        about="clean-fid's: Inception of 2015-12-05 by Pillow's antialiased bicubic resize in floats",
    ),
    "dgm-eval": Protocol(
        name="dgm-eval",
        features=LARGE,
        input=dinov2_networks.DGM_EVAL,
        metrics=(FD_DINOV2, KD_DINOV2, Neighbours(k=5, alike=True), Vendi()),
        images=50_000,
        about="dgm-eval's: DINOv2 ViT-L/14's class token at 224 pixels by Pillow's bicubic resize; what is quadratic "
        "is of 10,000 images, k = 5; Vendi score of all classes together",
    ),
    "cmmd": Protocol(
        name="cmmd",
        features="clip-vit-large-patch14-336",
        metrics=(Cmmd(),),
        images=30_000,
        about="CMMD: CLIP ViT-L/14-336's normalised embeddings of the central square by Pillow's bicubic resize, "
        "Gaussian kernel of bandwidth 10, 30,000 images",
    ),
    "fld": Protocol(
        name="fld",
        features=LARGE,
        input=dinov2_networks.DGM_EVAL,
        metrics=(Gap(),),
        images=10_000,
        about="FLD's generalisation gap on DINOv2 ViT-L/14's features, 10,000 images",
    ),
    "teaching": Protocol(
        name="teaching",
        features="inception",
        input=Input(resize="torch", size=299, offset=(128.0,) * 3, scale=(128.0,) * 3, floored=True),
        metrics=(FID,),
        images=50_000,
        test_too=True,
        about="FID as torchmetrics has it in teaching code: images resized to 299 pixels (torch's bilinear) and cut to "
        "8 bits beforehand, 50,000 against the training and the test images together",
    ),
}
OWN = "jdiff"  # the protocol for any features


def protocol(config: ConfigDict) -> Protocol:
    """The protocol of the group `eval`. Raises UserError for settings that do not fit together."""
    wanted = config.eval
    name = one_of("eval.protocol", wanted.protocol, [OWN, *PUBLISHED])
    if name == OWN:
        return _own(one_of("eval.features", wanted.features or "classifier", list(FEATURES)))
    published = PUBLISHED[name]
    if wanted.features and wanted.features != published.features:
        raise UserError(
            f"eval.features={wanted.features!r}: the protocol {name} is of {published.features}; leave eval.features "
            f"out, or set eval.protocol={OWN}"
        )
    return published


def features(name: str) -> Features:
    """The features of a protocol."""
    return pick("eval.features", name, FEATURES)


def _own(name: str) -> Protocol:
    of = FEATURES[name]
    distance = FrechetDistance(name=of.name, title=of.title)
    limit = FrechetInfinity(name=f"{of.name}_infinity", title=f"{of.title}, n to infinity")
    kernel = KernelDistance(name=of.kernel[0], title=of.kernel[1], adapt=True, rows=10_000)
    worst = WorstClass(name=f"{of.name}_worst_class", title=f"{of.title}, worst class")
    return Protocol(
        name=OWN,
        features=name,
        metrics=(
            distance,
            limit,
            kernel,
            *((Accuracy(),) if of.knows_classes else ()),
            worst,
            Neighbours(k=5),
            Vendi(),
            Memorised(),
        ),
        strict=False,
        about=f"jdiff's own, on the features of {_about(name)}: images quantised to 8 bits; "
        "neighbours, diversity and copies of at most 10,000 images",
    )


def _about(name: str) -> str:
    own = {
        "classifier": "a small classifier trained on these data (no FID: comparable with the same weights alone)",
        "pixels": "the pixels themselves",
        "inception": "FID's Inception",
    }
    return own.get(name, name)
