"""The isthmus command."""


def main() -> None:
    """Run the command line."""
