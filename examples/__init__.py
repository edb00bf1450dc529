"""Runnable examples, one script per problem."""
