"""What any network's head reads is dropped out at the rate."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers import close_to_rate, refusal
from torch import Tensor, nn

from largedrop.models.dropout import RepresentationDropout, set_dropout


class Transformerlike(nn.Module):
    """Laid out as transformers' ``…ForImageClassification``."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.Tanh())
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(64, 5)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classifier(self.dropout(self.body(pixel_values)))}


class Odd(nn.Module):
    """A network whose head has an unusual name, after an earlier linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Flatten()
        self.hidden = nn.Linear(3 * 32 * 32, 64)
        self.decision = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.decision(self.hidden(self.flat(x)).tanh())
        return result


def timm_net(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **settings)


def in_a_sequence() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 32 * 32, 64), nn.Tanh(), nn.Sequential(nn.Dropout(0.5), nn.Linear(64, 5))
    )


NETS: dict[str, tuple[Callable[[], nn.Module], str, str | None]] = {
    "test_resnet": (timm_net("test_resnet"), "fc", None),
    "test_resnet, own": (timm_net("test_resnet", drop_rate=0.5), "fc", None),
    "test_efficientnet": (timm_net("test_efficientnet"), "classifier", None),
    "test_efficientnet, own": (timm_net("test_efficientnet", drop_rate=0.5), "classifier", None),
    "test_vit": (timm_net("test_vit", img_size=32), "head", None),
    "test_vit, own": (timm_net("test_vit", img_size=32, drop_rate=0.5), "head", None),
    "test_convnext": (timm_net("test_convnext"), "head.fc", None),
    "test_convnext, own": (timm_net("test_convnext", drop_rate=0.5), "head.fc", None),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=5), "fc", None),
    "torchvision mobilenet_v3_small": (
        lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.5),
        "classifier.3",
        None,
    ),
    "torchvision vit": (
        lambda: torchvision.models.VisionTransformer(
            image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=64, mlp_dim=64, num_classes=5
        ),
        "heads.head",
        None,
    ),
    "transformers": (Transformerlike, "classifier", None),
    "by name": (Odd, "decision", "decision"),
    "sequence": (in_a_sequence, "3.1", None),
    "sequence around a network": (
        lambda: nn.Sequential(nn.Identity(), timm.create_model("test_resnet", num_classes=5, drop_rate=0.5)),
        "1.fc",
        None,
    ),
    "by name of a sequence": (in_a_sequence, "3.1", "3"),
}


def build(name: str) -> tuple[nn.Module, str, str | None]:
    torch.manual_seed(0)
    make, linear, head = NETS[name]
    net = make()
    nn.init.normal_(net.get_submodule(linear).weight)  # type: ignore[arg-type]  # torchvision's ViT starts from zeros
    return net, linear, head


def only_dropout_trains(net: nn.Module) -> nn.Module:
    """Training mode, with batch norms in evaluation mode, so that two passes differ by dropout alone."""
    net.train()
    for child in net.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            child.eval()
    return net


def inputs_of(net: nn.Module, linear: str, images: Tensor) -> Tensor:
    """What the linear layer reads, (images, units)."""
    seen: list[Tensor] = []
    hook = net.get_submodule(linear).register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    with torch.no_grad():
        net(images)
    hook.remove()
    (read,) = seen
    return read


IMAGES = torch.randn(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def rate_in_force(net: nn.Module, linear: str, rate: float) -> bool:
    """Whether the head reads its inputs with a share ``rate`` of them set to 0 and the others over 1 − ``rate``."""
    representation = inputs_of(net.eval(), linear, IMAGES)
    read = inputs_of(only_dropout_trains(net), linear, IMAGES)
    live = representation != 0
    kept = read != 0
    torch.testing.assert_close(read[kept], representation[kept] / (1 - rate), rtol=2e-4, atol=1e-5)
    return close_to_rate(~kept[live], rate) if rate else bool((kept == live).all())


@pytest.mark.parametrize("name", NETS)
def test_the_head_reads_its_input_dropped_out_at_the_rate(name: str) -> None:
    net, linear, head = build(name)
    assert set_dropout(net, 0.8, head) is net
    assert rate_in_force(net, linear, 0.8)


@pytest.mark.parametrize("name", NETS)
def test_state_dict_and_evaluation_stay_as_they_are(name: str) -> None:
    net, _, head = build(name)
    with torch.no_grad():
        before, keys, hooks = net.eval()(IMAGES[:2]), list(net.state_dict()), len(list(net.modules()))
        set_dropout(net, 0.8, head)
        torch.testing.assert_close(net(IMAGES[:2]), before, rtol=0, atol=0)
    assert list(net.state_dict()) == keys
    assert len(list(net.modules())) == hooks


@pytest.mark.parametrize("name", ["test_efficientnet", "transformers", "by name"])
def test_calling_again_changes_the_rate_and_0_removes_it(name: str) -> None:
    net, linear, head = build(name)
    for rate in (0.8, 0.3, 0.0, 0.6):
        set_dropout(net, rate, head)
        assert rate_in_force(net, linear, rate)
    assert len(net.get_submodule(linear)._forward_pre_hooks) == 1


def test_a_deep_copy_drops_out_by_itself() -> None:
    net, linear, _ = build("test_efficientnet")
    set_dropout(net, 0.8)
    twin = copy.deepcopy(net)
    assert rate_in_force(twin, linear, 0.8)
    set_dropout(twin, 0.2)
    assert rate_in_force(twin, linear, 0.2)
    assert rate_in_force(net, linear, 0.8)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "distilled", "sequence"])
def test_torch_scripts_traces_and_exports_it(name: str) -> None:
    net = distilled() if name == "distilled" else build(name)[0]
    set_dropout(net, 0.8)
    net.eval()
    with torch.no_grad():
        expected = net(IMAGES[:2])
        scripted = torch.jit.script(net)
        torch.testing.assert_close(scripted(IMAGES[:2]), expected)
        torch.testing.assert_close(torch.export.export(net, (IMAGES[:2],)).module()(IMAGES[:2]), expected)
        if name in ("test_resnet", "sequence"):  # timm's ViTs warn that they take no other size once they are traced
            torch.testing.assert_close(torch.jit.trace(net, IMAGES[:2])(IMAGES[:2]), expected)
        logits = [scripted.train()(IMAGES[:2]) for _ in range(2)]
    assert not torch.equal(*logits)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_scripted_network_has_one_mask_for_each_example() -> None:
    head = set_dropout(nn.Linear(4, 3), 0.8, masks=4)
    with pytest.raises(torch.jit.Error, match="set masks to 1"):
        torch.jit.script(head)(torch.zeros(2, 4))


def distilled() -> nn.Module:
    torch.manual_seed(0)
    net: nn.Module = timm.create_model(
        "deit_tiny_distilled_patch16_224", num_classes=5, img_size=32, depth=1, embed_dim=48, drop_rate=0.5
    )
    for name in ("head", "head_dist"):
        nn.init.normal_(net.get_submodule(name).weight)  # type: ignore[arg-type]
    return net


def test_both_heads_of_a_distilled_network_are_dropped_out() -> None:
    net = set_dropout(distilled(), 0.8)
    assert rate_in_force(net, "head", 0.8)
    assert rate_in_force(net, "head_dist", 0.8)
    set_dropout(net, 0.4, ["head_dist"])
    assert rate_in_force(net, "head", 0.0)
    assert rate_in_force(net, "head_dist", 0.4)


def test_two_heads_of_unlike_networks_are_refused_by_name() -> None:
    net = Odd()
    net.head, net.head_box = nn.Linear(64, 5), nn.Linear(64, 4)
    assert refusal(set_dropout, net, 0.9) == (
        "cannot tell whether head is a head beside head_box: name the heads with head=['…', …]"
    )


def test_a_head_that_is_a_linear_layer_alone() -> None:
    torch.manual_seed(0)
    linear = set_dropout(nn.Linear(500, 3), 0.7)
    seen: list[Tensor] = []
    linear.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    linear(torch.ones(100, 500))
    assert close_to_rate(seen[0] == 0, 0.7)


def test_largedrops_own_dropout_takes_the_rate() -> None:
    net = nn.Sequential(nn.Flatten(), RepresentationDropout(0.1), nn.Linear(3 * 32 * 32, 5))
    set_dropout(net, 0.6)
    assert not net[2]._forward_pre_hooks
    assert close_to_rate(net[1](torch.ones(100, 100)) == 0, 0.6)


def test_a_named_head_after_largedrops_own_dropout_is_not_dropped_out_twice() -> None:
    net = set_dropout(nn.Sequential(nn.Flatten(), RepresentationDropout(0.6), nn.Linear(3 * 32 * 32, 5)), 0.6, "2")
    assert rate_in_force(net, "2", 0.6)


def test_only_the_dropout_before_the_head_is_silenced() -> None:
    net = timm.create_model("test_vit", num_classes=5, drop_rate=0.5, proj_drop_rate=0.25)
    set_dropout(net, 0.9)
    rates = {key: child.p for key, child in net.named_modules() if isinstance(child, nn.Dropout)}
    assert rates["head_drop"] == 0
    assert rates["blocks.0.attn.proj_drop"] == 0.25


@pytest.mark.parametrize(
    ("net", "head", "text"),
    [
        (Odd, "decison", "the network has no head 'decison'; did you mean 'decision'? (there are: hidden, decision)"),
        (Odd, "zzz", "the network has no head 'zzz'; there are: hidden, decision"),
        (Odd, None, "found no head in Odd: name its last linear layer with head='…' (it has hidden, decision)"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
            None,
            "found no head in Sequential: name its last linear layer with head='…' (it has no linear layer)",
        ),
        (
            lambda: nn.Sequential(nn.Flatten(), Odd()),
            None,
            "found no head in Sequential: name its last linear layer with head='…' (it has 1.hidden, 1.decision)",
        ),
    ],
)
def test_a_head_that_is_not_found_is_said_with_what_there_is(
    net: Callable[[], nn.Module], head: str | None, text: str
) -> None:
    assert refusal(set_dropout, net(), 0.5, head) == text


class WithLoss(nn.Module):
    """Computes its loss from the labels, as transformers' networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = nn.Linear(6, 40), nn.Linear(40, 3)

    def forward(
        self, inputs: Tensor, labels: Tensor | None = None, num_items_in_batch: int | None = None
    ) -> tuple[Tensor | None, Tensor]:
        logits = self.classifier(self.body(inputs))
        if labels is None:
            return None, logits
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum" if num_items_in_batch else "mean")
        return loss / (num_items_in_batch or 1), logits


