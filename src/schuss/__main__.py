"""`python -m schuss`: the command line, where the script `schuss` is not on the path."""

from schuss.cli import main

if __name__ == "__main__":
    main()
