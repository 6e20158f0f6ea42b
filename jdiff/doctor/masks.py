"""Masks: neither empty nor full, of the few values that stand for classes, and each with its own photo.

Does a photo explain its own mask better than it does other masks? Let R^2 in [0, 1] be how much of a mask's thumbnail
is a linear function of the colours of the photo's thumbnail and of their products; what place alone explains, and the
mean mask, is taken out of both first: all lesions lie in the middle. The rank of a record's own R^2 among those of
other masks with the same photo is 1/2 on average where masks and photos have nothing to do with each other. Other
pictures, such as maps of labels in colours, are judged alike, by all of their channels.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

from jdiff.doctor import thresholds as th
from jdiff.doctor.findings import Finding, Suspect, judge
from jdiff.doctor.scan import Scan
from jdiff.doctor.words import listed, many, number, share

TURNS = {
    "mirrored left to right": (0, True),
    "upside down": (2, True),
    "turned by 180 degrees": (2, False),
    "turned by 90 degrees": (1, False),
    "turned by 270 degrees": (3, False),
}  # quarter turns, and whether left and right are exchanged


def masks(scan: Scan) -> list[Finding]:
    """Findings "mask_empty", "mask_full" and "mask_values" of every picture that is a mask."""
    names = [name for name, kept in scan.pictures.items() if kept.picture.kind == "mask"]
    return [one for name in names for one in (*_filled(scan, name), *_values(scan, name))]


def partners(scan: Scan, near: Collection[frozenset[int]]) -> list[Finding]:
    """Findings "mask_copies", "mask_fit" and "mask_inverted", of every picture beside the images, be it a mask or not.
    near: rows of images that are near copies of each other.
    """
    found: list[Finding | None] = []
    for name, kept in scan.partners.items():
        found += [_copies(scan, name, near), _fit(scan, name)]
        found += [_inverted(scan, name)] if kept.picture.kind == "mask" else []
    return [finding for finding in found if finding]


def _filled(scan: Scan, name: str) -> list[Finding]:
    kept, found = scan.pictures[name], []
    of = int(kept.rows.read.sum())
    one_value = kept.rows.read & (np.array(list(map(len, kept.values))) == 1)
    for what, whole in (("empty", 0.0), ("full", 1.0)):
        code, shown = f"mask_{what}", scan.suspects(one_value & (kept.rows.share == whole), f"its {name} is {what}")
        count = len(shown)
        says = f"{many(count, name)} of {of:,} ({share(count / max(of, 1))}) {'is' if count == 1 else 'are'} {what}"
        do = f"look whether these images show nothing, or their {name}s are lost"
        if count == of:
            do = f"there is nothing to learn from a {name} that is always {what}"
        finding = judge(code, shown, f"no {name} is {what}", "refuse" if count == of else "look", says, do)
        if th.MEANT * of < count < of:
            finding = Finding(code, "fine", f"{finding.says}; so many seem to be meant")
        found.append(finding)
    return found


def _values(scan: Scan, name: str) -> list[Finding]:
    code, kept = "mask_values", scan.pictures[name]
    of = int(kept.rows.read.sum())
    counts = Counter(value for values in kept.values for value in values)
    if not counts:
        return []
    common = sorted(value for value, count in counts.items() if count > max(1, th.COMMON * of) or count == of)
    if len(counts) > th.MASK_CLASSES and len(common) > th.MASK_CLASSES:
        says = (
            f"{name}s hold {len(counts)} or more values, {number(min(counts))} .. {number(max(counts))}: these are no "
        )
        says += "masks of classes, or they were saved as JPEG or resized with smoothing"
        return [Finding(code, "refuse", says, "save masks as PNG with one value a class, or read them as pictures", of)]
    odd = set(counts) - set(common)
    shown = scan.suspects(
        [row for row, values in enumerate(kept.values) if odd & set(values)],
        lambda row: f"values {listed([number(value) for value in kept.values[row] if value in odd], 4)}",
    )
    values = listed([number(value) for value in common], 8)
    says = f"{many(len(shown), name)} with values that hardly any other has (usual: {values})"
    do = "save these masks again, as PNG and without smoothing"
    classes = "two values" if len(common) == 2 else many(len(common), "value")
    found = [judge(code, shown, f"{name}s hold {classes}: {values}", "look", says, do, named=2, why=True)]
    if len(common) > 1 and max(common) < th.FAINT_MASK * kept.picture.high:
        high = number(kept.picture.high)
        says = f"{name}s hold {values} of the declared {number(kept.picture.low)} .. {high}: to the model they are all "
        do = f"save them with {high} as the highest value, or declare {number(max(common))}"
        found = [*(found if shown else []), Finding(code, "look", f"{says}but black", do, of)]
    return found


def _copies(scan: Scan, name: str, near: Collection[frozenset[int]]) -> Finding:
    """The same mask with different photos."""
    kept, rows = scan.pictures[name], scan.pictures[name].rows
    pixels = rows.height * rows.width
    drawn = rows.read & scan.readable & (rows.contrast > 0)
    if kept.picture.kind == "mask":
        drawn &= (rows.share * pixels >= th.DRAWN) & ((1 - rows.share) * pixels >= th.DRAWN)
    groups: dict[bytes, dict[bytes, int]] = defaultdict(dict)  # mask -> photo -> row
    for row in np.flatnonzero(drawn).tolist():
        groups[rows.digest[row].tobytes()][scan.image.rows.digest[row].tobytes()] = row
    different = [list(group.values()) for group in groups.values() if len(group) > 1]
    copied = [one for one in different if not all(frozenset((one[0], row)) in near for row in one[1:])]
    count, of = sum(map(len, copied)), int(rows.read.sum())
    says, fine = (
        f"{many(count, 'image')} of {of:,} share their {name} with another",
        f"no two images have the same {name}",
    )
    if count > th.MEANT * of:
        return Finding("mask_copies", "fine", f"{says}; so many seem to be meant")
    shown = [Suspect(tuple(map(scan.place, group)), f"one {name} for different images") for group in copied]
    do = f"look which of them the {name} belongs to"
    return judge("mask_copies", shown, fine, "look", says, do, named=2, count=count)


def _inverted(scan: Scan, name: str) -> Finding | None:
    """Masks of what the others leave out: the border of the picture, and the light where others mark the dark."""
    kept = scan.pictures[name]
    found, judged = [], False
    for _, own in scan.splits:
        rows = np.flatnonzero(own & scan.readable & kept.rows.read & (kept.rows.contrast > 0))
        if len(rows) < th.FIT_FEWEST:
            continue
        judged = True
        masks, photos = kept.fine[rows, ..., 0] / 255.0, scan.image.fine[rows].mean(axis=-1)
        inside = masks[:, 1:-1, 1:-1].sum(axis=(1, 2))
        border = (masks.sum(axis=(1, 2)) - inside) / (4 * masks.shape[1] - 4) > 0.5
        masks, photos = (one - one.mean(axis=(1, 2), keepdims=True) for one in (masks, photos))
        norms = np.linalg.norm(masks, axis=(1, 2)) * np.linalg.norm(photos, axis=(1, 2))
        correlation = (masks * photos).sum(axis=(1, 2)) / np.maximum(norms, 1e-9)
        correlation *= np.sign(np.median(correlation))
        odd = (border != (border.mean() > 0.5)) & (correlation < -th.DARKER)
        if (correlation > 0).mean() >= th.SENSE - odd.mean() and odd.mean() <= th.MEANT:
            found += scan.suspects(rows[odd], f"its {name} seems inverted")
    says = f"{many(len(found), name)} seem inverted beside the others"
    do = "look at them; if so exchange their values"
    return judge("mask_inverted", found, f"no {name} seems inverted", "look", says, do) if judged else None


def _fit(scan: Scan, name: str) -> Finding | None:
    """Finding "mask_fit": whether photos fit their own partners better than those of others."""
    fits = [one for split, own in scan.splits if (one := fit(scan, name, split, own))]
    wrong = [one for one in fits if one.says]
    if wrong:
        do = f"look whether each {name} belongs to its image: names that are sorted in another way do this"
        severity = "refuse" if any(one.sure for one in wrong) else "look"
        says = "; ".join(one.says for one in wrong)
        return Finding("mask_fit", severity, says, do, sum(len(one.rank) for one in wrong))  # type: ignore[arg-type]
    whys = {row: why for one in fits for row, why in one.whys.items()}
    ranks = [one.rank for one in fits if not _by_chance(one.rank)]
    if not whys and not ranks:
        return None
    mean = float(np.concatenate(ranks).mean()) if ranks else 0
    fine = f"an image fits its {name} better than {share(mean)} of the {name}s of others"
    says = f"{many(len(whys), 'image')} may have the {name} of another, or a wrong one"
    do = f"look whether these {name}s belong to their images"
    return judge("mask_fit", scan.suspects(whys, whys.__getitem__), fine, "look", says, do, why=True)


@dataclass(frozen=True)
class Fit:
    """How the partners of a split's images fit. rank [n]: of each. says: what is wrong with all of them, and whether
    that is sure. whys: row -> what is wrong with it alone.
    """

    rank: Float[np.ndarray, " n"]
    says: str = ""
    sure: bool = True
    whys: dict[int, str] = field(default_factory=dict)


def fit(scan: Scan, name: str, split: str, own: Bool[np.ndarray, " n"]) -> Fit | None:
    """Whether the pictures `name` are those of their images; None of too few."""
    image, other = scan.image, scan.pictures[name]
    seen = own & image.usable & other.usable & (image.rows.contrast > 0) & (other.rows.contrast > 0)
    rows = np.flatnonzero(seen)
    if len(rows) < th.FIT_FEWEST:
        return None
    pairs = _Pairs(image.fine[rows], other.fine[rows])
    order = np.arange(len(rows))
    references = order[:: -(-len(rows) // th.FIT_REFERENCES)]
    matched = pairs.paired()
    less = pairs.matrix(references) < matched[:, None]
    rank = less.sum(axis=1) / (len(references) - np.isin(order, references))
    usual = np.median(_log(matched))
    gains = np.stack([(_log(pairs.paired(turn)) - _log(matched)) / usual for turn in TURNS.values()])
    ways, shares = list(TURNS), (gains > th.GAIN).mean(axis=1)
    if shares.max() >= th.ALL_TURNED:
        return Fit(rank, f"the {split} {name}s fit their images better {ways[shares.argmax()]}")
    if _by_chance(rank) and other.picture.kind == "mask":
        says = f"the {split} images fit their {name}s no better than those of others, as far as colours tell"
        return Fit(rank, says, sure=False)
    if (rank >= th.HIGH).mean() < th.MOST_HIGH:
        return Fit(rank)
    turned = np.flatnonzero(gains.max(axis=0) > th.TURNED).tolist()
    whys = {one: f"its {name} fits better {ways[gains[:, one].argmax()]}" for one in turned}
    low = [one for one in np.argsort(rank).tolist() if rank[one] < th.LOW]
    for one in low if len(low) > max(th.FEW_LOW, th.MOST_LOW * len(rank)) else ():
        whys.setdefault(one, f"fits the {name}s of most others better")
    return Fit(rank, whys={int(rows[one]): why for one, why in whys.items()})


def _by_chance(rank: Float[np.ndarray, " n"]) -> bool:
    """Whether the mean rank is within CHANCE standard errors of 1/2."""
    return bool((rank.mean() - 0.5) * np.sqrt(12 * len(rank)) < th.CHANCE)


def _log(explained: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    return -np.log(1 - np.clip(explained, 1e-6, 0.999))


class _Pairs:
    """R^2 of partners, explained by photos. Both are kept as thumbnails, and photos are worked on a block at a time."""

    def __init__(self, photos: UInt8[np.ndarray, "n f f c"], partners: UInt8[np.ndarray, "n f f c2"]) -> None:
        self.photos, self.partners = photos, partners
        x, y = (axis.ravel() for axis in np.meshgrid(*2 * [np.linspace(-1, 1, th.FINE)]))
        known = np.stack([x**0, x, y, x * x, y * y, *partners.mean(axis=0).reshape(th.FINE**2, -1).T], axis=1)
        self.known = _orthonormal(known[None] / np.linalg.norm(known, axis=0).clip(1e-9))[0].astype(np.float32)

    def paired(self, turn: tuple[int, bool] = (0, False)) -> Float32[np.ndarray, " n"]:
        """R^2 of every photo's own partner, turned first."""
        explained = [((basis @ self._partners(rows, turn)) ** 2).sum(axis=(1, 2)) for rows, basis in self._blocks()]
        return np.concatenate(explained)

    def matrix(self, others: Int[np.ndarray, " k"]) -> Float32[np.ndarray, "n k"]:
        """R^2 of every partner of `others` by every photo."""
        columns = self._partners(others).transpose(1, 0, 2).reshape(th.FINE**2, -1)
        explained = [((basis @ columns) ** 2).sum(axis=1) for _, basis in self._blocks()]
        return np.concatenate(explained).reshape(len(self.photos), len(others), -1).sum(axis=-1)

    def _blocks(self) -> Iterator[tuple[np.ndarray, Float32[np.ndarray, "k r p"]]]:
        """(rows, bases of their photos' colours)."""
        for rows in np.array_split(np.arange(len(self.photos)), -(-len(self.photos) // th.FIT_BLOCK)):
            yield rows, self._colours(rows)

    def _colours(self, rows: np.ndarray) -> Float32[np.ndarray, "k r p"]:
        """An orthonormal basis of a photo's colours and their products, less what is known."""
        photos = self.photos[rows].reshape(len(rows), th.FINE**2, -1).astype(np.float32)
        photos -= photos.mean(axis=1, keepdims=True)
        photos /= np.abs(photos).max(axis=(1, 2), keepdims=True).clip(1e-6)
        first, second = np.triu_indices(photos.shape[-1])
        features = self._unknown(np.concatenate([photos, photos[..., first] * photos[..., second]], axis=-1))
        basis = _orthonormal(features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-6))
        return basis.transpose(0, 2, 1)

    def _partners(self, rows: np.ndarray, turn: tuple[int, bool] = (0, False)) -> Float32[np.ndarray, "k p c2"]:
        """Partners less what is known, of norm 1."""
        partners = np.rot90(self.partners[rows], turn[0], axes=(1, 2))
        partners = partners[:, :, ::-1] if turn[1] else partners
        rest = self._unknown(partners.reshape(len(rows), th.FINE**2, -1).astype(np.float32))
        return rest / np.linalg.norm(rest, axis=(1, 2), keepdims=True).clip(1e-3)

    def _unknown(self, flat: Float32[np.ndarray, "k p f"]) -> Float32[np.ndarray, "k p f"]:
        return flat - self.known @ (self.known.T @ flat)


def _orthonormal(columns: Float[np.ndarray, "k p f"]) -> Float[np.ndarray, "k p f"]:
    """Orthonormal columns that span the same, 0 in place of dependent ones."""
    values, vectors = np.linalg.eigh(columns.transpose(0, 2, 1) @ columns)
    use = values > th.NOISE * values[:, -1:].clip(1e-9)
    return columns @ (vectors * np.where(use, 1 / np.sqrt(np.where(use, values, 1)), 0)[:, None])
