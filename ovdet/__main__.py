"""`python -m ovdet` is the console command `ovdet`."""

from ovdet.cli.main import main

if __name__ == "__main__":  # not in processes that start from it anew
    main()
