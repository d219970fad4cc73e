"""Runs jobs, and keeps objects in S3."""
