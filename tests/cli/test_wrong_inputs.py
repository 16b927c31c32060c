"""Whatever users get wrong is told in one line that names it, ends in exit code 2 and leaves nothing behind."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from commands import Answer, Command, OwnConfigs, Plugin, students
from PIL import Image

from graphkd.report import record as records
from graphkd.report.record import Code, Metrics, Record

LAUGHS = "name: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(9 * [f'*{before}'])}]\n" for before, name in itertools.pairwise("abcdefghi")
)
CONFIGS = {
    "builder/laughs.yaml": LAUGHS,
    "builder/itself.yaml": "name: knn\nk: &a [*a]\n",
    "builder/parent.yaml": "&p\nname: knn\nk: {x: {y: *p}}\n",
    "builder/deep.yaml": f"name: knn\nk: {2000 * '['}{2000 * ']'}\n",
    "builder/circle.yaml": "name: knn\nk: ${builder.metric}\nmetric: ${builder.k}\n",
    "ablation/laughs.yaml": f"description: x\n{LAUGHS}",
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
    "ablation/nowhere.yaml": (
        "description: x\nseeds: [0]\nbase: [objective.hdk.weight=0.3]\nvariants: {a: [objective=hkd]}\n"
    ),
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
        "OBJECTIVES.register('sideways')(type('Sideways', (SSKD,), {'__module__': __name__, 'views': ('sideways',)}))"
    ),
    "plugin_that_repeats": "from graphkd import BUILDERS\nBUILDERS.register('knn')(dict)",
}
SMALL = "student={name: resnet8, widths: [2, 2, 4, 4]}"
HUGE = "1" + "0" * 30


class Bomb:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("crater",)


def listing(folder: Path) -> dict[str, int]:
    """Everything below a folder, with the time of its last change."""
    return {str(path): path.lstat().st_mtime_ns for path in folder.rglob("*")}


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
    (["run", "-m", "gnn=tag,gat", "--cfg", "job"], ["--cfg", "leave out -m"]),
    (["run", "--resolve"], ["--resolve needs --cfg"]),
    (["run", "--version"], ["graphkd --version"]),
    (["run", "-m", "--job", "4"], ["did you mean '--jobs'?"]),
    (["run", "--jobs", "4"], ["--jobs", "need -m"]),
    (["run", "--jobs", "0"], ["--jobs", "need -m"]),
    (["run", "--alone"], ["--alone", "need -m"]),
    (["ablation", "--job", "4"], ["did you mean '--jobs'?"]),
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
    (["ablation", "all", "bilder=knn"], ["'bilder=knn'", "'builder'", "variant"]),
    (["ablation", "--seeds", HUGE], ["seed is 1000", "2**63"]),
    (["report", "nowhere"], ["nowhere"]),
    (["report", "."], ["record.json"]),
    (["report", "--nope"], ["--nope"]),
    (["report", "a", "b"], ["b"]),
    (["report", "--table", "defualt", "."], ["'defualt'", "'default'"]),
    (["list", "builder"], ["'builder'", "'builders'"]),
    (["list", "--nope"], ["--nope"]),
    (["list", "--config-dir", "nowhere"], ["no folder nowhere"]),
    (["list", "tables", "--config-dir", "nowhere"], ["no folder nowhere"]),
    (["list", "pairs", "--config-dir", "nowhere"], ["no folder nowhere"]),
    (["evaluate"], ["which run or checkpoint"]),
    (["evaluate", "nowhere"], ["nowhere"]),
    (["evaluate", "data=digits"], ["which run or checkpoint"]),
    (["evaluate", ".", "nowhere"], ["one run or checkpoint at a time"]),
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
    (["run", "objectve.hkd.weight=3"], ["no 'objectve'", "'objective'"]),
    (["run", "objective.hdk.weight=3"], ["no 'hdk'", "'hkd'"]),
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
    (["run", "data.rand_augment=2"], ["'digits'", "'rand_augment'", "cifar10, cifar100", "have it"]),
    (["run", "data={name: digits, rand_augment: 2}"], ["'rand_augment'", "cifar10, cifar100", "have it"]),
    (["run", "trainer.logger=x"], ["trainer has no 'logger' (choices"]),
    (["run", "builder.tau=0.5"], ["'knn'", "'tau'", "threshold has it"]),
    (["run", "--teacher=resnet20"], ["--teacher=resnet20", "no dashes"]),
    (["run", "-m", "seed=0,1", "hydra/job_logging=default"], ["'hydra/job_logging=default'"]),
    (["run", "-m", "seed=0,1", "results=${x}"], ["results", "'x' not found"]),
    (["ablation", "hydra.verbose=true"], ["'hydra.verbose=true'"]),
    (["teacher", "hydra/launcher=basic"], ["'hydra/launcher=basic'"]),
    (["ablation", "digits", "--variants", "hkdd"], ["--variants", "'hkdd'", "'hkd'", "gnn_gat"]),
    (["ablation", "digits", "--variants", ""], ["--variants", "''", "gnn_gat"]),
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
    (["run", "student.checkpoint=~no.one/x.pth"], ["there is no file ~no.one/x.pth"]),
    (["run", "data=folder", "data.root=~no.one", "objective=ce"], ["there is no folder ~no.one"]),
    (["run", "data=parquet", "data.train=~no.one.parquet", "objective=ce"], ["~no.one.parquet"]),
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
    (["run", f"student={{name: resnet8, widths: [2, 2, 2, {HUGE}]}}"], ["model 'resnet8'", "too large"]),
    (["run", "student={name: resnet8, widths: [2, 2, 2, 99999999999]}"], ["model 'resnet8'", "too large"]),
    (["teacher", f"teacher={{name: resnet8, widths: [2, 2, 2, {HUGE}]}}"], ["model 'resnet8'", "too large"]),
    (["run", "student={name: resnet8, widths: [2, 2, 4]}"], ["'widths'", "a list of 4"]),
    (["run", "objective=fsp"], ["'fsp'", "same channels"]),
    (["run", "plugins=[plugin_with_views]", "+objective.a.name=sideways"], ["no view 'sideways'", "rotated_90"]),
    (["run", "objective=ce", "objective.ce.views=[weak,upside]"], ["'views'", "weak, strong"]),
    (["run", "objective=ce", "objective.ce.views=[]"], ["views is empty"]),
    (["run", "objective=kd", "objective.kd.views=[weak,weak]"], ["views is ['weak', 'weak']", "each once"]),
    (["run", "objective=vrm", "builder=bank_knn"], ["'vrm'", "no feature bank"]),
    (["run", "objective=vrm", "objective.vrm.gnn=tag"], ["'vrm'", "no option 'gnn'"]),
    (["run", "objective=vrm", "objective.vrm.prune_unreliable=2"], ["prune_unreliable is 2"]),
    (["run", "builder=bank_knn", "objective.hkd.prune_unreliable=0"], ["'hkd'", "prune_unreliable is 0.0"]),
    (["run", "objective=crld", "objective.crld.weak_threshold=2"], ["weak_threshold is 2"]),
    (["run", "objective=mlkd", "objective.mlkd.views=[rotated_90]"], ["'views'", "weak, strong"]),
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
    (["run", "trainer.checkpoint_every=5"], ["checkpoint_every is '5'", "500 steps"]),
    (["run", "trainer.precision=64"], ["'precision'", "64"]),
    (["run", "trainer.devices=100"], ["batch_size is 64", "100 devices"]),
    (["run", "trainer.devices=0"], ["devices is 0"]),
    (["run", "trainer.devices=-1"], ["devices is -1"]),
    (["run", "trainer.devices=two"], ["'devices'", "'two'"]),
    (["run", "trainer.devices=1000"], ["batch_size is 64", "1000 devices"]),
    (["run", "trainer.nodes=0"], ["nodes is 0"]),
    (["run", "trainer.nodes=2"], ["nodes is 2", "torchrun"]),
    (["run", "trainer.threads=0"], ["threads is 0"]),
    (["run", "trainer.threads=100000000"], ["trainer: threads is 100000000", "1024"]),
    (["run", f"trainer.epochs={HUGE}"], ["trainer: epochs is above"]),
    (["run", "trainer.batch_size=0"], ["batch_size is 0"]),
    (["run", "trainer.batch_size=1.5"], ["'batch_size'", "1.5"]),
    (["run", f"trainer.batch_size={HUGE}"], ["trainer: batch_size is above"]),
    (["run", f"trainer.batch_size={'9' * 4000}"], ["trainer: batch_size is above"]),
    (["run", "trainer.batch_size=1", "student=vgg8", "objective=ce"], ["batch_size 1", "training samples", "another"]),
    (["run", "trainer.batch_size=54", "student=vgg8", "objective=ce"], ["batch_size 54", "109 training samples"]),
    (["teacher", "teacher=vgg8", "teacher_trainer.batch_size=1"], ["teacher_trainer: batch_size 1"]),
    (["run", "trainer.eval_batch_size=0"], ["eval_batch_size is 0"]),
    (["run", "trainer.checkpoint_every=0 steps"], ["checkpoint_every is '0 steps'"]),
    (["run", "trainer.checkpoint_every=1e400 seconds"], ["checkpoint_every"]),
    (["run", "trainer.precision=bf17"], ["'precision'", "bf17"]),
    (["run", "teacher_trainer.batch_size=0"], ["teacher_trainer: batch_size is 0"]),
    (["run", f"seed={HUGE}"], ["seed is 1000", "2**63"]),
    (["run", "seed=1e30"], ["seed is 1e+30", "integer"]),
    (["run", "seed=" + 5000 * "1"], ["'seed=111", "cannot be read"]),
    (["run", "teacher.seed=" + 2000 * "[" + 2000 * "]"], ["'teacher.seed=[[", "cannot be read"]),
    (["run", "student=" + 3000 * "x"], ["no model 'xxx", "choices"]),
    (["run", "trainer.precision=" + 3000 * "x"], ["option 'precision' is 'xxx", "must be one of"]),
    (["run", "trainer.decay_at=" + 90 * "[" + 90 * "]"], ["option 'decay_at' is [[[", "a list"]),
    (["run", "seed=1.5"], ["seed is 1.5", "integer"]),
    (["run", f"teacher.seed={HUGE}"], ["teacher.seed is 1000", "2**63"]),
    (["run", "teacher.seed=1.5"], ["teacher.seed is 1.5", "integer"]),
    (["run", "data.padding=9"], ["padding is 9", "8 pixels"]),
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
    (["run", "builder=mutual_knn"], ["'mutual_knn'", "plugins=[MODULE] 'builder={name: mutual_knn}'"]),
    (["run", "builder={name: mutual_knn}"], ["'mutual_knn'", "plugins=[MODULE]"]),
    (["run", "student=my_net"], ["'my_net'", "plugins=[MODULE]"]),
    (["list", "builders", "plugins=mine"], ["plugins is 'mine'"]),
    (["list", "builders", "plugins=[no_such_plugin_here]"], ["'no_such_plugin_here'"]),
    (["list", "builders", "builder=knn"], ["'builder=knn'", "plugins"]),
    (["run", "plugins=[no_such_plugin_here]"], ["'no_such_plugin_here'"]),
    (["run", "plugins=[plugin_that_raises]"], ["'plugin_that_raises'", "boom"]),
    (["run", "plugins=[plugin_with_bad_syntax]"], ["'plugin_with_bad_syntax'", "SyntaxError"]),
    (["run", "plugins=[plugin_without_import]"], ["'plugin_without_import'", "there_is_no_such_module"]),
    (["run", "plugins=[plugin_that_repeats]"], ["'knn'", "graphkd.builder.knn.KNN"]),
    (["run", "plugins=['']"], ["plugin ''"]),
    # one's own files
    (["run", "-cd", "OWN", "builder=laughs"], ["laughs.yaml, line", "more than 100000 values"]),
    (["run", "-cd", "OWN", "builder=itself"], ["itself.yaml, line 2", "*a stands for itself"]),
    (["run", "-cd", "OWN", "builder=parent"], ["parent.yaml, line 3", "*p stands for itself"]),
    (["run", "-cd", "OWN", "builder=deep"], ["deep.yaml", "nested"]),
    (["run", "-cd", "OWN", "builder=circle"], ["builder.k", "Recursive"]),
    (["ablation", "laughs", "-cd", "OWN"], ["laughs.yaml, line", "more than 100000 values"]),
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
    (["ablation", "nowhere", "-cd", "OWN"], ["suite 'nowhere'", "'objective.hdk.weight=0.3'", "has the term 'hdk'"]),
    (["ablation", "unused", "-cd", "OWN"], ["variant 'a'", "'gnn=gat'"]),
    (["ablation", "swept", "-cd", "OWN"], ["variant 'a'", "'gnn=gat,tag'"]),
    (["ablation", "slash", "-cd", "OWN"], ["'../../a'"]),
    (["ablation", "null", "-cd", "OWN"], ["ablation/null"]),
    (["list", "suites", "-cd", "OWN"], ["suite '"]),
    (["report", ".", "--table", "syntax", "-cd", "OWN"], ["syntax.yaml, line 2"]),
    (["report", ".", "--table", "typo", "-cd", "OWN"], ["'colums'", "'columns'"]),
]


HUGE = 2**63 - 1
OPTIONS += [
    (["run", f"negatives={HUGE}"], ["number of negatives", str(HUGE)]),
    (["run", f"objective.hkd.dim={HUGE}"], ["objective.hkd", "too large"]),
    (["run", "bank.kind=queue", f"bank.length={HUGE}"], ["objective.hkd", "too large"]),
    (["run", f"gnn.hops={HUGE}"], ["objective.hkd", "too large"]),
    (["run", f"gnn.layers={10**9}"], ["layers is above"]),
    (["run", "objective=crd", f"objective.crd.dim={HUGE}"], ["objective.crd", "too large"]),
    (["run", f"objective={{cc: {{name: cc, dim: {HUGE}}}}}"], ["objective.cc", "too large"]),
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


CUDA = [
    ["trainer.precision=16"],
    ["trainer.teacher_precision=16"],
    ["trainer.accelerator=cuda"],
    ["trainer.accelerator=cuda", "trainer.devices=2"],
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("words", CUDA, ids=" ".join)
def test_what_needs_a_gpu_is_told_where_there_is_none(refuse: Any, words: list[str]) -> None:
    refuse(["run", *words], "trainer: ", "CUDA")


def test_more_processes_than_a_machine_can_bear_are_not_started(refuse: Any) -> None:
    sizes = ["trainer.batch_size=99999", "teacher_trainer.batch_size=99999"]
    refuse(["run", "trainer.accelerator=cpu", "trainer.devices=9999", *sizes], "devices is 9999", "CPU cores")


def parquet_of(as_label: str | None = None, **columns: pa.Array) -> bytes:
    """A Parquet file of some columns, one of them called `label` as well if asked for."""
    file = io.BytesIO()
    pq.write_table(pa.table(list(columns.values()), ["label" if name == as_label else name for name in columns]), file)
    return file.getvalue()


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
    "one class": (lambda: parquet(labels=[0] * 8), [], ["one class", "bad.parquet"]),
    "one class by name": (lambda: parquet(labels=["a"] * 8), [], ["one class", "bad.parquet"]),
    "one row": (lambda: parquet([png()], [0]), [], ["one class", "bad.parquet"]),
    "no rows": (
        lambda: parquet_of(image=pa.array([], pa.binary()), label=pa.array([], pa.int64())),
        [],
        ["no rows", "bad.parquet"],
    ),
    "no bytes": (lambda: b"", [], ["bad.parquet", "0 bytes"]),
    "a header alone": (lambda: b"PAR1", [], ["bad.parquet"]),
    "a header and an end": (lambda: b"PAR1" + bytes(20) + b"PAR1", [], ["bad.parquet"]),
    "altered pages": (lambda: parquet()[:20] + b"\xff" * 20 + parquet()[40:], [], ["bad.parquet", "'image'"]),
    "altered metadata": (lambda: parquet()[:-60] + b"\xff" * 20 + parquet()[-40:], [], ["bad.parquet"]),
    "an absurd footer": (lambda: parquet()[:-8] + b"\0\0\0\x80PAR1", [], ["bad.parquet"]),
    "times for labels": (lambda: parquet(labels=[1, 2**60] * 4), [], ["'label'", "bad.parquet", "data.num_classes"]),
    "labels beyond 64 bits": (
        lambda: parquet_of(image=pa.array([png()] * 2), label=pa.array([0, 2**63], pa.uint64())),
        [],
        ["'label'", "bad.parquet", "64-bit"],
    ),
    "an absurd number of classes": (parquet, [f"data.num_classes={HUGE}"], ["num_classes is 922"]),
    "missing labels": (lambda: parquet(labels=[None, 1] * 4), [], ["row 0 of bad.parquet", "'label'"]),
    "missing images": (
        lambda: parquet_of(image=pa.array([None] * 2, pa.binary()), label=pa.array([0, 1])),
        [],
        ["row 0 of bad.parquet"],
    ),
    "empty images": (lambda: parquet([b""] * 8), [], ["row 0 of bad.parquet"]),
    "images of an absurd size": (parquet, ["data.image_size=100000000"], ["data.image_size", "GiB"]),
    "two channels": (parquet, ["data.in_channels=2"], ["in_channels is 2"]),
    "padding beyond the images": (parquet, ["data.padding=1000000"], ["padding is 1000000", "8 pixels"]),
    "statistics of another image": (parquet, ["data.mean=[0.5]"], ["mean has 1 value", "3 channels"]),
    "a share without a sample": (
        parquet,
        ["data.test=null", "data.test_fraction=0.25", "data.val_fraction=0.01"],
        ["val_fraction=0.01 of 8 images gives no sample", "val_fraction=0.13"],
    ),
    "two columns of one name": (
        lambda: parquet_of(
            image=pa.array([png()] * 2), label=pa.array([0, 1]), other=pa.array([1, 1]), as_label="other"
        ),
        [],
        ["bad.parquet has 2 columns 'label'"],
    ),
    "images that are not there": (
        lambda: parquet_of(image=pa.array(["no.png"] * 2), label=pa.array([0, 1])),
        [],
        ["row 0 of bad.parquet", "no.png", "data.root"],
    ),
    "texts of no alphabet": (
        lambda: parquet_of(
            image=pa.array([png()] * 2),
            label=pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"a"]).buffers()),
        ),
        [],
        ["'label'", "bad.parquet", "UnicodeDecodeError"],
    ),
    "no deviation": (parquet, ["data.std=[0, 1, 1]"], ["std is [0.0, 1.0, 1.0]"]),
    "no test split": (parquet, ["data.test=null"], ["data.test"]),
}


@pytest.mark.parametrize("files", [["data.train=[]"], ["data.train=3"], ["data.train=''"], ["data.train=no\n.parquet"]])
def test_a_split_that_names_no_parquet_file_is_told(refuse: Any, files: list[str]) -> None:
    refuse(["run", "data=parquet", *files], "train")


@pytest.mark.parametrize("kind", PARQUET)
def test_a_bad_parquet_file_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    content, words, culprits = PARQUET[kind]
    (folder / "bad.parquet").write_bytes(content())
    files = ["data.train=bad.parquet", "data.test=bad.parquet", "data.cache=false"]
    refuse(["run", "data=parquet", *files, SMALL, *words], *culprits)


BOTH = {"train/a/0.png": png(), "train/b/0.png": png(), "test/a/0.png": png(), "test/b/0.png": png()}
FOLDERS: dict[str, tuple[dict[str, bytes | str | None], list[str]]] = {
    "empty": ({}, ["data.train"]),
    "an empty split": ({"train": b"", "test": b""}, ["train"]),
    "no images": ({"train/a/x.txt": b"x", "test/a/x.txt": b"x"}, ["train"]),
    "classes that differ": ({"train/a/0.png": png(), "train/b/0.png": png(), "test/c/0.png": png()}, ["c"]),
    "broken image": (BOTH | {"train/a/0.png": b"x"}, ["train/a/0.png"]),
    "torn image": (BOTH | {"train/a/0.png": png()[:40]}, ["train/a/0.png"]),
    "image without bytes": (BOTH | {"train/a/0.png": b""}, ["train/a/0.png"]),
    "absurd image": (BOTH | {"train/a/0.png": png(100_000)}, ["train/a/0.png"]),
    "one image": ({"train/a/0.png": png(), "test/a/0.png": png()}, ["one class", "images/train"]),
    "no test split": ({"train/a/0.png": png(), "train/b/0.png": png()}, ["data.test", "images/test"]),
    "a folder called like an image": (
        {"train/a/x.jpg": None, "test/a/0.png": png()},
        ["train is empty: no image in a"],
    ),
    "a link to itself": (BOTH | {"train/a/x.png": "x.png"}, ["train/a/x.png", "symbolic links"]),
    "a link to nowhere": (BOTH | {"train/a/x.png": "nowhere.png"}, ["train/a/x.png", "No such file"]),
    "a class that is a link to itself": (
        {"train/a": "a", "train/b/0.png": png(), "test/a/0.png": png(), "test/b/0.png": png()},
        ["images/test has a"],
    ),
    "a split that is a link to itself": ({"train": "train", "test/a/0.png": png()}, ["data.train"]),
    "a line break in a name": (BOTH | {"train/a/x\ny.png": b"x"}, ["train/a/x y.png"]),
    "a line break in a class": (BOTH | {"test/a\nb/0.png": png()}, ["images/test has a b"]),
}


def place(path: Path, content: bytes | str | None) -> None:
    """A file of these bytes, a link to this target, or a folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        path.mkdir()
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        path.write_bytes(content)


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_among_the_images_is_told_rather_than_waited_for(refuse: Any, folder: Path) -> None:
    for name, content in BOTH.items():
        place(folder / "images" / name, content)
    os.mkfifo(folder / "images" / "train" / "a" / "1.png")
    refuse(["run", "data=folder", "data.root=images", "data.cache=false", SMALL], "train/a/1.png", "not a regular file")


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_bad_folder_of_images_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    files, culprits = FOLDERS[kind]
    (folder / "images").mkdir()
    for name, content in files.items():
        place(folder / "images" / name, content)
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


