"""``python -m terraprompt``: the command line."""

from terraprompt.cli import main

if __name__ == "__main__":
    main()
