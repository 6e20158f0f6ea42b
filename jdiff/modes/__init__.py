"""The command's modes, one a file; main.py imports the one that is asked for."""
