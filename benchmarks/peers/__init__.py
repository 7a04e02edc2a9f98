"""Other tools on the same files: each in a virtual environment and a process of its own, driven over pipes."""
