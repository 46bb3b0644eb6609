"""The only place that reads SavedModels and checkpoints. Everything here blocks: it runs in the control lane."""
