"""Settings and layers that several of diffusers' networks share."""

from collections.abc import Iterator, Mapping

from jdiff.interop.settings import Settings
from jdiff.interop.table import Entry, layer, norm


def widths(settings: Settings) -> tuple[int, tuple[int, ...]]:
    """(channels, channel_mults) of block_out_channels. Raises UserError where a width is no multiple of the first."""
    values = settings.take("block_out_channels")
    if uneven := [width for width in values if width % values[0]]:
        raise settings.unknown("block_out_channels", f"{uneven[0]} is no multiple of {values[0]}; only multiples are")
    return values[0], tuple(width // values[0] for width in values)


def attention_levels(settings: Settings, down: Mapping[str, bool], up: Mapping[str, bool]) -> tuple[int, ...]:
    """The levels whose blocks have attention, by block type in `down` and `up`. Raises UserError for other types, and
    where encoder and decoder differ.
    """
    levels = len(settings.take("block_out_channels"))
    attending = []
    for name, known in (("down_block_types", down), ("up_block_types", up)):
        kinds = settings.take(name)
        for kind in kinds:
            if kind not in known:
                raise settings.unknown(name, f"{kind} is none of {', '.join(known)}")
        attending.append([known[kind] for kind in kinds])
    attending[1].reverse()
    if attending[0] != attending[1] or len(attending[0]) != levels:
        raise settings.unknown(
            "down_block_types",
            f"with up_block_types={settings.take('up_block_types')}; only blocks that mirror each other, one for each "
            f"of the {levels} block_out_channels, are",
        )
    return tuple(level for level, attends in enumerate(attending[0]) if attends)


def resnet(theirs: str, ours: str, *, skip: bool, embedded: bool = True) -> Iterator[Entry]:
    """ResnetBlock2D <-> ResBlock. skip: with a convolution on the skip branch. embedded: with a modulation."""
    yield from norm(f"{theirs}.norm1", f"{ours}/norm_0/norm")
    yield from layer(f"{theirs}.conv1", f"{ours}/conv_0", "conv")
    if embedded:
        yield from layer(f"{theirs}.time_emb_proj", f"{ours}/modulation/embedding", "dense")
    yield from norm(f"{theirs}.norm2", f"{ours}/modulation/norm/norm")
    yield from layer(f"{theirs}.conv2", f"{ours}/conv_1", "conv")
    if skip:
        yield from layer(f"{theirs}.conv_shortcut", f"{ours}/skip", "conv")


def heads(theirs: str, ours: str, *, bias: bool) -> Iterator[Entry]:
    """Attention <-> MultiHead: the projections of queries, keys, values and output."""
    for part in "qkv":
        yield from layer(f"{theirs}.to_{part}", f"{ours}/{part}", "dense", bias=bias)
    yield from layer(f"{theirs}.to_out.0", f"{ours}/out", "dense")


def self_attention(theirs: str, ours: str) -> Iterator[Entry]:
    """Attention with a group norm <-> SelfAttention."""
    yield from norm(f"{theirs}.group_norm", f"{ours}/norm/norm")
    yield from heads(theirs, f"{ours}/attention", bias=True)