class Around(nn.Module):
    """As libraries of adapters have it: the same arguments, passed on."""

    def __init__(self) -> None:
        super().__init__()
        self.model = WithLoss()

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        return self.model(inputs, labels=labels)


@pytest.mark.parametrize("make", [WithLoss, Around])
def test_labels_are_repeated_for_a_network_that_computes_its_loss(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net = set_dropout(make(), 0.5, "model.classifier" if make is Around else None, masks=4)
    inputs, labels = torch.randn(6, 6), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for given in (labels, labels.repeat(4), None):  # labels that are repeated already stay as they are
        torch.manual_seed(1)
        loss, logits = net(inputs, labels=given)
        losses.append(nn.functional.cross_entropy(logits, labels.repeat(4)) if loss is None else loss)
    assert losses[0] == losses[1] == losses[2]
    if make is WithLoss:  # the sum of the losses over the number of the labels, which is 4 times larger now
        torch.manual_seed(1)
        torch.testing.assert_close(net(inputs, labels=labels, num_items_in_batch=6)[0], losses[0])
    twin = copy.deepcopy(net)
    assert twin(inputs, labels=labels)[1].shape == (24, 3)
    assert net.eval()(inputs, labels=labels)[1].shape == (6, 3)
    set_dropout(net.train(), 0.5, "model.classifier" if make is Around else None)
    assert net(inputs, labels=labels)[1].shape == (6, 3)
    assert not any(module._forward_pre_hooks_with_kwargs for module in net.modules())


class DecoderForSequenceClassification(nn.Module):
    """As transformers' decoders: the head reads all tokens, and one token's logits are taken."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(6, 3)

    def forward(self, hidden: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.score(hidden)[torch.arange(len(hidden)), -1]


def test_a_head_that_reads_every_token_has_one_mask() -> None:
    net = DecoderForSequenceClassification()
    assert refusal(set_dropout, net, 0.9, masks=16) == (
        "the head of DecoderForSequenceClassification reads every token, so it has one mask for each text: "
        "set masks to 1"
    )
    assert not net.score._forward_pre_hooks
    assert set_dropout(net, 0.9)(torch.ones(4, 5, 6)).shape == (4, 3)
