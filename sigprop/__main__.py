"""`python -m sigprop` is the command `sigprop`."""

from sigprop.cli import main

if __name__ == "__main__":
    main()
