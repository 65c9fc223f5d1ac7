"""One attempt of a run: where it begins, what happens at its edges, what it keeps, how it ends."""
