"""Every poisoned folder is refused by the scan, before any loader is even imported."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from converters.errors import ModelRefused
from converters.locate import Located, locate
from converters.pipeline import convert
from converters.source import stage
from tests.converters import poisons, sources


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


def test_the_sound_folder_that_poisons_are_made_from_is_accepted(tmp_path: Path) -> None:
    folder = sources.sound(tmp_path / "model.sound")
    staged = stage(Located(folder, "model.sound", None), tmp_path / "staged")
    assert (staged.model_type, staged.architectures, staged.licence) == ("gpt2", ("GPT2LMHeadModel",), "mit")
    assert sorted(staged.files) == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


def test_the_canary_works(canary: Path) -> None:
    import pickle

    pickle.loads(pickle.dumps(sources.Canary(canary)))  # noqa: S301 -- ours: it shows that an opened pickle would be seen
    assert canary.exists()


@pytest.mark.parametrize("fault", poisons.POISONS)
def test_a_poisoned_folder_is_refused(fault: str, tmp_path: Path, canary: Path) -> None:
    make, named = poisons.POISONS[fault]
    folder = sources.sound(tmp_path / f"model.{fault}")
    make(folder, canary)
    with pytest.raises(ModelRefused, match=re.compile(named, re.IGNORECASE)) as refusal:
        stage(Located(folder, folder.name, None), tmp_path / "staged")
    assert not canary.exists(), f"{fault}: something opened the file"
    assert str(tmp_path) not in str(refusal.value), "a refusal names the file in the model, not this machine's path"


def test_a_refused_model_leaves_nothing_and_never_imports_a_loader(tmp_path: Path, canary: Path) -> None:
    folder = sources.sound(tmp_path / "model.pickle")
    poisons.POISONS["pickle-weights-only"][0](folder, canary)
    out = tmp_path / "out"
    program = (
        "import sys\n"
        "from pathlib import Path\nfrom converters.errors import ModelRefused\nfrom converters.pipeline import convert\n"
        f"try:\n    convert({str(folder)!r}, Path({str(out)!r}))\nexcept ModelRefused:\n"
        "    print(sorted({'torch', 'transformers', 'optimum', 'onnxruntime'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
    assert list(out.iterdir()) == [] and not canary.exists()


def test_a_file_swapped_after_the_scan_is_not_what_is_loaded(tmp_path: Path) -> None:
    folder = sources.sound(tmp_path / "model")
    staged = stage(Located(folder, "model", None), tmp_path / "staged")
    sources.put(folder, "model.safetensors", b"swapped")
    assert (staged.folder / "model.safetensors").read_bytes() == sources.safetensors()


def test_hidden_folders_are_never_entered(tmp_path: Path, canary: Path) -> None:
    folder = sources.sound(tmp_path / "model")
    sources.put(folder, ".git/objects/pack.bin", b"x")
    (folder / ".git" / "link").symlink_to("/etc/passwd")
    assert not any(name.startswith(".") for name in stage(Located(folder, "model", None), tmp_path / "staged").files)


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("nobody/model", "pinned to a commit"),
        ("nobody/model@main", "pinned to a commit"),
        ("nobody/model@v1.0", "pinned to a commit"),
        ("nobody/model@abc123", "pinned to a commit"),
        ("nobody/model@" + "A" * 40, "pinned to a commit"),
        ("no-such-folder", "expected a folder"),
        ("../../etc", "expected a folder"),
        ("https://example.org/model", "expected a folder"),
        ("a/b/c", "expected a folder"),
        ("a/..", "expected a folder"),
        ("", "expected a folder"),
    ],
)
def test_a_hub_id_without_a_full_commit_is_refused(model: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match=named):
        locate(model, None, tmp_path / "cache")


def test_two_revisions_at_once_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="one revision"):
        locate("nobody/model@" + "a" * 40, "b" * 40, tmp_path)


def test_an_unknown_task_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"text-generation, .*question-answering"):
        convert("anything", tmp_path / "out", task="mind-reading")


@pytest.mark.parametrize("name", ["", "../up", "a b", "-x", "x" * 97, "a/b"])
def test_a_name_that_is_no_plain_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="name"):
        convert("anything", tmp_path / "out", name=name)
