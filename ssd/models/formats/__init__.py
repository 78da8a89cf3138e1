"""Weight files of other toolkits: a module per source, each `read(path, network) -> WeightFile`."""
