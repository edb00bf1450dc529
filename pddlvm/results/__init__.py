"""Results for other programs: VTU files, and both maps as graphs."""
