"""Run folders: a training on disk, with all that it takes to go on with it or to use it."""
