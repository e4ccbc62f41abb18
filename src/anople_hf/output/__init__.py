"""Output: files and folders that appear complete or not at all, and progress bars."""
