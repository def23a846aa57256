"""How the processes of a run find each other, on any device and by any launcher."""
