"""How results come out: whole files and folders or none, and progress bars."""
