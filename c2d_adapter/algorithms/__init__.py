"""Programs that run beside a private model: they import nothing of ours but `c2d_adapter.job_io` and each other."""
