"""One module per group of subcommands; each is thin and calls a flow."""
