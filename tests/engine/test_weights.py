from __future__ import annotations

import argparse
import builtins
import hashlib
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from graphkd import MODELS, NetworkOutput, UserError, wrap
from graphkd.engine.weights import WRAPPERS, content_hash, load_weights, save_weights
from graphkd.model import Network
from graphkd.model.head import head_tensors

MakeNetwork = Callable[..., Network]
WIDTHS = (2, 2, 4, 4)


def same_weights(first: Network, second: Network) -> bool:
    state = second.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())


def test_weights_come_back(network: MakeNetwork, tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    save_weights(saved, tmp_path / "w.safetensors")
    assert not same_weights(saved, loaded)
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same_weights(saved, loaded)


def test_the_file_holds_contiguous_tensors_under_plain_names(network: MakeNetwork, tmp_path: Path) -> None:
    saved = network().to(memory_format=torch.channels_last)
    path = tmp_path / "w.safetensors"
    save_weights(saved, path)
    with safetensors.safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(saved.state_dict())
        assert len(file.metadata() or {}) <= 1
        assert all(file.get_tensor(name).is_contiguous() for name in file.keys())  # noqa: SIM118
    save_weights(network(), tmp_path / "again.safetensors")
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


class Twice(Network):
    """A network with one batch norm under two names and one tensor in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = self.again = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> NetworkOutput:
        raise NotImplementedError


def test_shared_tensors_are_kept_under_each_name(tmp_path: Path) -> None:
    saved, loaded = Twice(), Twice()
    save_weights(saved, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same_weights(saved, loaded)
    assert loaded.second.weight is loaded.first.weight


@pytest.mark.parametrize("key", ["model", "state_dict"])
@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_of_the_benchmark_loads(
    network: MakeNetwork, tmp_path: Path, prefix: str, old_format: bool, key: str
) -> None:
    saved, loaded = network(0), network(1)
    optimizer = torch.optim.SGD(saved.parameters(), lr=0.05, momentum=0.9)
    saved(torch.zeros(2, 1, 8, 8)).logits.sum().backward()
    optimizer.step()
    content = {
        "epoch": 240,
        key: {prefix + name: tensor for name, tensor in saved.state_dict().items()},
        "accuracy": torch.tensor(79.4),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, tmp_path / "ckpt_epoch_240.pth", _use_new_zipfile_serialization=not old_format)
    load_weights(loaded, tmp_path / "ckpt_epoch_240.pth")
    assert same_weights(saved, loaded)


def test_a_state_dict_alone_loads(network: MakeNetwork, tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    torch.save(saved.state_dict(), tmp_path / "student.pt")
    load_weights(loaded, tmp_path / "student.pt")
    assert same_weights(saved, loaded)


def test_a_file_of_another_network_says_what_differs(network: MakeNetwork, tmp_path: Path) -> None:
    wide, deep = (
        MODELS.build(name, num_classes=10, in_channels=1, widths=widths)
        for name, widths in (("resnet8", (4, 4, 4, 4)), ("resnet14", (2, 2, 4, 4)))
    )
    for other, difference in ((wide, r"of another shape \(conv1.weight \[4, 1, 3, 3\] instead of \[2, 1, 3, 3\]"),
                              (deep, "36 unexpected")):  # fmt: skip
        save_weights(other, tmp_path / "w.safetensors")
        before = network()
        with pytest.raises(UserError, match=difference):
            load_weights(before, tmp_path / "w.safetensors")
        assert same_weights(before, network()), "nothing is half loaded"


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_else_the_same_architecture_is_for_is_told(network: MakeNetwork, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    options = {"num_classes": 10, "in_channels": 1, "widths": WIDTHS}
    for change, message in (
        ({"num_classes": 100}, "100 classes, not 10: fc.weight [100, 4] instead of [10, 4], fc.bias [100] instead of"),
        ({"in_channels": 3}, "images of 3 channels, not 1: conv1.weight [2, 3, 3, 3] instead of [2, 1, 3, 3]"),
    ):
        other = MODELS.build("resnet8", **{**options, **change})
        if suffix == "pth":
            torch.save({"model": {f"module.{name}": value for name, value in other.state_dict().items()}}, path)
        else:
            save_weights(other, path)
        with pytest.raises(UserError, match=re.escape(f"the weights in {path} are for {message}")):
            load_weights(network(), path)


def test_where_both_differ_the_tensors_are_shown(network: MakeNetwork, tmp_path: Path) -> None:
    save_weights(MODELS.build("resnet8", num_classes=100, in_channels=3, widths=WIDTHS), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"tensors 3 of another shape \(conv1.weight \[2, 3, 3, 3\] instead"):
        load_weights(network(), tmp_path / "w.safetensors")


class Bare(Network):
    """A network of one tensor."""

    def __init__(self, shape: list[int]) -> None:
        super().__init__()
        self.tensor = nn.Parameter(torch.zeros(shape))

    def forward(self, images: Tensor) -> NetworkOutput:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("found", "expected"), [([3], []), ([], [3]), ([3], [4]), ([9, 4, 1], [9, 4]), ([9, 4], [8, 5]), ([9, 4], [9, 5])]
)
def test_any_tensor_of_another_shape_is_shown(tmp_path: Path, found: list[int], expected: list[int]) -> None:
    torch.save(Bare(found).state_dict(), tmp_path / "w.pth")
    with pytest.raises(UserError, match=re.escape(f"1 of another shape (tensor {found} instead of {expected})")):
        load_weights(Bare(expected), tmp_path / "w.pth")


def test_a_networks_own_prefix_stays(tmp_path: Path) -> None:
    networks = [wrap(nn.Sequential(OrderedDict(module=nn.Sequential(nn.Flatten(), nn.LazyLinear(3))))) for _ in "ab"]
    torch.save(networks[0].state_dict(), tmp_path / "w.pth")
    assert set(networks[0].state_dict()) == {"module.1.weight", "module.1.bias"}
    load_weights(networks[1], tmp_path / "w.pth")
    assert same_weights(*networks)


def test_missing_tensors_are_counted(network: MakeNetwork, tmp_path: Path) -> None:
    state = network().state_dict()
    del state["fc.weight"], state["fc.bias"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"2 missing \(fc.weight, fc.bias\)"):
        load_weights(network(), tmp_path / "w.pth")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
def test_a_malicious_file_is_refused_unexecuted(network: MakeNetwork, tmp_path: Path, kind: str) -> None:
    path, crater = tmp_path / "evil.pth", tmp_path / "crater"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Bomb(crater)))
    else:
        content = {"model": {"conv1.weight": Bomb(crater)}}
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"evil\.pth is refused"):
            load_weights(network(), path)
    assert not crater.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(network: MakeNetwork, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(network().state_dict(), path)
    else:
        save_weights(network(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    loaded = network(1)
    with pytest.raises(UserError, match=str(path)):
        load_weights(loaded, path)
    assert same_weights(loaded, network(1))


@pytest.mark.parametrize(
    "content", [b"hello", b"name: knn\nk: 8\n", b'{"schema": 1}', b"PK\x03\x04", bytes(range(256)) * 8]
)
def test_other_files_are_refused(network: MakeNetwork, tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name):
            load_weights(network(), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {"model": {"a": "b"}}, torch.zeros(3), 5, None])
def test_what_holds_no_state_dict_is_refused(network: MakeNetwork, tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        load_weights(network(), tmp_path / "w.pth")


def test_a_file_that_is_not_there_is_named(network: MakeNetwork, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.pth", tmp_path):
        with pytest.raises(UserError, match="no weights file"):
            load_weights(network(), path)


# Files from elsewhere


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def write(state: dict[str, Any], path: Path) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "_orig_mod.module.", "module.", "model.", "student.", "backbone.", "net.", "a.b.c."]
)
def test_a_common_prefix_is_left_out_and_told(network: MakeNetwork, tmp_path: Path, prefix: str, suffix: str) -> None:
    saved, loaded = network(0), network(1)
    path = write(prefixed(prefix, saved.state_dict()), tmp_path / f"w.{suffix}")
    assert load_weights(loaded, path) == (f"{path}: the prefix '{prefix}' of the tensor names was removed",)
    assert same_weights(saved, loaded)


def test_what_lies_beside_the_prefix_is_counted(network: MakeNetwork, tmp_path: Path) -> None:
    saved, loaded = network(0), network(1)
    state = {
        **prefixed("student.", saved.state_dict()),
        "teacher.conv1.weight": torch.zeros(3),
        "loss.s": torch.ones(1),
    }
    (note,) = load_weights(loaded, write({"state_dict": state}, tmp_path / "lightning.ckpt"))
    assert note.endswith(
        "'student.' of the tensor names was removed, and 2 tensors without it (teacher.conv1.weight, loss.s)"
    )
    assert same_weights(saved, loaded)


@pytest.mark.parametrize("beside", [{}, {"momentum": torch.ones(1)}])
def test_a_backbone_may_have_a_prefix_where_its_head_has_none(
    network: MakeNetwork, tmp_path: Path, beside: dict[str, Tensor]
) -> None:
    saved, loaded = network(0), network(1)
    state = {
        name if name.startswith("fc.") else f"backbone.{name}": value for name, value in saved.state_dict().items()
    }
    path = write({**state, **beside}, tmp_path / "w.pth")
    more = ", and 1 tensors without it (momentum)" if beside else ""
    assert load_weights(loaded, path) == (f"{path}: the prefix 'backbone.' of the tensor names was removed{more}",)
    assert same_weights(saved, loaded)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize("head", [{}, {"fc.weight": torch.ones(7, 4)}, {"classifier.weight": torch.ones(7, 4)}])
def test_a_head_may_be_another_or_missing(
    network: MakeNetwork, tmp_path: Path, prefix: str, head: dict[str, Tensor]
) -> None:
    saved, loaded, before = network(0), network(1), network(1).state_dict()
    body = {name: value for name, value in saved.state_dict().items() if not name.startswith("fc.")}
    path = write({**prefixed(prefix, body), **head}, tmp_path / "w.pth")
    own = head_tensors(loaded, 1, 8)
    assert own == ("fc.weight", "fc.bias")
    *_, note = load_weights(loaded, path, own)
    assert note.startswith(f"{path}: the head starts anew (fc.weight, fc.bias)")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, before[name] if name in own else body[name]), name
    write({**prefixed(prefix, body), **head, f"{prefix}layer1.9.conv1.weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"1 unexpected \(layer1\.9\.conv1\.weight\)"):
        load_weights(loaded, path, own)


def test_of_two_networks_in_a_file_none_is_chosen(network: MakeNetwork, tmp_path: Path) -> None:
    state = {**prefixed("student.", network(0).state_dict()), **prefixed("teacher.", network(2).state_dict())}
    path = write(state, tmp_path / "both.pth")
    with pytest.raises(UserError, match=r"several networks of these names, behind student\., teacher\.") as refused:
        load_weights(network(1), path)
    fix = str(refused.value).partition("for example: ")[2].replace("'weights.pth'", repr(str(tmp_path / "one.pth")))
    exec(fix, {"torch": torch, "state": state})
    loaded = network(1)
    load_weights(loaded, tmp_path / "one.pth")
    assert same_weights(loaded, network(0))


@pytest.mark.parametrize("key", WRAPPERS)
def test_scripts_wrap_their_weights_under_many_names(network: MakeNetwork, tmp_path: Path, key: str) -> None:
    saved, loaded = network(0), network(1)
    assert load_weights(loaded, write({"epoch": 3, key: saved.state_dict()}, tmp_path / "w.pth")) == ()
    assert same_weights(saved, loaded)


@pytest.mark.parametrize("old_format", [False, True])
def test_what_training_scripts_put_beside_the_tensors_does_no_harm(
    network: MakeNetwork, tmp_path: Path, old_format: bool
) -> None:
    options = argparse.Namespace(lr=0.1, output=Path("out"), since=timedelta(1))
    files = {
        "timm": {"epoch": 9, "arch": "resnet8", "args": options, "metric": np.float64(71.5)},
        "torchvision": {"args": options, "lr_scheduler": {"last_epoch": 9}, "scaler": {}},
        "numpy": {"best": np.float32(71.5), "history": np.arange(3), "epoch": np.int64(4)},
    }
    for name, beside in files.items():
        saved, loaded = network(0), network(1)
        content = {**beside, "state_dict": saved.state_dict(), "state_dict_ema": network(2).state_dict()}
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=not old_format)
        (note,) = load_weights(loaded, tmp_path / name)
        assert note.endswith("the weights under 'state_dict' are used, not those under state_dict_ema")
        assert same_weights(saved, loaded), name
        torch.save({**saved.state_dict(), **beside}, tmp_path / name, _use_new_zipfile_serialization=not old_format)
        load_weights(loaded := network(1), tmp_path / name)
        assert same_weights(saved, loaded), name


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_the_counters_of_batch_norm_may_be_missing(network: MakeNetwork, tmp_path: Path, suffix: str) -> None:
    saved, loaded = network(0), network(1)
    state = {name: value for name, value in saved.state_dict().items() if "num_batches_tracked" not in name}
    assert len(state) < len(saved.state_dict())
    load_weights(loaded, write(prefixed("module.", state), tmp_path / f"w.{suffix}"))
    assert same_weights(saved, loaded)


def test_the_message_says_which_line_makes_a_file_of_tensors(network: MakeNetwork, tmp_path: Path) -> None:
    saved = network(0)
    for content, what in (
        (saved, "CifarResNet, more than tensors"),
        ({"model": saved.state_dict(), "share": Fraction(1, 2)}, "it holds fractions.Fraction, more than tensors"),
        ({"state_dict": saved.state_dict(), "share": Fraction(1, 2)}, "it holds fractions.Fraction, more than tensors"),
        (
            {"weights": saved.state_dict(), "acc": torch.ones(1)},
            "holds no state dict .*, but the keys 'weights', 'acc'",
        ),
    ):
        for old_format in (False, True):
            torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old_format)
            with pytest.raises(UserError, match=what) as refused:
                load_weights(network(1), tmp_path / "w.pth")
            message = str(refused.value)
            assert "\n" not in message
            fix = message[message.index("torch.save") :].replace("'weights.pth'", repr(str(tmp_path / "one.pth")))
            exec(fix, {"torch": torch})
            load_weights(loaded := network(1), tmp_path / "one.pth")
            assert same_weights(saved, loaded)


def test_tensors_that_are_not_plain_are_named(network: MakeNetwork, tmp_path: Path) -> None:
    state = network().state_dict()
    path = write({**state, "fc.weight": state["fc.weight"].to_sparse()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"no state dict of plain tensors: fc.weight \(torch.sparse_coo, cpu\)"):
        load_weights(network(), path)


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_a_builtin_in_a_file_is_never_called(network: MakeNetwork, tmp_path: Path, name: str) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return getattr(builtins, name), ("os",)

    torch.save({"model": network().state_dict(), "x": Call()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match=rf"evil\.pth is refused: it holds {name}, more than tensors"):
        load_weights(network(), tmp_path / "evil.pth")


def test_a_file_of_terabytes_is_not_even_hashed(tmp_path: Path) -> None:
    for name in ("w.pth", "w.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(UserError, match=f"{name} is refused: its 4194304 MiB are more"):
            content_hash(tmp_path / name)
    (tmp_path / "small").write_bytes(b"abc")
    assert content_hash(tmp_path / "small") == hashlib.sha256(b"abc").hexdigest()
