"""Building and the command line, with stand-ins for what only a GPU machine has; Triton's schema reads the configuration."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from converters.entry import model_digest
from converters.errors import ConversionFailed
from converters.tensorrt.build import NotBuilt, _build, find_builder, trtexec_command
from converters.tensorrt.profiles import profiles_of
from converters.tensorrt.statement import verify
from tests.converters.tensorrt.graphs import CACHED, IMAGE, TEXT, write

REPOSITORY = Path(__file__).resolve().parents[3]


def run(*arguments: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:/usr/bin:/bin" if path else "/nowhere", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "converters.tensorrt", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with an nvidia-smi that names an A100, and a trtexec that writes its arguments as the plan."""
    folder = tmp_path / "bin"
    program(folder, "nvidia-smi", "print('NVIDIA A100-SXM4-80GB, 8.0')")
    program(
        folder,
        "trtexec",
        "import sys\n"
        "print('&&&& RUNNING TensorRT.trtexec [TensorRT v100900] # trtexec')\n"
        "for one in sys.argv:\n"
        "    if one.startswith('--saveEngine='):\n"
        "        open(one.split('=', 1)[1], 'w').write('\\n'.join(sys.argv[1:]))\n",
    )
    return folder


def test_the_command_names_each_profile_and_keeps_the_graphs_types() -> None:
    command = trtexec_command(Path("model.onnx"), profiles_of(CACHED, 4), Path("model.plan"))
    assert command[:6] == [
        *("trtexec", "--onnx=model.onnx", "--saveEngine=model.plan", "--stronglyTyped", "--noTF32", "--skipInference"),
    ]
    assert [part for part in command if part.startswith("--profile")] == ["--profile=0", "--profile=1"]
    assert command.index("--profile=1") < len(command) - 3
    first = next(part for part in command if part.startswith("--maxShapes"))
    assert first == (
        "--maxShapes=input_ids:4x1024,attention_mask:4x1024,past_key_values.0.key:4x4x0x8,past_key_values.0.value:4x4x0x8"
    )


def test_one_profile_needs_no_number() -> None:
    assert not any("--profile" in part for part in trtexec_command(Path("a"), profiles_of(TEXT, 4), Path("b")))


def test_without_a_gpu_nothing_is_built_and_the_command_says_so(tmp_path: Path) -> None:
    entry = write(tmp_path / "entry", TEXT, "feature-extraction")
    done = run(entry, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (7, "") and "not built: no GPU here" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_driver_without_a_gpu_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "nvidia-smi", "import sys; sys.exit('No devices were found')")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(NotBuilt, match="No devices were found"):
        find_builder()


def test_a_gpu_without_tensorrt_says_what_is_missing(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "trtexec").unlink()
    monkeypatch.setenv("PATH", str(machine))
    with pytest.raises(NotBuilt, match="neither the Python package tensorrt nor the command trtexec"):
        find_builder()


def test_what_is_printed_is_what_would_be_built(tmp_path: Path) -> None:
    entry = write(tmp_path / "entry", CACHED, "text-generation", "fp16")
    done = run(entry, "--print", "--max-batch", 4)
    assert done.returncode == 0, done.stderr
    end = done.stdout.index("\n]\n") + 3
    profiles = profiles_of(CACHED, 4)
    assert json.loads(done.stdout[:end]) == [profile.to_json() for profile in profiles]
    command, _, config = done.stdout[end:].partition("\n")
    assert shlex.split(command) == trtexec_command(entry / "1" / "model.onnx", profiles, Path("model.plan"))
    assert parsed(config).instance_group[0].profile == ["0", "1"]


