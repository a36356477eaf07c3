"""`python -m regraft` is the command `regraft`."""

from regraft.cli.start import entry

if __name__ == "__main__":
    entry()
