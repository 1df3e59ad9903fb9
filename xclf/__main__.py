"""python -m xclf"""

from xclf.cli import main

if __name__ == "__main__":
    main()
