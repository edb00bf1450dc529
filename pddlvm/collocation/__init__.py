"""Problems in strong form: the residual is taken at points, and no mesh is needed."""
