"""The command ``richkd``, and ``python -m richkd``, which launchers of several processes need."""

from richkd.core.huge_pages import restart_with_huge_pages


def main() -> None:
    """Run the command line, with huge pages where there are any."""
    restart_with_huge_pages()
    # Imported by the process that does the work only.
    from richkd.cli import main as run

    run()


if __name__ == "__main__":
    main()
