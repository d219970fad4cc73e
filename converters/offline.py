"""No network from here on.

In: nothing. Out: the hub's libraries switched off. This module must never be undone: a process that has been offline stays offline.
"""

from __future__ import annotations

import os
import sys

from converters.child import OFFLINE, QUIET


def go_offline() -> None:
    """Make the hub's libraries refuse every connection, in this process and its children. Again: nothing more happens."""
    os.environ.update({**OFFLINE, **QUIET})
    # They read the environment once, at import; whoever imported them before us (huggingface-hub 0.36, transformers 4.57).
    for module, name in (("huggingface_hub.constants", "HF_HUB_OFFLINE"), ("transformers.utils.hub", "_is_offline_mode")):
        if module in sys.modules:
            setattr(sys.modules[module], name, True)
