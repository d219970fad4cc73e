"""A graph without a cache: every step reads the whole text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from generate.decode import Decoder
from opening.entry import open_entry
from tests.model_repository.calls import call_of


@pytest.mark.slow
def test_a_text_read_in_steps_gives_what_it_gives_at_once(tmp_path: Path) -> None:
    import torch
    import transformers

    from converters.pipeline import convert
    from tests.converters.tiny_models import write_tokenizer

    torch.manual_seed(0)
    config = transformers.RwkvConfig(
        vocab_size=320,
        hidden_size=32,
        attention_hidden_size=32,
        num_hidden_layers=2,
        context_length=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=1,
    )
    model = transformers.RwkvForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    decoder = Decoder(open_entry(convert(str(tmp_path / "model"), tmp_path / "out").folder))
    assert decoder.past_names == ()
    tokens = [7, 9, 40, 300, 12]
    with torch.inference_mode():
        expected = model(torch.tensor([tokens])).logits[0].numpy()
    reading, first = decoder.begin(call_of(tokens[:2]))
    decoder.begin(call_of(tokens[1:]))  # another sequence, which the first must not see
    found = [first, *(reading.read(tokens[place : place + 1]) for place in range(2, len(tokens)))]
    assert reading.length == len(tokens)
    assert np.allclose(np.stack(found), expected[1:], atol=1e-4)
    with pytest.raises(ValueError, match="the context holds 64 tokens, asked to read 65"):
        reading.read([5] * 60)
