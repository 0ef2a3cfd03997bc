"""The steps of a run, compiled for devices that this machine does not have."""
