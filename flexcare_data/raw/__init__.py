"""Everything that opens a PhysioNet file."""
