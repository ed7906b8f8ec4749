BOUNDS: dict[str, int]
