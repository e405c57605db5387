"""Taps: the outputs of a network's last residual blocks, φ_i of the linear model (section 3.2, equation 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .tracing import Watch, copied, evaluating, tensors_in

__all__ = ["REPRESENTATION", "Taps", "find_taps", "tapped"]

REPRESENTATION = "representation"
"""Name of the last tap."""

ADDITIONS = ("add", "add_", "__add__", "__radd__", "__iadd__")
"""Names of torch's functions that add two tensors."""


@dataclass(frozen=True)
class Taps:
    """The layers whose outputs are the features of the linear model, in the network's order.

    Attributes:
        names: path of each tap's block in the network; the last is ``representation``.
        widths: number of features of each tap.
        last: path of the last block, where earlier blocks' outputs take its pooling and normalisation; empty where
            they are averaged over their positions.
        apart: whether each of them takes it in a forward pass of its own, in place of the last block's output, since
            what follows that block knows how many images there are from before it (PiT, PVT).
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    last: str = ""
    apart: bool = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def slices(self) -> tuple[slice, ...]:
        """The columns of each tap in the concatenated features, (n, sum(widths))."""
        return tuple(slice(*ends) for ends in pairwise(accumulate(self.widths, initial=0)))


def find_taps(backbone: nn.Module, example: Tensor, count: int = 3) -> Taps:
    """Find the last residual blocks after the last change of resolution, by following a forward pass.

    A residual block is a layer (with layers inside) that adds two tensors of one shape, with at least one position and
    both computed from the image; all layers of its class count as well, since the first block of a stage often has no
    shortcut. Of nested blocks the outermost counts, but never the network itself. The taps are the blocks whose output
    has the resolution of the last block's. Names are not used.

    The last tap is always the representation Φ(x), the input of the last linear layer. The earlier taps depend on what
    the network does between its last block and Φ(x):

    - It only pools, selects, normalises or rectifies (ResNet, RegNet, ConvNeXt, Swin, ViT): the last block's tap is
      Φ(x) itself, and the blocks before it go the same way. For ResNet-50 these are the three average-pooled outputs of
      its last stage, 2048 wide, as in section 4.3. For a ViT it is the class token under the network's last norm, as
      DINO's linear evaluation takes it (Caron et al., 2021); the raw tokens of a pre-norm ViT grow with depth, so that
      their scale would be their depth's and not their content's.
    - It computes new features (the 1 × 1 convolution of EfficientNet and MobileNet): the last blocks' outputs are
      averaged over their positions, and Φ(x) comes after them. Widths differ then, and the linear model is the
      generalisation y = Σ V_i (v_i ⊙ φ_i) + b. So it is, too, where the last blocks differ in width.

    Args:
        backbone: the network without its classifier, images (n, 3, size, size) to Φ(x), (n, units). Stays as it is.
        example: an input of the size that will be used, (n, 3, size, size).
        count: largest number of taps, Φ(x) included.

    Returns:
        At most ``count`` taps: fewer where there are fewer blocks; Φ(x) alone where there is none (VGG, DenseNet) or
        where one is called several times for an image (CoaT), which allows a linear probe only.

    Raises:
        UserError: the network's structure depends on the image, the outputs of blocks cannot go the way of the last
            one, or the output is not one vector for each image; ``count`` is less than 1; or the example is not square.
    """
    if count < 1:
        raise UserError(f"the number of taps must be at least 1, not {count}")
    if example.dim() != 4 or example.shape[2] != example.shape[3]:
        raise UserError(f"taps are found with square images, (n, channels, size, size), not {tuple(example.shape)}")
    noisy: Tensor = copied(example, noise=True)
    with evaluating(backbone), torch.no_grad():
        backbone(example)  # some networks fill a cache in their first pass (LeViT's biases)
        watch = _followed(backbone, example)
        for other in (noisy, -noisy):
            if _followed(backbone, other).course != watch.course:
                raise UserError(
                    f"the structure of {type(backbone).__name__} depends on the image, so its last blocks are not the "
                    "same for all images; it can be fine-tuned, but has no linear model"
                )
        blocks = _last_blocks(watch, example.shape[0])
        through = len({block.shape for block in blocks[-count:]}) == 1 and _is_plain(watch, blocks[-1])
        blocks = blocks[-count:] if through else blocks[len(blocks) - min(count - 1, len(blocks)) :]
        if any(watch.times[block.name] > 1 for block in blocks):
            return Taps((REPRESENTATION,), (watch.shape[1],))
        names = (*(block.name for block in (blocks[:-1] if through else blocks)), REPRESENTATION)
        last = blocks[-1].name if through else ""
        failed: Exception | None = None
        for apart in (False, True):
            taps = Taps(names, (0,) * len(names), last, apart)
            try:
                found = _tapped(backbone, example, taps)
                if through and any(tap.shape != watch.shape for tap in found):
                    raise ValueError(f"{watch.shape[1]} units become {found[-1].shape[1]}")
                return replace(taps, widths=tuple(tap.shape[1] for tap in found))
            except (RuntimeError, ValueError, IndexError, AssertionError) as error:
                failed = failed or error
        raise UserError(
            f"the outputs of the blocks of {type(backbone).__name__} cannot go the way of the last one "
            f"({' '.join(str(failed).split())}); it can be fine-tuned, but has no linear model"
        ) from failed


def tapped(backbone: nn.Module, images: Tensor, taps: Taps) -> list[Tensor]:
    """The features at each tap, float32 (n, width_i); the last is ``backbone(images)``.

    It takes one forward pass; where taps go ``apart``, one for each.

    The network's mode is not changed; its last layers compute in autocast's type, the averages in float32.

    Args:
        backbone: the network in which ``taps`` were found.
        images: normalised images, (n, 3, size, size), in any memory format.
        taps: taps from ``find_taps``.

    Raises:
        UserError: the network has no such blocks, does not reach them, or has other widths.
    """
    outputs = _tapped(backbone, images, taps)
    shapes = [tuple(output.shape) for output in outputs]
    if shapes != [(len(images), width) for width in taps.widths]:
        raise UserError(f"the taps of {type(backbone).__name__} have the shapes {shapes}, not the widths {taps.widths}")
    return outputs


def _tapped(backbone: nn.Module, images: Tensor, taps: Taps) -> list[Tensor]:
    layers = dict(backbone.named_modules())
    kept: dict[str, Tensor] = {}
    earlier = taps.names[:-1]

    def keep(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: Any, output: Tensor) -> None:
            kept[name] = output.clone() if taps.last else _averaged(output)  # the next layer may work in place

        return hook

    def join(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
        return torch.cat([*(kept[name] for name in earlier if name in kept), output])

    unknown = [name for name in (*earlier, *filter(None, [taps.last])) if name not in layers]
    if unknown:
        raise UserError(f"{type(backbone).__name__} has no block {unknown[0]}: these are the taps of another network")
    hooks = [layers[name].register_forward_hook(keep(name)) for name in earlier]
    try:
        if taps.last and earlier and not taps.apart:
            hooks.append(layers[taps.last].register_forward_hook(join))
        output = backbone(images)
    finally:
        for hook in hooks:
            hook.remove()
    if missed := [name for name in earlier if name not in kept]:
        raise UserError(f"the block {missed[0]} of {type(backbone).__name__} was not reached (dynamic structure)")
    if taps.last and taps.apart:
        return [*(_instead(backbone, images, layers[taps.last], kept[name]) for name in earlier), output.float()]
    if not taps.last:
        return [*(kept[name] for name in earlier), output.float()]
    parts = output.float().chunk(len(taps.names))
    return list(parts)


def _instead(backbone: nn.Module, images: Tensor, last: nn.Module, output: Tensor) -> Tensor:
    """The representation with ``output`` in place of the last block's."""
    hook = last.register_forward_hook(lambda *_: output)
    try:
        found: Tensor = backbone(images)
    finally:
        hook.remove()
    return found.float()


