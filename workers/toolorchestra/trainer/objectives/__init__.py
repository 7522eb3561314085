"""One objective per file, named in the resource: each applies one correction, so that none is applied twice."""
