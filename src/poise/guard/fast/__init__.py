"""The fast path: a trained guard as an ONNX file, judged without torch, and the engine chosen by measurement.

`guard` serves an exported folder with ONNX Runtime, tokenizers and numpy alone; `export` writes and checks one;
`bench` measures engines; `opening` opens whichever kind of folder it is given.
"""
