"""One module per model family: how it predicts, learns, is written, read and named by a digest."""
