"""`python -m onnx_lsuv` is the same as `onnx-lsuv`."""

from onnx_lsuv.cli import main

if __name__ == "__main__":
    main()
