"""Whatever users get wrong is told in one line that names it, ends in exit code 2 and leaves nothing behind."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import Answer, Command, OwnConfigs, Plugin, students
from PIL import Image

CONFIGS = {
    "builder/syntax.yaml": "name: knn\nk: [3\n",
    "builder/tab.yaml": "name: knn\n\tk: 3\n",
    "builder/twice.yaml": "name: knn\nk: 3\nk: 4\n",
    "builder/binary.yaml": "\x00\x01",
    "builder/typo.yaml": "name: knn\nmetrics: cosine\n",
    "builder/unnamed.yaml": "k: 3\n",
    "builder/list.yaml": "- knn\n",
    "builder/nothing.yaml": "",
    "builder/nowhere.yaml": "name: knn\nk: ${not.there}\n",
    "builder/unfilled.yaml": "name: knn\nk: ???\n",
    "builder/parentless.yaml": "defaults: [gone]\nname: knn\n",
    "term/kd_typo.yaml": "name: kd\ntemprature: 4\n",
    "objective/typo.yaml": "defaults:\n  - /term@kd: kd_typo\n",
    "trainer/typo.yaml": "defaults: [benchmark]\nepoch: 3\n",
    "experiment/typo.yaml": "# @package _global_\nsede: 3\n",
    "ablation/syntax.yaml": "description: x\nseeds: [0\n",
    "ablation/empty.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {}\n",
    "ablation/typo.yaml": "description: x\nseeds: [0]\nbase: []\nvariant: {a: []}\n",
    "ablation/seedless.yaml": "description: x\nseeds: []\nbase: []\nvariants: {a: []}\n",
    "ablation/word.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {a: [objective]}\n",
    "ablation/bad_key.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {a: [], b: [bilder=knn]}\n",
    "ablation/bad_value.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {a: [trainer.epochs=0]}\n",
    "ablation/unused.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {a: [objective=ce, gnn=gat]}\n",
    "ablation/swept.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {a: ['gnn=gat,tag']}\n",
    "ablation/slash.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {../../a: []}\n",
    "ablation/null.yaml": "description: x\nseeds: [0]\nbase: []\nvariants: {null: []}\n",
    "table/syntax.yaml": "name: [x\n",
    "table/typo.yaml": "name: x\ncolums: [seed]\n",
}
PLUGINS = {
    "plugin_that_raises": "raise RuntimeError('boom\\nand more')",
    "plugin_with_bad_syntax": "def x(:",
    "plugin_without_import": "import there_is_no_such_module",
    "plugin_with_views": (
        "from graphkd import OBJECTIVES\nfrom graphkd.objective.sskd import SSKD\n"
        "OBJECTIVES.register('two_views')(type('Two', (SSKD,), {'__module__': __name__, 'views': 2}))"
    ),
    "plugin_that_repeats": "from graphkd import BUILDERS\nBUILDERS.register('knn')(dict)",
}
SMALL = "student={name: resnet8, widths: [2, 2, 4, 4]}"


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("crater",)


def listing(folder: Path) -> dict[str, int]:
    """Everything below a folder, with the time of its last change."""
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


def assert_refused(answer: Answer, *culprits: str) -> None:
    assert answer.code == 2, answer
    assert answer.out == ""
    assert answer.err.startswith("graphkd: ")
    assert len(answer.err.splitlines()) == 1
    assert len(answer.err) < 500
    for culprit in culprits:
        assert culprit in answer.err


@pytest.fixture
def refuse(command: Command, folder: Path, own_configs: OwnConfigs, plugin: Plugin) -> Any:
    """Calls a command and checks that it refuses, naming the culprits, and leaves no trace."""
    own = own_configs(CONFIGS)
    for name, source in PLUGINS.items():
        plugin(name, source)

    def call(words: list[str], *culprits: str) -> None:
        words = [str(own) if word == "OWN" else word for word in words]
        before = listing(folder)
        assert_refused(command(*words), *culprits)
        assert listing(folder) == before

    return call


OPTIONS: list[tuple[list[str], list[str]]] = [
    # commands and their options
    (["rum"], ["'rum'", "'run'"]),
    (["--verbose"], ["'--verbose'"]),
    (["run", "--nope"], ["--nope"]),
    (["run", "--config-name", "other"], ["--config-name"]),
    (["run", "--config-path", "other"], ["--config-path"]),
    (["run", "--experimental-rerun", "x"], ["--experimental-rerun"]),
    (["run", "--cfg"], ["--cfg"]),
    (["run", "--cfg", "everything"], ["everything"]),
    (["run", "--package", "gnn"], ["--package"]),
    (["run", "--info", "nothing"], ["nothing"]),
    (["run", "--config-dir", "nowhere"], ["--config-dir", "nowhere"]),
    (["run", "--config-dir"], ["--config-dir"]),
    (["teacher", "--cfg", "job"], ["--cfg"]),
    (["teacher", "-m", "teacher.seed=0,1"], ["-m"]),
    (["ablation", "--nope"], ["--nope"]),
    (["ablation", "nope"], ["'nope'", "digits"]),
    (["ablation", "digit"], ["'digit'", "'digits'"]),
    (["ablation", "digits", "other"], ["digits and other"]),
    (["ablation", "--seeds", "a"], ["--seeds"]),
    (["ablation", "--seeds", ""], ["--seeds"]),
    (["ablation", "--seeds", "0,0"], ["0,0"]),
    (["ablation", "--seeds=-1"], ["seed is -1"]),
    (["ablation", "seed=1"], ["'seed=1'", "--seeds"]),
    (["ablation", "run_dir=x"], ["'run_dir=x'"]),
    (["ablation", "variant=x"], ["'variant=x'"]),
    (["ablation", "+study=x"], ["'+study=x'"]),
    (["ablation", "hydra/launcher=nope"], ["nope", "joblib"]),
    (["ablation", "bilder=knn"], ["'bilder=knn'", "'builder'", "variant"]),
    (["report", "nowhere"], ["nowhere"]),
    (["report", "."], ["record.json"]),
    (["report", "--nope"], ["--nope"]),
    (["report", "a", "b"], ["b"]),
    (["report", "--table", "defualt", "."], ["'defualt'", "'default'"]),
    (["list", "builder"], ["'builder'", "'builders'"]),
    (["list", "--nope"], ["--nope"]),
    (["evaluate"], ["which run or checkpoint"]),
    (["evaluate", "nowhere"], ["nowhere"]),
    (["evaluate", "."], ["record.json"]),
    (["-sc"], ["install"]),
    (["-sc", "install=tcsh"], ["tcsh", "bash"]),
    # overrides
    (["run", "builder"], ["'builder'", "key=value"]),
    (["run", "=knn"], ["'=knn'"]),
    (["run", "builder=knnn"], ["'knnn'", "'knn'"]),
    (["run", "bilder=knn"], ["'bilder=knn'", "'builder'"]),
    (["run", "gnn=knn"], ["gnn", "'knn'"]),
    (["run", "data=cifar1000"], ["'cifar1000'"]),
    (["run", "pair=nope"], ["'nope'"]),
    (["run", "trainer=nope"], ["'nope'"]),
    (["run", "experiment=nope"], ["nope"]),
    (["run", "objective=nope"], ["'nope'"]),
    (["run", "objective=null"], ["objective=null"]),
    (["run", "builder.kk=3"], ["'builder.kk=3'", "'k'"]),
    (["run", "+builder.kk=3"], ["'kk'", "'k'"]),
    (["run", "+sede=3"], ["'sede'", "'seed'"]),
    (["run", "+seed=3"], ["'+seed=3'"]),
    (["run", "~builder"], ["'builder'"]),
    (["run", "~bilder"], ["'~bilder'"]),
    (["run", "builder.k=[1"], ["builder.k=[1"]),
    (["run", "builder={name: knn, kk: 3}"], ["'kk'", "'k'"]),
    (["run", "objective.hkd.builder={name: threshold, taw: 0.9}"], ["'taw'", "'tau'"]),
    (["run", "student=resnet9"], ["'resnet9'", "'resnet8'"]),
    (["run", "student={name: resnet8, width: 3}"], ["'width'", "'widths'"]),
    (["run", "student={widths: [1, 1, 1, 1]}"], ["student needs a name"]),
    (["run", "student=[resnet8]"], ["student=[resnet8]"]),
    (["run", "student=null"], ["student"]),
    (["run", "builder=knn,threshold"], ["'builder=knn,threshold'", "-m"]),
    (["run", "hydra.nope=1"], ["'hydra.nope=1'"]),
    (["run", "-m", "hydra/launcher=nope"], ["nope"]),
    (["run", "-m", "hydra/sweeper=nope"], ["nope"]),
    (["run", "-m", "gnn=tag,tagg"], ["'tagg'", "'tag'"]),
    (["run", "-m", "trainer.lr=interval(0,1)"], ["INTERVAL"]),
    (["run", "-m", "run_dir=x", "seed=0,1"], ["run_dir", "x"]),
    # values
    (["run", "builder.k=three"], ["'k'", "'three'"]),
    (["run", "builder.k=1.5"], ["'k'", "1.5"]),
    (["run", "builder.k=0"], ["k is 0"]),
    (["run", "gnn=gat", "gnn.heads=3"], ["heads 3"]),
    (["run", "trainer.epochs=0"], ["epochs is 0"]),
    (["run", "trainer.lr=-1"], ["lr is -1"]),
    (["run", "trainer.lr=nan"], ["trainer.lr is nan"]),
    (["run", "trainer.lr=inf"], ["trainer.lr is inf"]),
    (["run", "trainer.decay_at=[2]"], ["decay_at"]),
    (["run", "trainer.accelerator=tpu"], ["'accelerator'", "'tpu'"]),
    (["run", "teacher_trainer.epochs=none"], ["teacher_trainer", "'epochs'"]),
    (["run", "objective.hkd.temperature=0"], ["temperature is 0"]),
    (["run", "objective.hkd.weight=heavy"], ["objective.hkd.weight", "'heavy'"]),
    (["run", "objective.hkd.weight=inf"], ["objective.hkd.weight is inf"]),
    (["run", "objective.hkd.weight={individul: 1}"], ["'individul'", "'individual'"]),
    (["run", "objective.hkd.name=hkdd"], ["'hkdd'", "'hkd'"]),
    (["run", "objective={}"], ["objective is {}"]),
    (["run", "objective={/tmp/x: {name: ce}}"], ["'/tmp/x'"]),
    (["run", "negatives=0"], ["negatives is 0"]),
    (["run", "bank.kind=stack"], ["'kind'", "'stack'"]),
    (["run", "bank.kind=queue"], ["length"]),
    (["run", "data.train_fraction=0"], ["train_fraction is 0"]),
    (["run", "teacher.train_fraction=2"], ["teacher.train_fraction is 2"]),
    (["run", "teacher.seed=-1"], ["teacher.seed is -1"]),
    (["run", "teacher.checkpoint=nowhere.pth"], ["nowhere.pth"]),
    (["teacher", "teacher.checkpoint=nowhere.pth"], ["nowhere.pth"]),
    (["teacher", "teacher=resnet9"], ["'resnet9'"]),
    (["teacher", "teacher_trainer.epochs=0"], ["epochs is 0"]),
    (["teacher", "student=3"], ["student is 3"]),
    (["run", "seed=-1"], ["seed is -1"]),
    (["run", "seed=one"], ["seed is 'one'"]),
    (["run", "study=../up"], ["study is '../up'"]),
    (["run", "variant=a/b"], ["variant is 'a/b'"]),
    (["run", "force=perhaps"], ["force is 'perhaps'"]),
    (["run", "results="], ["results is ''"]),
    (["run", "run_dir="], ["run_dir is ''"]),
    (["run", "run_dir=."], ["run_dir is '.'"]),
    (["run", "results=/proc/nowhere", "objective=ce"], ["/proc/nowhere"]),
    (["run", "setting=nope"], ["setting", "'nope'", "digits"]),
    (["run", "+setting=nope"], ["setting", "'nope'"]),
    (["ablation", "digits", "setting=nope"], ["setting", "'nope'"]),
    (["run", "pair=dgits"], ["'dgits'", "'digits'"]),
    (["run", "experiment=table2"], ["'table2'", "'table1'"]),
    (["run", "ablation=digits"], ["'ablation=digits'"]),
    (["run", "+table=default"], ["'table'"]),
    (["run", "student=torchvision/resnt18"], ["'resnt18'", "'resnet18'"]),
    (["run", "student=torchvision/"], ["'torchvision/'"]),
    (["run", "student=torchvison/resnet18"], ["'torchvison/resnet18'", "'torchvision/resnet18'"]),
    (["run", "student=timm/resnt18"], ["'resnt18'"]),
    (["run", "student={name: resnet8, widths: [0, 2, 4, 4]}"], ["widths is [0, 2, 4, 4]"]),
    (["run", "student={name: resnet8, widths: [2, 2, 4]}"], ["'widths'", "a list of 4"]),
    (["run", "objective=fsp"], ["'fsp'", "same channels"]),
    (
        ["run", "plugins=[plugin_with_views]", "+objective.a.name=sskd", "+objective.b.name=two_views"],
        ["a, b", "views"],
    ),
    (["run", "objective=at", "objective.at.p=0"], ["p is 0"]),
    (["run", "objective=fitnet", "objective.fitnet.layer=9"], ["layer is 9"]),
    (["run", "objective=crd", "objective.crd.temperature=-1"], ["temperature is -1"]),
    (["run", "objective={a: {name: ce, weight: {x: 1}}}"], ["'a'", "'x'"]),
    (["run", "objective={a.b: {name: ce}}"], ["'a.b'", "dots"]),
    (["run", "objective={a: 3}"], ["objective.a is 3"]),
    (["run", "objective.hkd.dim=0"], ["objective.hkd", "dim is 0"]),
    (["run", "objective.hkd.smoothing=2"], ["smoothing is 2"]),
    (["run", "objective.hkd.individual=false", "objective.hkd.holistic=false"], ["individual and holistic"]),
    (["run", "gnn.hops=-1"], ["hops is -1"]),
    (["run", "gnn.layers=0"], ["layers is 0"]),
    (["run", "teacher_gnn=tagg"], ["'tagg'", "'tag'"]),
    (["run", "teacher_gnn={name: gat, heads: 5}"], ["heads 5"]),
    (["run", "builder=threshold", "builder.tau=2"], ["tau is 2"]),
    (["run", "builder=threshold", "builder.cap=0"], ["cap is 0"]),
    (["run", "-m", "builder.k=3,0"], ["k is 0"]),
    (["ablation", "builder.k=0"], ["variant 'hkd'", "k is 0"]),
    (["run", "bank.kind=queue", "bank.length=5", "bank.sharded=true"], ["bank.sharded", "queue"]),
    (["run", "bank.length=5"], ["a full bank", "5"]),
    (["run", "bank.kind=queue", "bank.length=0"], ["length is 0"]),
    (["run", "bank.dtype=float64"], ["'dtype'", "'float64'"]),
    (["run", "trainer.checkpoint_every=often"], ["checkpoint_every is 'often'", "steps"]),
    (["run", "trainer.checkpoint_every=5"], ["'checkpoint_every'", "a text"]),
    (["run", "trainer.precision=64"], ["'precision'", "64"]),
    (["run", "trainer.devices=100"], ["batch_size is 64", "100 devices"]),
    (["run", "trainer.devices=0"], ["devices is 0"]),
    (["run", "trainer.strategy=fsdp"], ["'strategy'", "'fsdp'"]),
    (["run", "trainer.clip_norm=-1"], ["clip_norm is -1"]),
    (["run", "trainer.ema=1"], ["ema is 1"]),
    (["run", "trainer.optimizer=adam"], ["'optimizer'", "'adam'"]),
    (["run", "trainer.optimizer=adamw", "trainer.momentum=1"], ["momentum is 1"]),
    (["run", "data.val_fraction=1"], ["val_fraction is 1"]),
    (["run", "variant="], ["variant is ''"]),
    (["run", "study=."], ["study is '.'"]),
    (["ablation", "digits", "--pairs", "x"], ["--pairs", "'digits'"]),
    (["ablation", "table1", "--pairs", "digits,digits"], ["twice"]),
    (["ablation", "table1", "--pairs", "nope"], ["'nope'"]),
    (["ablation", "table1", "pair=digits"], ["'pair=digits'", "--pairs"]),
    (["ablation", "--seeds", "0,,1"], ["--seeds"]),
    (["report", "--table"], ["--table"]),
    (["report", "--study", "x"], ["results"]),
    (["report", "--baseline", "x"], ["results"]),
    (["transfer"], ["which run"]),
    (["transfer", "nowhere"], ["nowhere"]),
    (["transfer", "a", "b"], ["a and b"]),
    (["transfer", "."], ["no finished student"]),
    (["transfer", ".", "data=nope"], ["'nope'"]),
    (["transfer", ".", "probe.epochs=0"], ["epochs is 0"]),
    (["transfer", ".", "+x=1"], ["'x'", "study"]),
    (["bench", "nope"], ["'nope'"]),
    (["run", "data=folder"], ["data.root"]),
    (["run", "data=parquet"], ["data.train"]),
    # parts that nothing uses
    (["run", "objective=ce", "builder=knn"], ["'builder=knn'", "(ce)"]),
    (["run", "objective=ce", "builder.k=4"], ["'builder.k=4'"]),
    (["run", "objective=kd", "gnn=gat"], ["'gnn=gat'", "(ce, kd)"]),
    (["run", "objective=ce", "teacher_gnn=shared"], ["'teacher_gnn=shared'"]),
    (["run", "objective=ce", "negatives=5"], ["'negatives=5'"]),
    (["run", "objective=ce", "bank.kind=queue"], ["'bank.kind=queue'"]),
    (["run", "objective.hkd.holistic=false", "builder=threshold"], ["'builder=threshold'"]),
    (["run", "objective.hkd.builder=complete", "builder=threshold"], ["'builder=threshold'"]),
    (["run", "objective.hkd.negatives=9", "negatives=5"], ["'negatives=5'"]),
    (["run", "-m", "objective=ce", "gnn=gat,tag"], ["'gnn=gat'"]),
    # plugins
    (["run", "plugins=mine"], ["plugins is 'mine'"]),
    (["run", "plugins=[no_such_plugin_here]"], ["'no_such_plugin_here'"]),
    (["run", "plugins=[plugin_that_raises]"], ["'plugin_that_raises'", "boom"]),
    (["run", "plugins=[plugin_with_bad_syntax]"], ["'plugin_with_bad_syntax'", "SyntaxError"]),
    (["run", "plugins=[plugin_without_import]"], ["'plugin_without_import'", "there_is_no_such_module"]),
    (["run", "plugins=[plugin_that_repeats]"], ["'knn'", "graphkd.builder.knn.KNN"]),
    (["run", "plugins=['']"], ["plugin ''"]),
    # one's own files
    (["run", "-cd", "OWN", "builder=syntax"], ["syntax.yaml, line 3"]),
    (["run", "-cd", "OWN", "builder=tab"], ["tab.yaml, line 2"]),
    (["run", "-cd", "OWN", "builder=twice"], ["twice.yaml, line 3", "duplicate key k"]),
    (["run", "-cd", "OWN", "builder=binary"], ["builder=binary"]),
    (["run", "-cd", "OWN", "builder=typo"], ["'metrics'", "'metric'"]),
    (["run", "-cd", "OWN", "builder=unnamed"], ["builder needs a name"]),
    (["run", "-cd", "OWN", "builder=list"], ["builder is ['knn']"]),
    (["run", "-cd", "OWN", "builder=nothing"], ["builder needs a name"]),
    (["run", "-cd", "OWN", "builder=nowhere"], ["builder.k", "not.there"]),
    (["run", "-cd", "OWN", "builder=unfilled"], ["builder.k"]),
    (["run", "-cd", "OWN", "builder=parentless"], ["builder/gone"]),
    (["run", "-cd", "OWN", "objective=typo"], ["'temprature'", "'temperature'"]),
    (["run", "-cd", "OWN", "trainer=typo"], ["'epoch'", "'epochs'"]),
    (["run", "-cd", "OWN", "experiment=typo"], ["'sede'", "'seed'"]),
    (["ablation", "syntax", "-cd", "OWN"], ["syntax.yaml, line 3"]),
    (["ablation", "empty", "-cd", "OWN"], ["suite 'empty'", "variant"]),
    (["ablation", "typo", "-cd", "OWN"], ["'variant'", "'variants'"]),
    (["ablation", "seedless", "-cd", "OWN"], ["suite 'seedless'", "seed"]),
    (["ablation", "word", "-cd", "OWN"], ["suite 'word'", "'objective' in 'a'"]),
    (["ablation", "bad_key", "-cd", "OWN"], ["variant 'b'", "'bilder=knn'", "'builder'"]),
    (["ablation", "bad_value", "-cd", "OWN"], ["variant 'a'", "epochs is 0"]),
    (["ablation", "unused", "-cd", "OWN"], ["variant 'a'", "'gnn=gat'"]),
    (["ablation", "swept", "-cd", "OWN"], ["variant 'a'", "'gnn=gat,tag'"]),
    (["ablation", "slash", "-cd", "OWN"], ["'../../a'"]),
    (["ablation", "null", "-cd", "OWN"], ["ablation/null"]),
    (["list", "suites", "-cd", "OWN"], ["suite '"]),
    (["report", ".", "--table", "syntax", "-cd", "OWN"], ["syntax.yaml, line 2"]),
    (["report", ".", "--table", "typo", "-cd", "OWN"], ["'colums'", "'columns'"]),
]


@pytest.mark.parametrize(("words", "culprits"), OPTIONS, ids=[" ".join(words) for words, _ in OPTIONS])
def test_a_mistake_is_told_in_one_line(refuse: Any, words: list[str], culprits: list[str]) -> None:
    refuse(words, *culprits)


def parquet(images: list[bytes] | None = None, labels: list[object] | None = None) -> bytes:
    """A Parquet file of eight images of two classes, unless told otherwise."""
    file = io.BytesIO()
    pq.write_table(pa.table({"image": images or [png()] * 8, "label": labels or [0, 1] * 4}), file)
    return file.getvalue()


def png(size: int = 8) -> bytes:
    """A black image; above 8 pixels the header alone says so."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    header = b"IHDR" + struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return file.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + file.getvalue()[33:]


