"""What a deployment may choose, and what is refused by the variable's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane import settings
from control_plane.errors import BadInput
from control_plane.settings import DEEPSPEED, PRECISIONS, SHARDINGS, read_settings
from control_plane.wiring import hardware_of


def test_without_a_choice_entries_run_on_the_cpu(tmp_path: Path) -> None:
    hardware = hardware_of(read_settings({"POSTHUMAN_HOME": str(tmp_path)}))
    assert (hardware.providers, hardware.has_gpu) == (("cpu",), False)


def test_a_choice_of_providers_reaches_the_hardware_with_a_place_for_engines(tmp_path: Path) -> None:
    given = {"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_PROVIDERS": "tensorrt,cuda,cpu"}
    assert hardware_of(read_settings(given)).engine_cache == tmp_path / "cache" / "engines"
    hardware = hardware_of(read_settings({**given, "POSTHUMAN_ENGINE_CACHE": "/engines"}))
    assert (hardware.providers, hardware.engine_cache) == (("tensorrt", "cuda", "cpu"), Path("/engines"))


@pytest.mark.parametrize("providers", ["cuda", "cpu,cuda", "cuda, cpu", "rocm,cpu", "cpu,cpu"])
def test_providers_that_make_no_sense_are_refused_by_name(providers: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="POSTHUMAN_PROVIDERS"):
        read_settings({"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_PROVIDERS": providers})


@pytest.mark.parametrize(("given", "is_taken"), [("0", True), (str(5 * 10**17), True), (str(5 * 10**17 + 1), False), ("1%", False)])
def test_a_share_of_purchases_is_one_that_ocean_s_contract_takes(given: str, is_taken: bool, tmp_path: Path) -> None:
    environ = {"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_SWAP_FEE": given}
    if is_taken:
        assert read_settings(environ).swap_fee == int(given)
    else:
        with pytest.raises(BadInput, match="POSTHUMAN_SWAP_FEE"):
            read_settings(environ)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_training_is_shared_in_one_of_four_ways(sharding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: name == "deepspeed" or None)
    given = {"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_JOB_SHARDING": sharding}
    assert read_settings(given).jobs.sharding == sharding
    assert read_settings(given).jobs.precisions == PRECISIONS  # one worker shares nothing
    shared = read_settings({**given, "POSTHUMAN_JOB_WORKERS": "2"}).jobs.precisions
    assert ("fp16" in shared) == (sharding not in DEEPSPEED) and {"fp32", "bf16"} <= {*shared}


@pytest.mark.parametrize("sharding", [*DEEPSPEED, "zero", "DDP", "deepspeed"])
def test_a_way_that_is_not_there_is_refused_at_the_start_with_what_to_install(
    sharding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="POSTHUMAN_JOB_SHARDING") as caught:
        read_settings({"POSTHUMAN_HOME": str(tmp_path), "POSTHUMAN_JOB_SHARDING": sharding})
    assert ("pip install -c constraints/main.txt -e '.[deepspeed]'" in caught.value.message) == (sharding in DEEPSPEED)
