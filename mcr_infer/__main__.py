"""`python -m mcr_infer` is `mcr-infer`."""

from mcr_infer.cli import main

if __name__ == "__main__":
    main()
