"""`python -m dashtop`."""

from dashtop.cli import main

if __name__ == "__main__":
    main()
