"""All tests of the project, and the simulated plant they talk to."""
