"""The demo: a tiny model of our own, and the story that publishes, sells, calls and verifies it."""
