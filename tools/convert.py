"""`ovdet convert` as a script, beside the others."""

from ovdet.cli.main import run_tool

if __name__ == "__main__":
    run_tool("convert")
