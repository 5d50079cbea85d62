"""`ovdet teacher` as a script."""

from ovdet.cli.main import run_tool

if __name__ == "__main__":
    run_tool("teacher")
