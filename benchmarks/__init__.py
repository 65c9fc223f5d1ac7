"""Measurements anyone can repeat: each prints ratios against a plain baseline of the same run."""
