"""Writes what the last layer of a trained network sees of pictures: features, for search, maps and verification.

    python -m cnn_jax.embed --checkpoint=runs/mine faces --output=faces.npz

The file has the arrays features, float32 [N, F], files [N], source, and labels [N] where pictures lie in folders below
the one that is named: FOLDER/LABEL/a.png.
"""

if __name__ == "__main__":
    from pathlib import Path

    from absl import flags

    from cnn_jax.config import commandline
    from cnn_jax.core.errors import check
    from cnn_jax.pretrained import inference

    inference.define_flags()
    flags.adopt_module_key_flags(inference)  # --help shows them
    _OUTPUT = flags.DEFINE_string("output", "features.npz", "File to write.")
    _PIXELS = flags.DEFINE_bool("pixels", False, "The values that the network is given in place of its features.")

    def start(words: list[str]) -> int:
        """Runs what the command line says."""
        check(bool(words), "name the pictures: files, folders, or patterns such as 'photos/*.jpg'")
        path = Path(_OUTPUT.value)
        inference.check_output(path, "--output", ".npz")
        embedded = inference.embed(inference.network(), words, inference.reading(), pixels=_PIXELS.value)
        inference.write_features(path, embedded)
        count, size = embedded.features.shape
        labels = {label for label in embedded.labels if label}
        print(f"{path}: {size} features of {count:,} pictures" + (f" with {len(labels)} labels" if labels else ""))
        return embedded.exit_code

    commandline.launch(start, operands=True)
