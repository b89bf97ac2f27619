"""LoRA layers that multiply once: PEFT's numbers and gradients, and PEFT's way where it's not exact or no gain."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from poise.models.folded import fold_adapters

WIDE, OUT, RANK = 12, 20, 3
MANY, FEW = (4, 9, WIDE), (1, 9, WIDE)  # 36 tokens and 9; folding pays from 16 on


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDE, OUT)
        self.down = nn.Linear(OUT, WIDE, bias=False)
        self.turned = Conv1D(5, WIDE)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.turned(self.down(torch.tanh(self.up(x))))
        return out


def net(fold: bool = True, adapters: tuple[str, ...] = ("default",), **more: Any) -> Any:
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules=["up", "down", "turned"], fan_in_fan_out=False, **more
    )
    with pytest.warns(UserWarning, match="fan_in_fan_out"):
        made = get_peft_model(Net(), config, adapter_name=adapters[0])  # type: ignore[arg-type]
        for name in adapters[1:]:
            made.add_adapter(name, config)
    for name, parameter in made.named_parameters():
        if ".lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    if fold:
        fold_adapters(made)
    return made


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the layers' classes for which PEFT's own product was asked."""
    asked: list[str] = []
    before = LoraLinear.forward

    def spy(self: Any, x: Tensor, *args: Any, **more: Any) -> Tensor:
        asked.append(type(self.get_base_layer()).__name__)
        return before(self, x, *args, **more)

    monkeypatch.setattr(LoraLinear, "forward", spy)
    return asked


def everything(model: Any, shape: tuple[int, ...]) -> list[Tensor]:
    """Output, and the gradients of the input and of every adapter."""
    torch.manual_seed(1)
    x = torch.randn(shape, requires_grad=True)
    out = model(x)
    (out * torch.randn_like(out)).sum().backward()
    return [out.detach(), x.grad, *(p.grad for n, p in model.named_parameters() if ".lora_" in n and p.requires_grad)]


def test_output_and_all_gradients_are_those_of_peft(plain: list[str]) -> None:
    found = everything(net(), MANY)
    assert plain == ["Conv1D"]  # GPT-2's layers hold their weights the other way round
    for ours, theirs in zip(found, everything(net(fold=False), MANY), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(found) == 8


def test_an_adapter_that_is_zero_leaves_the_weights_bit_for_bit() -> None:
    model = net()
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            nn.init.zeros_(parameter)
    x = torch.randn(MANY)
    with model.disable_adapter():
        below = model(x)
    assert torch.equal(model(x), below)


def test_few_tokens_go_peft_s_way(plain: list[str]) -> None:
    everything(net(), FEW)
    assert plain == ["Linear", "Linear", "Conv1D"]


def _two(model: Any) -> None:
    model.base_model.set_adapter(["default", "other"])


def _learning(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "base_layer" in name:
            parameter.requires_grad_(True)


@pytest.mark.filterwarnings("ignore:.lora_bias=True")
@pytest.mark.parametrize(
    ("made", "change"),
    [
        ({"lora_dropout": 0.5}, lambda model: model.train()),
        ({"use_dora": True}, lambda model: None),
        ({"lora_bias": True}, lambda model: None),
        ({}, lambda model: model.merge_adapter()),
        ({}, lambda model: model.base_model.disable_adapter_layers()),
        ({"adapters": ("default", "other")}, _two),
        ({}, lambda model: model.to(torch.bfloat16)),
        ({}, _learning),
    ],
    ids=["dropout", "dora", "bias", "merged", "off", "two", "bfloat16", "learning"],
)
def test_what_can_t_be_folded_is_what_peft_says(
    made: dict[str, Any], change: Callable[[Any], object], plain: list[str]
) -> None:
    results = []
    for fold in (True, False):
        model = net(fold, **made)
        change(model)
        torch.manual_seed(2)
        x = torch.randn(MANY, dtype=next(model.parameters()).dtype)
        torch.manual_seed(3)
        results.append(model(x))
    assert torch.equal(*results)
    assert plain.count("Linear") == 4


def test_multiplications_in_bfloat16_are_peft_s(plain: list[str]) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        net()(torch.randn(MANY))
    assert plain == ["Linear", "Linear", "Conv1D"]


def test_the_active_adapter_is_the_one_that_is_folded() -> None:
    ours, theirs = (net(fold, ("default", "other")) for fold in (True, False))
    x, said = torch.randn(MANY), []
    for name in ("other", "default"):
        for model in (ours, theirs):
            model.set_adapter(name)
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
        said.append(ours(x))
    assert not torch.allclose(*said)


def test_an_adapter_that_is_frozen_gets_no_gradient() -> None:
    model = net()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_A." in name)
    model(torch.randn(MANY)).sum().backward()
    assert all((p.grad is not None) == (".lora_A." in n) for n, p in model.named_parameters())