@pytest.mark.parametrize(
    "words",
    [["run"], ["run", "-m", "seed=0,1"], ["teacher"], ["ablation", "digits", "--seeds", "0", "--variants", "kd"]],
)
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


def leave_record(path: Path, **changes: Any) -> None:
    """The record of a finished run, unless told otherwise."""
    fields: dict[str, Any] = {
        "kind": "student", "status": "done", "study": "mine", "variant": "kd", "pair": "large->small", "varied": {},
        "identity": "1a2b", "seed": 0, "teacher": None, "versions": {}, "code": Code("0.1.0"), "device": "cpu",
        "threads": 1, "metrics": Metrics(test_top1_last=90.0),
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write(Record(**fields | changes), path)


REPORTS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "no such table": ({}, ["--table", "defualt"], ["'defualt'", "'default'"]),
    "no table": ({}, ["--table", ""], ["''", "default"]),
    "a path for a table": ({}, ["--table", "../config"], ["'../config'", "default"]),
    "a table of another study": ({}, ["--table", "table1"], ["'table1'", "mine"]),
    "a table of other seeds and runs": ({"kind": "teacher"}, ["--table", "table1"], ["'table1'"]),
    "no such study": ({}, ["--study", "mein"], ["'mein'", "mine"]),
    "a study of two lines": ({}, ["--study", "a\nb"], ["'a b'", "mine"]),
    "no such baseline": ({}, ["--baseline", "crd"], ["'crd'", "kd"]),
    "a baseline in a grid": ({}, ["--baseline", "kd", "--table", "table1"], ["--baseline", "'table1'", "default"]),
    "no phases": ({}, ["--profile"], ["--profile"]),
    "phases of a teacher": ({"kind": "teacher", "phases": {"data": 1.0}}, ["--profile"], ["--profile"]),
    "nothing finished": ({"status": "running"}, [], ["no finished run", "'results'"]),
    "all failed": ({"status": "failed"}, [], ["no finished run", "'results'"]),
    "a teacher alone": ({"kind": "teacher"}, [], ["no finished run", "'results'"]),
    "out is a file": ({}, ["--out", "taken"], ["taken", "cannot be made"]),
    "out is below a file": ({}, ["--out", "taken/below"], ["taken/below", "cannot be made"]),
    "out is where nothing can be": ({}, ["--out", "/proc/nowhere"], ["/proc/nowhere", "cannot be made"]),
    "an unknown row": ({}, ["--variants", "nope"], ["--variants: there is no run of 'nope'"]),
    "no row": ({}, ["--variants", ""], ["--variants: there is no run of ''"]),
    "a baseline that is not among the rows": ({}, ["--variants", "kd", "--baseline", "nope"], ["--baseline", "'nope'"]),
    "out is nothing": ({}, ["--out", ""], ["--out"]),
    "out is missing": ({}, ["--out"], ["--out"]),
    "a record for results": ({}, ["results/run/record.json"], ["results/run/record.json"]),
    "a file for results": ({}, ["taken"], ["taken"]),
    "nothing for results": ({}, [""], ["''"]),
}


