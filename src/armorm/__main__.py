"""``python -m armorm``, for launchers that start a module in several processes."""

from armorm.cli import main

main()
