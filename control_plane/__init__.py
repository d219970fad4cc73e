"""The market, the gate and the log."""
