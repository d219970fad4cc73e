"""The embedded stack: every component a real one, on this machine, under one supervisor."""
