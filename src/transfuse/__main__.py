"""`python -m transfuse`: the command line."""

from transfuse.cli import main

if __name__ == "__main__":
    main()
