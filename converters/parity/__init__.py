"""Does an entry give PyTorch's answers? One module for what is compared, one for how."""