PARQUET: dict[str, tuple[Callable[[], bytes], list[str], list[str]]] = {
    "no file of this kind": (lambda: b"text", [], ["bad.parquet"]),
    "torn": (lambda: parquet()[:-30], [], ["bad.parquet"]),
    "another column": (parquet, ["data.image_column=img"], ["'img'", "'image'"]),
    "another label column": (parquet, ["data.label_column=class"], ["'class'", "label"]),
    "broken image": (lambda: parquet([b"text", *[png()] * 7]), [], ["broken image", "bad.parquet"]),
    "absurd image": (lambda: parquet([png(100_000), *[png()] * 7]), [], ["bad.parquet"]),
    "images of different sizes": (parquet, ["data.image_size=0"], ["image_size is 0"]),
    "negative labels": (lambda: parquet(labels=[-1, 1] * 4), [], ["-1"]),
    "broken labels": (lambda: parquet(labels=[0.5, 1.0] * 4), [], ["label"]),
    "labels beyond the classes": (
        lambda: parquet(labels=[0, 5] * 4),
        ["data.num_classes=2"],
        ["is 5", "0 .. 1", "bad.parquet"],
    ),
    "one class": (lambda: parquet(labels=[0] * 8), [], ["class"]),
    "no test split": (parquet, ["data.test=null"], ["data.test"]),
}


