"""The command line: main.py and one file per command. Each command imports its room when it runs, so `--help` loads no torch."""
