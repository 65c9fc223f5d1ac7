"""Runs on your machine: ask for a run, follow it, bring home what came out."""
