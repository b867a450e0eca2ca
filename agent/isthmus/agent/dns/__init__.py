"""Names: the mesh's are answered here, all others are asked of the servers that the machine had before."""
