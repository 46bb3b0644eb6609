"""The name of the version that is no checkpoint: the weights inside the export itself."""

EXPORT = "export"