@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_that_cannot_be_made_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    changes, words, culprits = REPORTS[kind]
    leave_record(folder / "results" / "run" / "record.json", **changes)
    (folder / "taken").write_text("a file")
    refuse(["report", *words], *culprits)


RECORDS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "no UTF-8": (b"\xff\xfe", "not JSON"),
    "a list": (b"[1]", "object"),
    "of another schema": (b'{"schema": 2}', "schema"),
    "nested": (b"[" * 100_000, "not JSON"),
    "not finite": (b'{"schema": NaN}', "NaN"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_that_cannot_be_read_is_told_in_one_line(refuse: Any, folder: Path, kind: str) -> None:
    content, reason = RECORDS[kind]
    (folder / "results").mkdir()
    (folder / "results" / "record.json").write_bytes(content)
    refuse(["report"], "results/record.json", reason)
    refuse(["evaluate", "results"], "results/record.json", reason)


def test_a_record_of_absurd_size_or_of_no_file_is_told(refuse: Any, folder: Path) -> None:
    (folder / "results").mkdir()
    with (folder / "results" / "record.json").open("wb") as file:
        file.truncate(1 << 40)
    refuse(["report"], "record.json", "larger than 4 MiB")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everywhere")
def test_what_may_not_be_read_or_written_is_told(refuse: Any, folder: Path) -> None:
    leave_record(folder / "results" / "run" / "record.json")
    (folder / "locked").mkdir(mode=0o500)
    refuse(["report", "--out", "locked"], "locked")
    refuse(["report", "--out", "locked/below"], "locked/below")
    (folder / "results" / "run" / "record.json").chmod(0)
    refuse(["report"], "record.json", "cannot be read")


ODD = [("COLUMNS", "abc"), ("COLUMNS", "0"), ("COLUMNS", "-5"), ("TERM", "nonsense"), ("HOME", None), ("HOME", "file")]


@pytest.mark.parametrize(("name", "value"), [*ODD, ("HOME", "/proc/nowhere")], ids=str)
def test_an_odd_environment_does_no_harm(
    command: Command, folder: Path, tiny_words: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: str | None
) -> None:
    (folder / "file").write_text("a file")
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)
    answer = command("list", "builders")
    assert answer.code == 0
    assert "knn" in answer.out
    assert command("run", *tiny_words, "objective=ce").code == 0
    assert command("report").code == 0


