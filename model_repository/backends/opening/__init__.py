"""What both backends need of an entry: its details, its tokenizer, its graph, and how a call is refused. Not a backend itself."""
