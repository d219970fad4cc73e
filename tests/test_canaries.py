"""The search for secrets finds them in whatever form a log gives them; or a clean search would mean nothing."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.canaries import Canaries

SECRET = 'Zyx7Canary with "quotes" & café'


@pytest.mark.parametrize("before", ["", "a", "ab", "abc"])
@pytest.mark.parametrize(
    "written",
    [
        lambda text: text.encode(),
        lambda text: json.dumps({"prompt": text}).encode(),
        lambda text: quote(text).encode(),
        lambda text: text.encode().hex().encode(),
        lambda text: b64encode(text.encode()),
        lambda text: urlsafe_b64encode(text.encode()).rstrip(b"="),
        lambda text: b64encode(json.dumps(text, ensure_ascii=False).encode()),
    ],
    ids=["as it is", "JSON", "URL", "hex", "base64", "base64url", "base64 of JSON"],
)
def test_a_secret_is_found_in_every_form(written: object, before: str) -> None:
    plain = "Zyx7Canary4Qv-secret"
    canaries = Canaries("Zyx7Canary4Qv", {"secret": plain})
    content = b"{...}" + written(before + plain + " and more") + b"..."  # type: ignore[operator]
    assert [found.name for found in canaries.found_in(content, "a log")] == ["a marked text"]


def test_a_file_with_a_secret_is_named_also_when_only_its_name_holds_it(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "web.log").write_text(f"prompt={SECRET}")
    (tmp_path / f"{SECRET}.png").write_bytes(b"")
    (tmp_path / "keys").write_text(SECRET)
    (tmp_path / "clean").write_text("nothing")
    canaries = Canaries("no such marker here", {"prompt": SECRET})
    found, read = canaries.found_below(tmp_path, lambda path: path == Path("keys"))
    assert sorted(each.where for each in found) == [f"{SECRET}.png", "logs/web.log"]
    assert set(read) == {"logs/web.log", f"{SECRET}.png", "clean"}
