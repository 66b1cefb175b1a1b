"""`python -m cnncc` equals `cnncc`."""

from cnncc.cli import main

main()
