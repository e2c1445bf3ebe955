"""The command `vision`: every stage under one name. See `vision/command.py`."""

from vision.command import main

if __name__ == "__main__":
    main()