@pytest.mark.parametrize("kind", PARQUET)
def test_a_bad_parquet_file_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    content, words, culprits = PARQUET[kind]
    (folder / "bad.parquet").write_bytes(content())
    files = ["data.train=bad.parquet", "data.test=bad.parquet", "data.cache=false"]
    refuse(["run", "data=parquet", *files, SMALL, *words], *culprits)


FOLDERS: dict[str, tuple[dict[str, bytes], list[str]]] = {
    "empty": ({}, ["data.train"]),
    "an empty split": ({"train": b"", "test": b""}, ["train"]),
    "no images": ({"train/a/x.txt": b"x", "test/a/x.txt": b"x"}, ["train"]),
    "classes that differ": ({"train/a/0.png": png(), "train/b/0.png": png(), "test/c/0.png": png()}, ["c"]),
    "broken image": (
        {"train/a/0.png": b"x", "train/b/0.png": png(), "test/a/0.png": png(), "test/b/0.png": png()},
        ["0.png"],
    ),
    "absurd image": (
        {"train/a/0.png": png(100_000), "train/b/0.png": png(), "test/a/0.png": png(), "test/b/0.png": png()},
        ["0.png"],
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_bad_folder_of_images_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    files, culprits = FOLDERS[kind]
    (folder / "images").mkdir()
    for name, content in files.items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(content)
    refuse(["run", "data=folder", "data.root=images", "data.cache=false", SMALL], *culprits)


def checkpoint(path: Path, kind: str) -> None:
    if kind == "text":
        path.write_text("name: knn\nk: 8\n")
    elif kind == "list":
        torch.save([1, 2], path)
    elif kind == "other network":
        torch.save({"fc.weight": torch.zeros(3)}, path)
    elif kind == "malicious":
        torch.save({"model": Bomb()}, path)
    elif kind == "malicious pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save({"a": torch.zeros(99)}, path)
        path.write_bytes(path.read_bytes()[:-99])


@pytest.mark.parametrize("kind", ["text", "list", "other network", "malicious", "malicious pickle", "truncated"])
def test_a_bad_checkpoint_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    checkpoint(folder / "bad.pth", kind)
    refuse(["evaluate", "bad.pth", SMALL], "bad.pth")
    refuse(["run", "teacher.checkpoint=bad.pth", "run_dir=out"], "bad.pth")
    assert {path.name for path in folder.iterdir()} == {"bad.pth"}, "no folder made, no code run"


def test_a_checkpoint_needs_a_network_and_a_runs_folder_brings_its_own(
    refuse: Any, command: Command, folder: Path, tiny_words: list[str]
) -> None:
    assert command("run", *tiny_words, "objective=ce").code == 0
    (place,) = students(folder)
    weights = str(place / "student.safetensors")
    refuse(["evaluate", weights], "which network", "student=")
    refuse(["evaluate", weights, "student=resnet8"], "of another shape")
    refuse(["evaluate", weights, SMALL, "--split", "dev"], "'dev'")
    refuse(["evaluate", weights, SMALL, "teacher=resnet8"], "teacher.checkpoint")
    refuse(["evaluate", str(place), SMALL], "student")
    refuse(["evaluate", str(place), "seed=1"], "seed")
    refuse(["evaluate", str(place), "--split", "dev"], "'dev'")
    refuse(["evaluate", str(place), "teacher.checkpoint=nowhere.pth"], "nowhere.pth")
    refuse(["evaluate", str(folder / "results")], "record.json")
    refuse(["run", *tiny_words, "objective=ce", "seed=1", f"run_dir={place}"], "holds another run")
    refuse(["run", *tiny_words, "run_dir=results"], "results is not empty and holds no run")
    refuse(["run", *tiny_words, f"run_dir={weights}"], "is a file")
    (place / "config.yaml").write_text("seed: [0\n")
    refuse(["evaluate", str(place)], "config.yaml")


@pytest.mark.parametrize("words", [["run"], ["run", "-m", "seed=0,1"], ["teacher"], ["ablation", "--seeds", "0"]])
def test_a_file_where_the_results_should_be_is_told(
    refuse: Any, folder: Path, tiny_words: list[str], words: list[str]
) -> None:
    (folder / "results").write_text("not a folder")
    refuse([*words, *tiny_words], "results", "cannot be made")


def test_a_place_that_cannot_be_written_in_is_told(refuse: Any, folder: Path, tiny_words: list[str]) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (folder / "results").mkdir(mode=0o500)
    refuse(["run", *tiny_words], "results")
