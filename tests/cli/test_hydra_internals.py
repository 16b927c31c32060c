"""What graphkd uses of Hydra's private parts is there, with the parameters that it passes."""

from __future__ import annotations

import dataclasses
import importlib
import inspect

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException

from graphkd_cli.config_files import hydra_session
from graphkd_cli.hydra_internals import swept_choices, unreadable_position

LACKS = f"hydra-core {hydra.__version__} lacks"
ADVICE = "lower its ceiling in pyproject.toml or adapt graphkd_cli/hydra_internals.py"
CALLED: dict[str, list[str]] = {
    "hydra._internal.callbacks:Callbacks": ["config"],
    "hydra._internal.config_loader_impl:ConfigLoaderImpl": ["config_search_path"],
    "hydra._internal.config_loader_impl:ConfigLoaderImpl.load_configuration": [
        "config_name", "overrides", "run_mode", "from_shell", "validate_sweep_overrides",
    ],
    "hydra._internal.config_loader_impl:ConfigLoaderImpl._apply_overrides_to_config": ["overrides", "cfg"],
    "hydra._internal.config_loader_impl:ConfigLoaderImpl.get_group_options": ["group_name"],
    "hydra._internal.config_repository:ConfigRepository.group_exists": ["config_path"],
    "hydra._internal.core_plugins.basic_sweeper:BasicSweeper.split_arguments": ["overrides", "max_batch_size"],
    "hydra._internal.core_plugins.file_config_source:FileConfigSource.load_config": ["config_path"],
    "hydra._internal.core_plugins.file_config_source:FileConfigSource.scheme": [],
    "hydra._internal.core_plugins.file_config_source:FileConfigSource._normalize_file_name": ["filename"],
    "hydra._internal.hydra:Hydra": ["task_name", "config_loader"],
    "hydra._internal.hydra:Hydra.compose_config": ["config_name", "overrides", "run_mode", "with_log_configuration"],
    "hydra._internal.hydra:Hydra.hydra_help": ["config_name", "args_parser", "args"],
    "hydra._internal.hydra:Hydra.shell_completion": ["config_name", "overrides"],
    "hydra._internal.hydra:Hydra.show_cfg": ["config_name", "overrides", "cfg_type", "package", "resolve"],
    "hydra._internal.hydra:Hydra.show_info": ["info", "config_name", "overrides"],
    "hydra._internal.sources_registry:SourcesRegistry.instance": [],
    "hydra._internal.sources_registry:SourcesRegistry.register": ["type_"],
    "hydra._internal.utils:create_config_search_path": ["search_path_dir"],
    "hydra._internal.utils:get_args_parser": [],
}  # fmt: skip
"""Private functions and classes by module and name, with the parameters that are passed."""
FIELDS = {JobReturn: "_return_value", Override: "_value"}


@pytest.mark.parametrize("name", CALLED)
def test_hydra_has_the_function(name: str) -> None:
    module, _, path = name.partition(":")
    try:
        found = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"{LACKS} {name} ({error}); {ADVICE}")
    missing = set(CALLED[name]) - set(inspect.signature(found).parameters)  # type: ignore[arg-type]
    assert not missing, f"{LACKS} {name}'s parameters {missing}; {ADVICE}"


@pytest.mark.parametrize("owner", FIELDS, ids=lambda owner: owner.__name__)
def test_hydra_has_the_field(owner: type) -> None:
    names = {field.name for field in dataclasses.fields(owner)}
    assert FIELDS[owner] in names, f"{LACKS} {owner.__name__}.{FIELDS[owner]}; {ADVICE}"


def test_hydra_has_the_attributes_of_instances() -> None:
    with hydra_session() as session:
        loader = getattr(session, "config_loader", None)
        assert loader is not None, f"{LACKS} Hydra.config_loader; {ADVICE}"
        assert hasattr(loader, "repository"), f"{LACKS} ConfigLoaderImpl.repository; {ADVICE}"


def test_a_sweep_of_choices_shows_its_values() -> None:
    parse = OverridesParser.create().parse_override
    assert swept_choices(parse("a=1,2")) == [1, 2]
    assert swept_choices(parse("a=range(3)")) is None


def test_the_lexer_says_where_it_gave_up() -> None:
    with pytest.raises(HydraException) as raised:
        OverridesParser.create().parse_override("a=b`")
    assert unreadable_position(raised.value) == 3
    assert unreadable_position(ValueError()) is None


def test_a_failed_job_raises_its_error_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    job = JobReturn(overrides=["a=1"], status=JobStatus.FAILED)
    job.return_value = KeyError("gone")
    with pytest.raises(KeyError, match="gone"):
        _ = job.return_value
    assert capsys.readouterr().err == ""
