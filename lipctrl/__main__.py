"""`python -m lipctrl` is the `lipctrl` command."""

from lipctrl.cli import main

main()
