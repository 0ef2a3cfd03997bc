"""The steps of a run, compiled for devices that are not there."""