def _averaged(output: Tensor) -> Tensor:
    """The mean over all positions, float32 (n, width)."""
    channels, _ = _layout(output.shape)
    return output.float().mean([axis for axis in range(1, output.dim()) if axis != channels])


def _layout(shape: torch.Size) -> tuple[int, tuple[int, ...]]:
    """The axis of the channels and the resolution, of (n, tokens, c), (n, c, h, w) or (n, h, w, c), where h = w."""
    last = len(shape) == 3 or shape[1] == shape[2] != shape[3]
    channels = len(shape) - 1 if last else 1
    return channels, tuple(side for axis, side in enumerate(shape) if axis not in (0, channels))


@dataclass
class _Call:
    """One call of a layer: name, class, bit, the calls around it, whether it adds, its output's shape and its end."""

    name: str
    kind: type[nn.Module]
    bit: int
    around: list[_Call]
    adds: bool = False
    shape: torch.Size = field(default_factory=torch.Size)
    ended: int = 0


@dataclass(frozen=True)
class _Read:
    """One function call: sources of each input that depends on the image, and whether another input is a matrix."""

    sources: tuple[int, ...]
    matrix: bool


class _Follow(Watch):
    """Records a forward pass: the calls of layers, and for each tensor its sources, the calls it was computed from.

    Sources are an integer for each tensor's id: bit 0 for the image, one more bit for each call.
    """

    def __init__(self, backbone: nn.Module, image: Tensor) -> None:
        super().__init__(backbone.modules())
        self.representation = 0  # the sources of the output
        self.shape = torch.Size()  # of the output
        self.calls: list[_Call] = []
        self.times: Counter[str] = Counter()
        self.course: list[tuple[str, str, tuple[torch.Size, ...]]] = []
        self.reads: list[_Read] = []
        self.sources: dict[int, int] = {id(image): 1}
        self._stack: list[_Call] = []
        self._names = {layer: name for name, layer in backbone.named_modules()}

    def called(self, name: str, inputs: Any, outputs: Any) -> None:
        read, made = tensors_in(inputs), tensors_in(outputs)
        if not made:
            return
        self._link(read, made)
        if name in ADDITIONS and self._stack and self._is_residual(read):
            self._stack[-1].adds = True
        self.course.append((self._stack[-1].name if self._stack else "", name, tuple(o.shape for o in made)))

    def _link(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        sources = [self.sources.get(id(leaf), 0) for leaf in inputs]
        behind = 0
        for source in sources:
            behind |= source
        if not behind:
            return
        weights = [leaf.shape for leaf, source in zip(inputs, sources, strict=True) if not source]
        matrix = any(sum(side > 1 for side in shape) > 1 for shape in weights)
        self.reads.append(_Read(tuple(source for source in sources if source), matrix))
        for output in outputs:
            self.sources[id(output)] = self.sources.get(id(output), 0) | behind

    def _is_residual(self, inputs: list[Tensor]) -> bool:
        return (
            len(inputs) == 2
            and inputs[0].shape == inputs[1].shape
            and inputs[0].dim() in (3, 4)
            and all(id(leaf) in self.sources for leaf in inputs)
        )

    def entered(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        name = self._names[layer]
        self.times[name] += 1
        call = _Call(name, type(layer), 1 << (len(self.calls) + 1), list(self._stack))
        self.calls.append(call)
        self._stack.append(call)

    def left(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self._stack.pop()
        if "forward" in layer.__dict__:  # a folded layer, whose functions torch does not show
            self._link([*tensors_in(args), *layer.parameters(recurse=False)], tensors_in(output))
        for leaf in tensors_in(output):
            if id(leaf) in self.sources:
                self.sources[id(leaf)] |= call.bit
        if isinstance(output, Tensor):
            call.shape = output.shape
        call.ended = len(self.reads)


def _followed(backbone: nn.Module, image: Tensor) -> _Follow:
    watch = _Follow(backbone, image)
    with watch:
        output = backbone(image)
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(image):
        shown = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(f"the output of {type(backbone).__name__} is {shown}, not a representation (n, units)")
    watch.representation, watch.shape = watch.sources.get(id(output), 0), output.shape
    return watch


def _last_blocks(watch: _Follow, images: int) -> list[_Call]:
    """The residual blocks that the representation is computed from, of the last resolution, in order."""
    root = watch.calls[0]
    kinds = {call.kind for call in watch.calls if call.adds and call is not root}
    blocks = [call for call in watch.calls if call.kind in kinds and call is not root]
    found = [
        call
        for call in blocks
        if not any(outer in blocks for outer in call.around)
        if watch.representation & call.bit and len(call.shape) in (3, 4) and call.shape[0] == images
    ]
    last: list[_Call] = []
    for call in reversed(found):
        if last and _layout(call.shape)[1] != _layout(last[-1].shape)[1]:
            break
        last.insert(0, call)
    return last


def _is_plain(watch: _Follow, last: _Call) -> bool:
    """Whether everything after ``last`` reads its output and vectors of weights only: no convolution, no linear map."""
    after = watch.reads[last.ended :]
    return all(not read.matrix and all(source & last.bit for source in read.sources) for read in after)
