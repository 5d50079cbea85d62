"""`ovdet average` by its name of old."""

from ovdet.cli.main import run_tool

if __name__ == "__main__":
    run_tool("average")
