"""Machines of EC2."""
