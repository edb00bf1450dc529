"""Problems in time on meshes: schemes of time steps, and reference solutions."""
