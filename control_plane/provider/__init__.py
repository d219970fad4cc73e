"""What Ocean's Provider and Aquarius know and decide; `web` speaks HTTP for it, `chain` reads the chain for it."""
