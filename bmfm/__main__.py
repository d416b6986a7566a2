"""``python -m bmfm COMMAND``: the command ``bmfm`` where its script is not on the path."""

from bmfm.console import main

if __name__ == "__main__":
    main()