@pytest.mark.parametrize("words", [["--cfg", "job"], ["--dry-run"]], ids=" ".join)
def test_a_plan_of_many_epochs_is_made_at_once(command: Command, words: list[str]) -> None:
    epochs = f"trainer.epochs={10**18}"
    name = ["run"] if "--cfg" in words else ["ablation", "transfer"]
    answer = command(*name, epochs, *words)
    assert answer.code == 0
    assert str(10**18) in answer.out


def start(folder: Path, words: list[str], **environment: str) -> Answer:
    """Calls `graphkd WORD ...` as a process in a folder, with more in its environment.

    A new Python is begun only where it is Python itself that reads the environment.
    """
    if not any(name.startswith(("LC_", "OMP_", "PYTHON")) for name in environment):
        forked_one = forked.graphkd(words, folder, **environment)
        return Answer(forked_one.returncode, forked_one.stdout, forked_one.stderr)
    asked = [sys.executable, "-m", "graphkd_cli.main", *words]
    done = subprocess.run(asked, cwd=folder, env=os.environ | environment, capture_output=True, timeout=100)
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


PROCESSES: dict[str, tuple[list[str], dict[str, str], list[str]]] = {
    "a wrong option": (["run", "builder=knnn"], {}, ["'knnn'", "'knn'"]),
    "no GPU": (["run", "trainer.accelerator=cuda"], {"CUDA_VISIBLE_DEVICES": "99"}, ["CUDA"]),
    "a plugin that raises": (["run", "plugins=[boom]"], {"PYTHONPATH": "plugins"}, ["'boom'", "RuntimeError"]),
    "Slurm's tasks": (
        ["run"],
        {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "many"},
        ["SLURM_STEP_NUM_TASKS is 'many'", "whole number"],
    ),
    "Hydra's own tracebacks": (["run", "gnn=tagg"], {"HYDRA_FULL_ERROR": "1"}, ["'tagg'", "'tag'"]),
    "a path in an old locale": (
        ["run", "results='é/\u0301'", "gnn=tagg"],
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        ["'tagg'", "'tag'"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROCESSES)
def test_a_mistake_is_told_by_a_process_too(folder: Path, kind: str) -> None:
    words, environment, culprits = PROCESSES[kind]
    place(folder / "plugins" / "boom.py", b"raise RuntimeError")
    before = {path for path in listing(folder) if "__pycache__" not in path}
    assert_refused(start(folder, words, **environment), *culprits)
    assert {path for path in listing(folder) if "__pycache__" not in path} == before


@pytest.mark.slow
def test_a_terminal_of_few_signs_and_a_wrong_thread_count_do_no_harm(folder: Path, tiny_words: list[str]) -> None:
    words = ["run", *tiny_words, "objective=ce", "results='é'"]
    assert start(folder, words, OMP_NUM_THREADS="abc", PYTHONIOENCODING="ascii").code == 0
    answer = start(folder, ["report", "é"], PYTHONIOENCODING="ascii")
    assert answer.code == 0
    assert "\\xb1" in answer.out, "the sign for plus or minus"
