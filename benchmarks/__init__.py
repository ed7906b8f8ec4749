"""How fast it is, next to what is possible and to what others do."""
