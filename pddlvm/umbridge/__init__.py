"""Maps for the programs of others, and maps of others, by the protocol UM-Bridge."""
