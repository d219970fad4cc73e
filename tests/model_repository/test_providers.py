"""The provider that a deployment chose, or a refusal: never another one unasked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from control_plane.errors import PosthumanError
from converters.entry import model_digest, read_entry
from converters.pbtxt import Hardware, config_pbtxt
from opening.providers import ProviderUnusable, check_taken, providers_for
from tests.fixtures_triton import Converted, TritonServer, tiny_gpt2, triton_server

__all__ = ["tiny_gpt2", "triton_server"]

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


def said(**parameters: str) -> dict[str, Any]:
    return {key: {"string_value": value} for key, value in parameters.items()}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)


def test_without_a_choice_it_is_the_cpu() -> None:
    assert providers_for({}) == ["CPUExecutionProvider"]


def test_a_provider_that_is_not_installed_is_refused_with_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL[-1:])
    with pytest.raises(ProviderUnusable, match=r"asks for \['tensorrt', 'cuda'\].*CPUExecutionProvider.*onnxruntime-gpu"):
        providers_for(said(providers="tensorrt,cuda,cpu", engine_cache="/engines"))


@pytest.mark.usefixtures("gpu")
def test_tensorrt_gets_its_cache_its_precision_and_its_shapes(tmp_path: Path) -> None:
    cache = tmp_path / "engines" / "5a5a"
    given = said(
        providers="tensorrt,cuda,cpu",
        device="1",
        engine_cache=str(cache),
        engine_precision="fp16",
        engine_least="input_ids:1x1",
        engine_usual="input_ids:4x64",
        engine_most="input_ids:8x64",
    )
    (name, options), (second, cuda), last = providers_for(given)
    assert (name, second, last, cuda) == (*ALL[:2], ALL[2], {"device_id": "1", "use_tf32": "0"})
    assert options == {
        "device_id": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": "1",
        "trt_bf16_enable": "0",
        "trt_profile_min_shapes": "input_ids:1x1",
        "trt_profile_opt_shapes": "input_ids:4x64",
        "trt_profile_max_shapes": "input_ids:8x64",
    }
    assert cache.is_dir()


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("cache", ["", "engines", "../engines"])
def test_engines_are_never_kept_beside_wherever_the_server_stands(cache: str) -> None:
    with pytest.raises(ProviderUnusable, match="absolute"):
        providers_for(said(providers="tensorrt,cpu", engine_cache=cache))


def test_a_provider_we_do_not_know_is_refused() -> None:
    with pytest.raises(ProviderUnusable, match="rocm"):
        providers_for(said(providers="rocm,cpu"))


def test_a_session_that_fell_back_is_refused() -> None:
    with pytest.raises(ProviderUnusable, match="TensorrtExecutionProvider"):
        check_taken([("TensorrtExecutionProvider", {}), "CPUExecutionProvider"], ["CPUExecutionProvider"])
    check_taken(["CPUExecutionProvider"], ["CPUExecutionProvider"])


@pytest.mark.live
def test_the_server_refuses_to_load_an_entry_on_hardware_that_is_not_there(
    triton_server: TritonServer, tiny_gpt2: Converted
) -> None:
    name = triton_server.install(tiny_gpt2.entry)
    config = triton_server.models / name / "config.pbtxt"
    fitting = config.read_text(encoding="utf-8")
    digest = model_digest(tiny_gpt2.entry)
    hardware = Hardware(("cuda", "cpu"))
    asked = config_pbtxt(read_entry(tiny_gpt2.entry), name, digest, hardware)
    try:
        # As a server with a GPU would read it, whose ONNX Runtime is the CPU's.
        config.write_text(asked.replace("KIND_GPU count: 1 gpus: [ 0 ]", "KIND_CPU count: 1"), encoding="utf-8")
        with pytest.raises(PosthumanError, match="onnxruntime-gpu"):
            triton_server.client.load(name)
        config.write_text(asked, encoding="utf-8")
        with pytest.raises(PosthumanError, match=r"(?i)gpu"):
            triton_server.client.load(name)
    finally:
        config.write_text(fitting, encoding="utf-8")
        triton_server.client.load(name)


@pytest.mark.live
def test_the_process_that_computes_asks_for_large_pages(triton_server: TritonServer, tiny_gpt2: Converted) -> None:
    name = triton_server.install(tiny_gpt2.entry)
    assert triton_server.stub_of(name).environ()["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
