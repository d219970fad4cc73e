"""What a deployment may choose, and what is refused by the variable's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from control_plane.errors import BadInput
from control_plane.settings import read_settings
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
