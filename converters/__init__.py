"""From a Hugging Face model to a Triton entry. Holds no key, no wallet, no network code and no web code."""