def parsed(text: str) -> Any:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_plan_is_built_with_its_configuration_and_a_statement_that_holds(tmp_path: Path, machine: Path) -> None:
    entry = write(tmp_path / "entry", CACHED, "text-generation", "fp16")
    before = model_digest(entry)
    for _ in range(2):  # again: the plan is replaced
        done = run(entry, "--out", tmp_path / "out", path=machine)
        assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    statement = verify(folder, entry)
    assert (statement.gpu.architecture, statement.tensorrt, statement.precision) == ("8.0", "100900", "fp16")
    assert "--stronglyTyped" in (folder / "1" / "model.plan").read_text()
    config = parsed((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.default_model_filename) == (folder.name, "tensorrt", "model.plan")
    assert [(one.name, tuple(one.dims)) for one in config.input][:3] == [
        ("input_ids", (-1, -1)),
        ("attention_mask", (-1, -1)),
        ("past_key_values.0.key", (-1, 4, -1, 8)),
    ]
    assert {model_config_pb2.DataType.Name(one.data_type) for one in config.output} == {"TYPE_FP32", "TYPE_FP16"}
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert config.parameters["plan_statement"].string_value == statement.digest()
    assert config.parameters["model_digest"].string_value == before == model_digest(entry)
    checked = run(entry, "--verify", folder)
    assert checked.returncode == 0 and statement.digest() in checked.stdout


def test_a_build_that_fails_leaves_nothing_and_says_why(tmp_path: Path, machine: Path) -> None:
    program(machine, "trtexec", "import sys; print('TensorRT v100900'); sys.exit('--help' not in sys.argv and 'no kernel for Foo')")
    done = run(write(tmp_path / "entry", TEXT, "feature-extraction"), "--out", tmp_path / "out", path=machine)
    assert done.returncode == 4 and "no kernel for Foo" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


def test_a_plan_that_is_not_its_statements_is_exit_code_6(tmp_path: Path, machine: Path) -> None:
    entry = write(tmp_path / "entry", TEXT, "feature-extraction")
    assert run(entry, "--out", tmp_path / "out", path=machine).returncode == 0
    (folder,) = (tmp_path / "out").iterdir()
    (folder / "1" / "model.plan").write_bytes(b"other")
    assert run(entry, "--verify", folder).returncode == 6


def test_an_images_size_is_given_on_the_command_line(tmp_path: Path) -> None:
    entry = write(tmp_path / "entry", IMAGE, "image-classification")
    assert run(entry, "--print").returncode == 4
    axes = [
        part
        for name, length in (("num_channels", 3), ("height", 64), ("width", 64))
        for part in ("--axis", f"{name}={length},{length},{length}")
    ]
    done = run(entry, "--print", *axes)
    assert done.returncode == 0 and "pixel_values:8x3x64x64" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["x"], ["x", "--print", "--max-batch", "0"], ["x", "--print", "--axis", "height=3"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2


class StandIn:
    """TensorRT 10's Python interface as `_build` uses it; it records what it is told."""

    class Logger:
        WARNING = 1

        def __init__(self, level: int) -> None:
            pass

    class NetworkDefinitionCreationFlag:
        STRONGLY_TYPED = 3

    class BuilderFlag:
        TF32 = "tf32"

    def __init__(self, *, is_readable: bool = True, plan: bytes | None = b"plan") -> None:
        told: list[Any] = []
        self.told = told

        class Profile:
            def set_shape(self, *shape: Any) -> None:
                told.append(("shape", *shape))

        class Config:
            def clear_flag(self, flag: str) -> None:
                told.append(("cleared", flag))

            def add_optimization_profile(self, profile: Profile) -> None:
                told.append(("profile",))

        class Builder:
            def __init__(self, logger: Any) -> None:
                pass

            def create_network(self, flags: int) -> str:
                told.append(("network", flags))
                return "network"

            def create_builder_config(self) -> Config:
                return Config()

            def create_optimization_profile(self) -> Profile:
                return Profile()

            def build_serialized_network(self, network: str, config: Config) -> bytes | None:
                return plan

        class OnnxParser:
            num_errors = 1

            def __init__(self, network: str, logger: Any) -> None:
                pass

            def parse_from_file(self, path: str) -> bool:
                return is_readable

            def get_error(self, number: int) -> str:
                return "no importer for Foo"

        self.Builder, self.OnnxParser = Builder, OnnxParser


def test_the_package_is_told_the_same_as_the_command(tmp_path: Path) -> None:
    tensorrt = StandIn()
    _build(tensorrt, Path("model.onnx"), profiles_of(TEXT, 4), tmp_path / "model.plan")
    assert (tmp_path / "model.plan").read_bytes() == b"plan"
    assert tensorrt.told == [
        ("network", 8),
        ("cleared", "tf32"),
        ("shape", "input_ids", (1, 1), (2, 64), (4, 64)),
        ("shape", "attention_mask", (1, 1), (2, 64), (4, 64)),
        ("profile",),
    ]


@pytest.mark.parametrize(("faults", "reason"), [({"is_readable": False}, "no importer for Foo"), ({"plan": None}, "no engine")])
def test_a_package_that_cannot_build_leaves_nothing(tmp_path: Path, faults: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConversionFailed, match=reason):
        _build(StandIn(**faults), Path("model.onnx"), profiles_of(TEXT, 4), tmp_path / "model.plan")
    assert list(tmp_path.iterdir()) == []
