"""What knows nothing of models: files, the hub, words, logs."""
