"""How plain values look: terminal tables, progress bars and figures. Knows no room but `files`."""
